"""The site builds without a warning, and asks nothing of any other server when it is read."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.shown import REPOSITORY

pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
LOADED = {"src", "srcset", "data"}


class Requests(HTMLParser):
    """Collects the addresses that a browser asks for by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in LOADED or (tag == "link" and name == "href"):
                self.addresses.append(value or "")


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    # Not with -q: warnings that are not shown are not counted either.
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", out],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(REPOSITORY / "mkdocs.yml", out)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_there(site: Path) -> None:
    pages = {path.stem for path in (REPOSITORY / "docs").glob("*.md")}
    assert {path.stem for path in site.glob("*.html")} == pages | {"404"}
    assert not list(site.glob("*.py"))
    assert (site / "config.schema.json").is_file()


def test_nothing_is_asked_of_another_server(site: Path) -> None:
    for page in site.glob("*.html"):
        requests = Requests()
        requests.feed(page.read_text(encoding="utf-8"))
        assert len(requests.addresses) > 3
        assert [a for a in requests.addresses if re.match(r"(https?:)?//", a)] == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    config = tmp_path / "mkdocs.yml"
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    config.write_text(text.partition("\nnav:")[0], encoding="utf-8")
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "index.md"
    page.write_text("# A\n[b](#a)\n[c](missing.md)\n[d](#nowhere)\n", encoding="utf-8")
    done = build(config, tmp_path / "site")
    assert done.returncode == 1
    assert "'missing.md'" in done.stderr
    assert "'#nowhere'" in done.stderr
    assert "'#a'" not in done.stderr
