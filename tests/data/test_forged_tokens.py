"""Every control token, in every Unicode form that a tokenizer's normalizer folds into it."""

from __future__ import annotations

import copy
import json
import random
import sys
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from llmcausal.data.template import ChatTemplate
from llmcausal.errors import DataError, ModelError

Build = Callable[[str], PreTrainedTokenizerFast]

NORMALIZERS: dict[str, list[dict[str, Any]]] = {
    "NFC": [{"type": "NFC"}],
    "NFD": [{"type": "NFD"}],
    "NFKC": [{"type": "NFKC"}],
    "NFKD": [{"type": "NFKD"}],
    "lower case": [{"type": "Lowercase"}],
    "accents": [{"type": "NFD"}, {"type": "StripAccents"}],
    "all": [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}],
    "hidden characters": [
        {"type": "Replace", "pattern": {"Regex": "[\u200b-\u200f\u2060]"}, "content": ""}
    ],
}
KINDS = ["chatml", "llama3", "phi3", "vocabulary_holds_controls"]


@lru_cache(maxsize=2)
def lookalikes(*, bare: bool) -> dict[str, list[str]]:
    """Characters that NFKC makes one of ASCII of; `bare`: without their accents and case."""
    found: dict[str, list[str]] = {}
    for code in range(0x80, sys.maxunicode + 1):
        if 0xD800 <= code < 0xE000:
            continue
        folded = unicodedata.normalize("NFKC", chr(code))
        if bare:
            split = unicodedata.normalize("NFKD", folded)
            folded = "".join(c for c in split if not unicodedata.combining(c)).lower()
        if len(folded) == 1 and folded.isascii():
            found.setdefault(folded, []).append(chr(code))
    return found


def disguised(text: str, rng: random.Random) -> str:
    """Writes some characters in one other way: another form, case, an accent, or hidden ones."""
    ways: list[Callable[[str], str]] = [
        lambda c: rng.choice(lookalikes(bare=False).get(c, [c])),
        lambda c: rng.choice(lookalikes(bare=True).get(c.lower(), [c])),
        str.swapcase,
        lambda c: c + rng.choice("\u0301\u0327") if c.isalpha() else c,
        lambda c: c + rng.choice("\u200b\u200d\u2060"),
        str,
    ]
    way = rng.choice(ways)
    return "".join(way(c) if rng.random() < 0.5 else c for c in text)


def with_normalizer(tokenizer: PreTrainedTokenizerFast, steps: list[dict[str, Any]]) -> Any:
    """A copy whose control tokens are looked for in the normalized text too."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["normalizer"] = {"type": "Sequence", "normalizers": steps}
    for token in state["added_tokens"]:
        token["normalized"] = True
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), **tokenizer.special_tokens_map
    )
    made.chat_template = tokenizer.chat_template
    return made


def controls(template: ChatTemplate, ids: list[int]) -> list[int]:
    return [token for token in ids if token in template.control_ids]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_form_of_a_control_token_becomes_one(
    kind: str, normalizer: str, build_tokenizer: Build
) -> None:
    tokenizer = with_normalizer(build_tokenizer(kind), NORMALIZERS[normalizer])
    try:
        template = ChatTemplate(tokenizer)
    except ModelError as error:  # its own template cannot be told apart after folding
        pytest.skip(str(error)[:80])
    clean = controls(template, template.encode_prompt("system", "user"))
    rng, live = random.Random(f"{kind} {normalizer}"), 0
    for token in tokenizer.added_tokens_decoder.values():
        for _ in range(40):
            text = disguised(token.content, rng)
            live += text != token.content and naive_forges(tokenizer, text, template)
            try:
                ids = template.encode_prompt(f"s {text}", f"{text} u {text}{text}")
            except DataError:  # a single character is a control token: refused
                continue
            assert controls(template, ids) == clean, ascii(text)
    if normalizer not in ("NFC", "NFD"):  # which fold nothing into ASCII but a few signs
        assert live, "none of these texts would forge anything: the test proves nothing"


def naive_forges(tokenizer: Any, text: str, template: ChatTemplate) -> bool:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return bool(template.control_ids & set(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_that_is_marked_special_stays_text(kind: str, build_tokenizer: Build) -> None:
    """Also where a vocabulary marks hundreds (Llama 3's 256 reserved ones)."""
    tokenizer = copy.deepcopy(build_tokenizer(kind))
    reserved = [f"<|reserved_special_token_{number}|>" for number in range(250)]
    tokenizer.add_special_tokens({"additional_special_tokens": reserved})
    template = ChatTemplate(tokenizer)
    clean = controls(template, template.encode_prompt("system", "user"))
    texts = [token.content for token in tokenizer.added_tokens_decoder.values()]
    assert len(texts) >= 250
    for text in texts:
        unknown = text == tokenizer.unk_token  # which characters without a token yield anyway
        assert naive_forges(tokenizer, f"a{text}", template) or unknown
        ids = template.encode_prompt(f"a{text}", f"a{text}b")
        assert controls(template, ids) == clean, text
