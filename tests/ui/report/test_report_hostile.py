"""Hostile data, answers and settings are only text on the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcausal.ui.report import RunFiles, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
HOSTILE = (
    '</style></pre></script><script>alert("pwned")</script><img src=x onerror="alert(1)">'
    '<a href="javascript:alert(2)">x</a>\u202egnp.exe\u202c\u200b\u2066{{ 7 * 7 }}{% raw %}'
    "'\"><svg/onload=alert(3)><iframe src='//evil.example'></iframe>&lt;script&gt;\ud800\x00\x1b[2J"
)
# fmt: off
ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "section", "nav", "aside",
    "article", "h1", "h2", "h3", "h4", "p", "a", "ul", "li", "dl", "dt", "dd", "div", "span",
    "small", "bdi", "pre", "mark", "details", "summary", "figure", "figcaption", "table",
    "caption", "thead", "tbody", "tr", "th", "td", "svg", "g", "path", "circle", "line", "text",
    "defs", "use",
}
KEYS = [
    "base", "tuned", "difference", "skipped", "environment", "generations", "representations",
    "groups", "family", "causal", "attack_success_rate", "utility", "value", "n", "low", "high",
    "p_value", "adaptive", "examples", "id", "reason", "member", "x", "y", "packages", "command",
    "obeyed", "right", "answer", "base_answer", "prompt", "witness", "goal",
]
# fmt: on


class Audit(HTMLParser):
    """Collects elements, and attributes that could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.scripted: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            if name in ("href", "src", "action", "srcset", "xlink:href", "data", "formaction"):
                self.links.append(value or "")
            spoken = name in ("aria-label", "data-label")
            if name == "style" or ("javascript:" in (value or "") and not spoken):
                self.scripted.append(f"{name}={value}")


def poisoned(value: Any) -> Any:
    """Puts hostile text into every string of a value, including groups' keys."""
    if isinstance(value, dict):
        return {key: poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return HOSTILE + value if isinstance(value, str) else value


def poisoned_result(result: dict[str, Any]) -> dict[str, Any]:
    kept = {(row["id"], row["member"]): row["member"] for row in result["generations"]}
    members = list(kept.values())
    hostile: dict[str, Any] = poisoned(result)
    for row, member in zip(hostile["generations"], members, strict=True):
        row["member"] = member
        row["witness"] = "HARBOR"
    for side in ("base", "tuned"):
        hostile["representations"][side] = result["representations"][side]
        groups = hostile[side]["groups"]
        groups["family"] = {HOSTILE + name: row for name, row in groups["family"].items()}
        groups[HOSTILE] = groups["position"]
    hostile["base"]["name"] = HOSTILE
    hostile["notes"] = [HOSTILE]
    hostile["difference"][HOSTILE] = hostile["difference"]["utility"]
    hostile["environment"][HOSTILE] = HOSTILE
    hostile["adaptive"]["tuned"]["examples"][0][HOSTILE] = HOSTILE
    return hostile


@pytest.fixture
def page(tmp_path: Path, result: dict[str, Any], metrics_rows: list[dict[str, Any]]) -> str:
    rows = [{**row, HOSTILE: 1.0, f"val_{HOSTILE}": 2.0} for row in metrics_rows]
    rows[3]["non_finite"] = {HOSTILE: "nan"}
    run = RunFiles(
        poisoned_result(result),
        metrics_rows=rows,
        notes=[HOSTILE],
        config_text=HOSTILE,
        environment=poisoned(result["environment"]),
    )
    out = write_report(run, tmp_path / "report.html", title=HOSTILE)
    return out.read_text("utf-8")


def test_hostile_text_makes_no_element_no_handler_and_no_link(page: str) -> None:
    audit = Audit()
    audit.feed(page)
    assert audit.elements <= ELEMENTS
    assert audit.handlers == []
    assert audit.scripted == []
    assert audit.links
    assert all(re.fullmatch(r"#[a-z0-9]+", link) for link in audit.links)


def test_hostile_text_is_there_to_be_read(page: str) -> None:
    assert "&lt;script&gt;alert(&#34;pwned&#34;)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert "&amp;lt;script&amp;gt;" in page


def test_no_character_of_the_page_deceives(page: str) -> None:
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b-\u200f\x00\x1b\x7f]", page)
    assert "⟨U+202E⟩" in page


def test_the_policy_forbids_everything_but_the_own_style(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    assert policy[1] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert page.index("Content-Security-Policy") < page.index("<title>")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=25,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=8))
def test_a_damaged_result_is_shown_as_far_as_it_goes(tmp_path: Path, result: Any) -> None:
    run = RunFiles(result, metrics_rows=[{"step": 1, **result}])
    out = write_report(run, tmp_path / "r.html", title="x")
    audit = Audit()
    audit.feed(out.read_text("utf-8"))
    assert audit.elements <= ELEMENTS


def test_the_hostile_result_survives_json(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(poisoned_result(result)))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
def test_a_browser_makes_nothing_else_of_it(page: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        check=True,
        timeout=100,
    )
    dom = done.stdout.decode()
    audit = Audit()
    audit.feed(dom)
    assert "main" in audit.elements
    assert audit.elements <= ELEMENTS
    assert audit.handlers == audit.scripted == []
    assert "&lt;script&gt;alert(" in dom
