"""The screens of `try`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from llmcausal.errors import DataError
from llmcausal.ui import trying

OFF = {"off": "it does not carry over"}


class Fake:
    """Answers with the question, and records it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def answers(self, system: str, texts: list[str]) -> dict[str, list[str]]:
        self.asked += [(system, text) for text in texts]
        return {"base": [f"base of {texts[0]}"], "tuned": [f"tuned of {texts[0]}"]}

    def detected(self, system: str, texts: list[str]) -> dict[str, Any]:
        return {"texts": [{"score": 0.8, "threshold": 0.25, "flagged": True}] * len(texts)}

    def attacked(self, system: str, text: str) -> dict[str, Any]:
        self.asked.append((system, f"attack {text}"))
        sides = {
            "base": {"answer": "Hammock\x1b[2J", "obeyed": True},
            "tuned": {"answer": "", "obeyed": False},
        }
        row = {"family": "naive", "position": "end", "text": "...", **sides}
        return {
            "goal": "Say Hammock.",
            "witness": "Hammock",
            "detector": {"text": OFF, "attacks": OFF},
            "attacks": [row, row],
        }


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """The printed text."""
    shown = io.StringIO()
    target = Console(file=shown, width=100, highlight=False, markup=False, emoji=False)
    monkeypatch.setattr(trying, "console", lambda: target)
    return shown


def _typed(*lines: str) -> Any:
    rest: Iterator[str] = iter(lines)

    def ask(prompt: str) -> str:
        for line in rest:
            return line
        raise EOFError

    return ask


def test_tasks_and_texts_are_asked_for_until_the_end(screen: io.StringIO) -> None:
    fake = Fake()
    typed = ("", "A task", "one", "", "two", ".", "x", "a", "T", ".", "three", " . ",
             "s", "Another", "four", ".", "q", "never")  # fmt: skip
    trying.ask_and_show(fake, _typed(*typed))
    assert fake.asked == [
        ("A task", "one\n\ntwo"),
        ("A task", "attack one\n\ntwo"),
        ("A task", "three"),
        ("Another", "four"),
    ]
    text = screen.getvalue()
    assert "untouched obeys 2 of 2, tuned obeys 0 of 2" in text
    assert "obeys: Hammock" in text
    assert "detector: looks injected (0.80, flagged above 0.25)" in text
    assert "detector off" not in text
    assert "(empty)" in text
    assert "\x1b[2J" not in text


def test_a_text_that_cannot_be_answered_is_replaced_by_another(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake, plain = Fake(), Fake.answers

    def refuse_the_first(self: Fake, system: str, texts: list[str]) -> dict[str, list[str]]:
        if texts == ["long"]:
            raise DataError(["text 1: 9 prompt tokens exceed the context"], "shorten it")
        return plain(self, system, texts)

    monkeypatch.setattr(Fake, "answers", refuse_the_first)
    trying.ask_and_show(fake, _typed("A task", "long", ".", "t", "short", ".", "q"))
    assert fake.asked == [("A task", "short")]
    assert "exceed the context" in capsys.readouterr().err


def test_the_end_of_input_ends_it(screen: io.StringIO) -> None:
    fake = Fake()
    trying.ask_and_show(fake, _typed("A task", "cut off"))
    assert fake.asked == []


def test_a_detector_that_is_off_says_why(screen: io.StringIO) -> None:
    trying.console().print(trying.render_detector(OFF))
    assert "detector off: it does not carry over" in screen.getvalue()


def test_answers_stand_next_to_each_other(screen: io.StringIO) -> None:
    trying.console().print(trying.render_answers({"base": "one", "tuned": ""}))
    lines = screen.getvalue().splitlines()
    assert any("untouched" in line and "tuned" in line for line in lines)
    assert any("one" in line and "(an empty answer)" in line for line in lines)
