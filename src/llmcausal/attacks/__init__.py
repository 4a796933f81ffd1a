"""Prompt injections as pure text: one file per attack family, seeded, without any model."""

from __future__ import annotations

from llmcausal.registry import Table

FAMILIES = Table(
    "attack family",
    {
        "naive": "llmcausal.attacks.naive:Naive",
        "ignore_previous": "llmcausal.attacks.ignore_previous:IgnorePrevious",
        "fake_completion": "llmcausal.attacks.fake_completion:FakeCompletion",
        "escape_characters": "llmcausal.attacks.escape_characters:EscapeCharacters",
        "authority": "llmcausal.attacks.authority:Authority",
        "hidden_in_markup": "llmcausal.attacks.hidden_in_markup:HiddenInMarkup",
    },
)
