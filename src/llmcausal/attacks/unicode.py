"""Writes the instruction in characters that look right and compare wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping

from llmcausal.attacks.base import AttackFamily
from llmcausal.attacks.phrased import from_file

HOMOGLYPHS: Mapping[str, str] = dict(
    zip(
        "aceijopsxyABCEHIKMOPTX",
        "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443"
        "\u0410\u0412\u0421\u0415\u041d\u0406\u041a\u041c\u041e\u0420\u0422\u0425",
        strict=True,
    )
)
"""Latin letters and the Cyrillic letters of the same shape."""
ZERO_WIDTH = ("\u200b", "\u200c", "\u2060")
"""Zero width space, zero width non-joiner, word joiner."""
RIGHT_TO_LEFT, POP = "\u202e", "\u202c"
"""Override of the writing direction, and its end: the text between is shown reversed."""


def homoglyphs(text: str, rng: random.Random) -> str:
    """Replaces about half of the letters that have a double."""
    return "".join(
        HOMOGLYPHS[char] if char in HOMOGLYPHS and rng.random() < 0.5 else char for char in text
    )


def zero_width(text: str, rng: random.Random) -> str:
    """Puts invisible characters between about a third of the letters."""
    return "".join(char + (rng.choice(ZERO_WIDTH) if rng.random() < 0.35 else "") for char in text)


def bidi(text: str, rng: random.Random) -> str:
    """Writes the text backwards under a direction override, which shows it forwards."""
    return f"{RIGHT_TO_LEFT}{text[::-1]}{POP}"


@from_file("unicode")
class Unicode(AttackFamily):
    """Disguises the instruction by homoglyphs, invisible characters or a direction override."""

    def disguise(self, instruction: str, rng: random.Random) -> str:
        return rng.choice((homoglyphs, zero_width, bidi))(instruction, rng)
