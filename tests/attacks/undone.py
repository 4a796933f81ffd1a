"""Undoes the disguises of attacks, as a reader would."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Mapping

from llmcausal.attacks.phrased import HOMOGLYPHS, POP, RIGHT_TO_LEFT, ZERO_WIDTH

DECODERS: Mapping[str, Callable[[str], str]] = {
    "base64": lambda code: base64.b64decode(code).decode(),
    "rot13": lambda code: codecs.decode(code, "rot13"),
    "hex": lambda code: bytes.fromhex(code).decode(),
}


def plain(text: str) -> str:
    """Undoes homoglyphs, invisible characters and a direction override."""
    text = text.translate({ord(char): None for char in ZERO_WIDTH})
    text = text.translate({ord(double): char for char, double in HOMOGLYPHS.items()})
    before, start, rest = text.partition(RIGHT_TO_LEFT)
    inside, end, after = rest.partition(POP)
    return f"{before}{inside[::-1]}{after}" if start and end else text
