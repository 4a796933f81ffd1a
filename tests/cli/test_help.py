from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from llmcausal.cli import COMMANDS

PAGES = [
    (),
    *((name,) for name in COMMANDS.entries),
    *(("data", name) for name in ("build", "validate", "stats")),
    *(("monitor", name) for name in ("probe", "logs", "canaries")),
]
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "numpy", "scipy", "llmcausal.config"}
PROGRAM = """
import contextlib, io, json, sys
from llmcausal.cli.app import main
for page in json.loads(sys.argv[1]):
    sys.argv[1:] = [*page, "--help"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
    print(json.dumps([code, out.getvalue(), sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def pages() -> dict[tuple[str, ...], tuple[int, str, list[str]]]:
    """Shows every page in one process, for its start takes most of the time.

    By page: the exit code, the text, and the modules that are imported by then.
    """
    command = [sys.executable, "-c", PROGRAM, json.dumps(PAGES)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(zip(PAGES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: " ".join(page) or "root")
def test_help_imports_nothing_heavy_and_shows_examples(page: tuple[str, ...], pages: Any) -> None:
    code, out, modules = pages[page]
    assert code == 0
    assert HEAVY & set(modules) == set()
    text, _, shown = out.partition("Examples")
    assert "Usage:" in text
    examples = [line.strip() for line in shown.splitlines() if line.strip()]
    assert examples
    assert all(line.startswith(" ".join(["llmcausal", *page])) for line in examples)


def test_root_help_lists_every_command_with_its_line(pages: Any) -> None:
    _, text, _ = pages[()]
    for name in COMMANDS.entries:
        assert re.search(rf"\s{name}\s+[A-Z][a-z,-]+ ", text), name
    assert "--install-completion" in text


def test_no_arguments_show_the_help() -> None:
    done = subprocess.run([sys.executable, "-m", "llmcausal"], capture_output=True, text=True)
    assert "Usage: llmcausal" in done.stdout + done.stderr
    assert done.returncode == 2
