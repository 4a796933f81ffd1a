from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llmcausal.errors import StorageError
from llmcausal.evaluation.summary import caveats
from llmcausal.ui.report import RunFiles, write_report

Values = dict[str, Any]


class Text(HTMLParser):
    """The text of a page, without its style."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._skip = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._skip = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.parts.append(data)


def text_of(page: str) -> str:
    parser = Text()
    parser.feed(page)
    return " ".join(" ".join(parser.parts).split())


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., str]:
    def make(result: Values | None, **keywords: Any) -> str:
        run = RunFiles(result, **keywords)
        out = write_report(run, tmp_path / "report.html", title="demo")
        return out.read_text("utf-8")

    return make


def test_the_page_says_what_was_measured(
    report: Callable[..., str], result: Values, metrics_rows: list[Values]
) -> None:
    page = report(result, metrics_rows=metrics_rows)
    text = text_of(page)
    rate = result["tuned"]["attack_success_rate"]
    obeyed = round(rate["value"] * rate["n"])
    assert f"Of {rate['n']} attacked prompts, the base model obeyed" in text
    assert f"the tuned model {obeyed}." in text
    for heading in (
        *("Result", "By attack", "Adaptive attack", "Representations", "Training", "Left out"),
        *("Attack family", "Where the attack is", "Kind of task", "Detection AUROC"),
        *("Perplexity of right answers", "Attack success, strict", "McNemar p"),
        *("learning rate", "memory in use", "payload_splitting", "the family, in other phrasings"),
        "2103 prompt tokens and 48 new ones exceed the model's context of 2048",
    ):
        assert heading in text
    assert "llmcausal eval --checkpoint runs/demo-cpu/best" in text
    assert page.count("<svg") == page.count("</svg>") + len(re.findall(r"<svg[^>]*/>", page))


def test_equal_input_gives_equal_bytes(
    report: Callable[..., str], result: Values, metrics_rows: list[Values]
) -> None:
    assert report(result, metrics_rows=metrics_rows) == report(result, metrics_rows=metrics_rows)


def test_600_generations_make_a_modest_page(
    report: Callable[..., str], big_result: Callable[[], Values], metrics_rows: list[Values]
) -> None:
    page = report(big_result(), metrics_rows=metrics_rows * 20)
    assert page.count('<article class="example">') <= 30 + 8  # and those of the adaptive attack
    assert len(page.encode()) < 600_000


def test_before_the_first_evaluation_the_training_is_shown(
    report: Callable[..., str], metrics_rows: list[Values]
) -> None:
    text = text_of(report(None, metrics_rows=metrics_rows, notes=["results.json is not there."]))
    assert "Nothing has been evaluated yet." in text
    assert "logged up to step 90" in text
    assert "results.json is not there." in text
    assert "By attack" not in text


def test_nothing_at_all_is_still_a_page(report: Callable[..., str]) -> None:
    assert "command, settings and environment are unknown" in text_of(report(None))


def test_without_a_baseline_the_tuned_model_stands_alone(
    report: Callable[..., str], result: Values
) -> None:
    result |= {"base": None, "difference": None, "representations": {}, "adaptive": None}
    result["caveats"] = caveats(result)
    for row in result["generations"]:
        row |= {"base_answer": None, "base_obeyed": None, "base_right": None, "base_stopped": None}
    text = text_of(report(result))
    assert "The tuned model obeyed" in text
    assert "base model" not in text
    assert "no adaptive attack was run" in text


def test_another_checkpoint_in_place_of_the_base_is_called_by_its_name(
    report: Callable[..., str], result: Values
) -> None:
    result["base"]["name"] = "runs/task-only/best"
    result["notes"] = ["on 60 of 90 triplets"]
    text = text_of(report(result))
    assert "attacked prompts, runs/task-only/best obeyed" in text
    assert "on 60 of 90 triplets" in text
    assert "base model" not in text.lower()


def test_the_adaptive_attack_shows_what_it_found_against_the_tuned_model_first(
    report: Callable[..., str], result: Values
) -> None:
    text = text_of(report(result))
    section = text[text.index("A search with access") : text.index("How the model represents")]
    assert "35.0%" in section
    assert "90.0%" in section
    assert "queries a prompt, tuned 2650" in section
    assert section.index("obeyed: yes") < section.index("obeyed: no")
    assert "against: base" not in section


def test_a_worse_model_is_called_worse(report: Callable[..., str], result: Values) -> None:
    result["difference"]["attack_success_rate"] |= {"value": 0.2, "p_value": 0.001}
    result["difference"]["utility"] |= {"value": -0.015, "p_value": 0.4}
    text = text_of(report(result))
    assert "Attack success rose by 20.0 points, more than chance explains (p = 0.001)." in text
    assert "fell by 1.5 points, which chance could explain (p = 0.4)." in text


def test_what_was_not_measured_is_not_claimed(report: Callable[..., str], result: Values) -> None:
    nothing = {"value": None, "n": 0, "low": None, "high": None}
    result["tuned"]["attack_success_rate"] = nothing
    text = text_of(report(result))
    assert "No attack in this suite could be checked" in text


def test_a_step_with_a_figure_that_is_not_finite_is_named(report: Callable[..., str]) -> None:
    rows = [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": None, "non_finite": {"loss": "nan"}},
        {"step": 3, "loss": 0.9},
    ]
    assert "step 2: loss" in text_of(report(None, metrics_rows=rows))


def test_a_full_disk_leaves_the_old_report(
    report: Callable[..., str],
    result: Values,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = report(result)

    def full(path: Path, chunks: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmcausal.ui.report.page.replace_file", full)
    with pytest.raises(StorageError, match=r"report\.html: .*No space left on device"):
        report(None)
    assert (tmp_path / "report.html").read_text("utf-8") == before
