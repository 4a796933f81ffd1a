"""Every test and file that the page of the audit names is there."""

from __future__ import annotations

import re

from tests.docs.shown import REPOSITORY

PAGE = (REPOSITORY / "docs" / "gpu-audit.md").read_text(encoding="utf-8")
WITHOUT_FOLDER = "tests/test_cuda_stand_ins.py"


def test_the_tests_that_the_page_names_exist() -> None:
    rows = re.findall(r"^\| (\d+) \|.*?\|(.*?)\|", PAGE, re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 22))
    for _, cell in rows:
        for part in cell.split(";"):
            files = re.findall(r"`(tests/[\w/]+\.py)`", part) or [WITHOUT_FOLDER]
            source = "".join((REPOSITORY / file).read_text(encoding="utf-8") for file in files)
            for name in re.findall(r"`(test_\w+)`", part):
                assert f"def {name}(" in source, name


def test_the_page_says_that_nothing_ran_on_a_gpu() -> None:
    assert "**Nothing on this page ran on one.**" in PAGE
