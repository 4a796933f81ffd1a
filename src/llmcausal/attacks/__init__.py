"""Prompt injections as pure text, seeded, without any model: a goal, put into a text by a family.

A family's phrasings are a data file, `families/NAME.toml`. A family that does more than wrap the
instruction in words is also a class in `phrased.py`. Write held-out phrasings without trying them
on a model.
"""

from __future__ import annotations

from llmcausal.registry import Table

FAMILIES = Table(
    "attack family",
    {
        "naive": "llmcausal.attacks.phrased:naive",
        "ignore_previous": "llmcausal.attacks.phrased:ignore_previous",
        "new_instructions": "llmcausal.attacks.phrased:new_instructions",
        "fake_completion": "llmcausal.attacks.phrased:fake_completion",
        "completion_ignore": "llmcausal.attacks.phrased:completion_ignore",
        "escape_characters": "llmcausal.attacks.phrased:escape_characters",
        "authority": "llmcausal.attacks.phrased:authority",
        "role_play": "llmcausal.attacks.phrased:role_play",
        "context_stuffing": "llmcausal.attacks.phrased:ContextStuffing",
        "payload_splitting": "llmcausal.attacks.phrased:PayloadSplitting",
        "encodings": "llmcausal.attacks.phrased:Encodings",
        "unicode": "llmcausal.attacks.phrased:Unicode",
        "hidden_in_markup": "llmcausal.attacks.phrased:hidden_in_markup",
        "forged_template": "llmcausal.attacks.phrased:forged_template",
        "prompt_leaking": "llmcausal.attacks.phrased:PromptLeaking",
        "other_languages": "llmcausal.attacks.phrased:OtherLanguages",
        "multi_turn": "llmcausal.attacks.phrased:multi_turn",
    },
)
