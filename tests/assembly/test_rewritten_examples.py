from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmcausal.assembly import answering
from llmcausal.assembly.prepare import load_template
from llmcausal.config import RunConfig
from llmcausal.data.sources.builder import BuildOptions
from llmcausal.data.sources.example import LeftOut, SourceExample
from llmcausal.errors import DataError
from llmcausal.evaluation.generation import Answer


def example(number: int, document: str = "The parcel came on Monday.") -> SourceExample:
    return SourceExample(f"f:{number}", f"f-{number}", "Answer.", document, "When?", "Monday")


def rewrite(config: RunConfig, *arguments: Any) -> dict[str, str]:
    return answering.rewritten_examples(config, load_template(config.model), *arguments)


def test_what_a_model_babbles_is_left_out(tiny_config: Callable[..., RunConfig]) -> None:
    """The real model of random weights: it does not come to an end, or says something else."""
    left_out = LeftOut()
    with pytest.raises(DataError, match="none of its rewritings is sound"):
        rewrite(tiny_config(), [example(1)], BuildOptions(), left_out)
    assert left_out.total == 1


def test_sound_rewritings_by_example_and_the_rest_named(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def answer(_answering: Any, prompts: Sequence[tuple[str, str]], **_: Any) -> Any:
        asked.extend(prompts)
        return [Answer("On Monday the parcel arrived.", True), Answer("It", True)]

    monkeypatch.setattr(answering, "answer_prompts", answer)
    left_out = LeftOut()
    examples = [example(1), example(2, "word " * 4000), example(3)]
    found = rewrite(tiny_config(), examples, BuildOptions(), left_out)
    assert found == {"f-1": "On Monday the parcel arrived."}
    assert asked == [(answering.INSTRUCTION, examples[0].document)] * 2
    assert [text.split(":", 2)[:2] for text in left_out.first] == [["f", "2"], ["f", "3"]]


def test_no_more_are_rewritten_than_the_triplets_may_need(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_answering: Any, prompts: Sequence[Any], **_: Any) -> list[Answer]:
        return [Answer("On Monday the parcel arrived.", True)] * len(prompts)

    monkeypatch.setattr(answering, "answer_prompts", answer)
    examples = [example(number) for number in range(20)]
    config = tiny_config()
    drawn = [
        list(rewrite(config, examples, BuildOptions(seed=seed, count=4), left))
        for seed, left in ((1, LeftOut()), (1, LeftOut()), (2, LeftOut()))
    ]
    assert [len(each) for each in drawn] == [6, 6, 6]
    assert drawn[0] == drawn[1] != drawn[2]
