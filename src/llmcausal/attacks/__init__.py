"""Prompt injections as pure text, seeded, without any model.

An attack is made of two parts: a goal, which is what the model is told to do and how to prove
that it did (`base.py`; kinds of goals in `goals/`), and a family, which is a way of making that
instruction look worth obeying (`base.py`). A family that only wraps the instruction in words is a
data file, `families/NAME.toml`; one that does more, such as encoding it, is a module, `NAME.py`,
with a subclass of `AttackFamily`.

To add a family, write its file and add its line below. Give it a `difficulty`, and three pools of
phrasings that share none: at least 12 to train on, 3 for validation and 6 held out; breadth matters
more than polish, and a phrasing that differs from another by one word adds nothing. Write the
held-out ones without trying them on a model. A family
with `held_out = True` is for the test split only and needs held-out phrasings alone, at least 8.
The tests in `tests/attacks/` find it in the table.
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
        "hidden_in_markup": "llmcausal.attacks.hidden_in_markup:HiddenInMarkup",
        "forged_template": "llmcausal.attacks.phrased:forged_template",
        "prompt_leaking": "llmcausal.attacks.prompt_leaking:PromptLeaking",
        "other_languages": "llmcausal.attacks.other_languages:OtherLanguages",
        "multi_turn": "llmcausal.attacks.phrased:multi_turn",
    },
)
