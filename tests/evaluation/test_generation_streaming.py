"""Answers token by token: the same tokens as in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmcausal.evaluation import generation
from llmcausal.evaluation.generation import Decoding, generate, streaming

PROMPTS = [list(range(40, 40 + count)) for count in (3, 50, 1, 20)]


@pytest.mark.parametrize("tree", [True, False])
def test_the_tokens_are_those_of_a_batch(
    peft_model: Any, template: Any, monkeypatch: pytest.MonkeyPatch, tree: bool
) -> None:
    if not tree:
        monkeypatch.setattr(generation, "TreeDecoder", refuse)
    stops = [*template.stop_ids, *range(90, 120)]  # so that some answers end by themselves
    with streaming(peft_model, stops, 80) as stream:
        found = [list(stream(prompt, most)) for prompt in PROMPTS for most in (1, 24)]
    wanted = [
        generate(peft_model, [prompt], Decoding(stops, most, batch_size=1))[0]
        for prompt in PROMPTS
        for most in (1, 24)
    ]
    assert found == wanted
    assert len({len(tokens) for tokens in found}) > 2


def refuse(*_: Any) -> Callable[..., Any]:
    from llmcausal.errors import ModelError

    raise ModelError("not this one")
