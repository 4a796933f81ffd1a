"""A streamed answer: its pieces join to the whole text, and cost no more as it grows."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llmcausal.data.template import ChatTemplate
from llmcausal.evaluation.generation import read_answers
from llmcausal.server.engine import GrowingAnswer
from tests.data.conftest import BUILDERS

TEXTS = ["Grüße, 世界! 🎈", " two  spaces ", "\n\n- a\n", "e\u0301\u200d", "\ufffd?"]


@pytest.mark.parametrize("name", BUILDERS)
def test_pieces_join_to_the_whole_text(name: str) -> None:
    """Characters of several bytes, broken ones, spaces at both ends, control tokens inside."""
    template = ChatTemplate(BUILDERS[name]())
    tokenizer, rng = template.tokenizer, random.Random(name)
    pieces = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    several = 0
    for _ in range(200):
        tokens = [token for piece in rng.sample(pieces, 3) for token in piece]
        for _ in range(rng.randrange(6)):
            control = rng.choice(tokenizer.all_special_ids)
            token = rng.choice([rng.randrange(len(tokenizer)), control])
            tokens.insert(rng.randrange(len(tokens)), token)
        tokens += rng.choice([[], template.stop_ids[:1]])
        answer = GrowingAnswer(template)
        given = [answer.add(token) for token in tokens]
        rest, whole = answer.finish()
        assert "".join(given) + rest == whole.text
        assert [whole] == read_answers(template, [tokens])
        several += len(list(filter(None, given))) > 3
    assert several > 100


@pytest.mark.parametrize("name", BUILDERS)
def test_a_long_answer_is_decoded_a_few_tokens_at_a_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTemplate(BUILDERS[name]())
    tokenizer: Any = template.tokenizer
    tokens = tokenizer.encode(" ".join(TEXTS * 30), add_special_tokens=False)
    decode, lengths = tokenizer.decode, list[int]()

    def counted(token_ids: Any, **options: Any) -> Any:
        lengths.append(len(token_ids))
        return decode(token_ids, **options)

    monkeypatch.setattr(tokenizer, "decode", counted)
    answer = GrowingAnswer(template)
    given = "".join(map(answer.add, tokens))
    assert max(lengths) < 40 < len(tokens)
    rest, whole = answer.finish()
    assert given + rest == whole.text == read_answers(template, [tokens])[0].text
