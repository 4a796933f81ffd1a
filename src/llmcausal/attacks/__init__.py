"""Prompt injections as pure text, seeded, without any model: a goal, put into a text by a family.

The phrasings of a family are a data file, `families/NAME.toml`. A family that does more than wrap
the instruction in words, such as encode it, also has a module, `NAME.py`. Write held-out phrasings
without trying them on a model.
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
        "context_stuffing": "llmcausal.attacks.context_stuffing:ContextStuffing",
        "payload_splitting": "llmcausal.attacks.payload_splitting:PayloadSplitting",
        "encodings": "llmcausal.attacks.encodings:Encodings",
        "unicode": "llmcausal.attacks.unicode:Unicode",
        "hidden_in_markup": "llmcausal.attacks.phrased:hidden_in_markup",
        "forged_template": "llmcausal.attacks.phrased:forged_template",
        "prompt_leaking": "llmcausal.attacks.prompt_leaking:PromptLeaking",
        "other_languages": "llmcausal.attacks.other_languages:OtherLanguages",
        "multi_turn": "llmcausal.attacks.phrased:multi_turn",
    },
)
