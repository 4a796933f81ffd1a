"""Writes the instruction in a code and asks to decode and obey it."""

from __future__ import annotations

import base64
import codecs
import random
from collections.abc import Callable, Mapping

from llmcausal.attacks.base import AttackFamily, Goal, Phrasing
from llmcausal.attacks.phrased import from_file

CODES: Mapping[str, Callable[[str], str]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "hex": lambda text: text.encode().hex(),
}
"""Reversible codes, by the names in the phrasings."""


@from_file("encodings")
class Encodings(AttackFamily):
    """Encodes the instruction in base64, rot13 or hexadecimal digits."""

    def payload(self, goal: Goal, rng: random.Random, phrasing: Phrasing) -> str:
        code = rng.choice(list(CODES))
        text = rng.choice(self.phrasings(phrasing)).replace("{code}", code)
        return text.replace("{instruction}", CODES[code](goal.instruction))
