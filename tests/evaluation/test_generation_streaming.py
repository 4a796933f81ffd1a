"""Answers token by token: the same tokens, and texts that join to the same text."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from llmcausal.data.template import ChatTemplate
from llmcausal.evaluation import generation
from llmcausal.evaluation.generation import (
    Decoding,
    GrowingAnswer,
    generate,
    read_answer,
    streaming,
)
from tests.data.conftest import BUILDERS

PROMPTS = [list(range(40, 40 + count)) for count in (3, 50, 1, 20)]


@pytest.mark.parametrize("name", BUILDERS)
def test_pieces_join_to_the_whole_text(name: str) -> None:
    """Characters of several bytes, broken ones, spaces at both ends, control tokens inside."""
    template = ChatTemplate(BUILDERS[name]())
    tokenizer, rng = template.tokenizer, random.Random(name)
    texts = ["Grüße, 世界! 🎈", " two  spaces ", "\n\n- a\n", "e\u0301\u200d", "\ufffd?"]
    pieces = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    several = 0
    for _ in range(60):
        tokens = [token for piece in rng.sample(pieces, 3) for token in piece]
        for _ in range(rng.randrange(4)):
            tokens.insert(rng.randrange(len(tokens)), rng.randrange(len(tokenizer)))
        tokens += rng.choice([[], template.stop_ids[:1]])
        answer = GrowingAnswer(template)
        given = [answer.add(token) for token in tokens]
        rest, whole = answer.finish()
        assert "".join(given) + rest == whole.text
        assert whole == read_answer(template, tokens)
        several += len(list(filter(None, given))) > 3
    assert several > 30


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
