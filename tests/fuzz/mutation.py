"""Makes broken inputs of sound ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

TOKENS = (
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n",
    b"\n\n",
    b'"',
    b"'",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[" * 5000,
    b'{"a":' * 3000,
    b",",
    b":",
    b"=",
    b"#",
    b"null",
    b"true",
    b"NaN",
    b"Infinity",
    b"-1",
    b"0",
    b"1e999",
    b"9" * 5000,
    b"0x",
    b"1_0",
    b"<|im_end|>",
    b"(a+)+$",
    b"(?P<",
    b"../",
    b"/etc/passwd",
    b"\x1b[2J",
    b"<script>",
    b"\xe2\x80\xae",
    b"\xf0\x9f\x92\xa9",
    b"\t",
    b" " * 300,
)
NUMBERS = tuple(
    struct.pack(form, value)
    for form, values in (("<Q", (0, 1, 2**20, 2**31, 2**60, 2**64 - 1)), ("<I", (0, 7, 9, 2**31)))
    for value in values
)
"""What the header of a binary file may lie with."""


def mutated(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """Returns a seed after one to five changes; now and then a splice of two, or noise."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        _change(data, seeds, rng)
    return bytes(data)


def _change(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 2, 8, 64, 512)))
    kind = rng.randrange(8)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:end]
    elif kind == 2:
        data[at:at] = data[at:end]
    elif kind == 3:
        data[at:at] = rng.choice(TOKENS)
    elif kind == 4:
        data[at:end] = rng.choice(TOKENS)
    elif kind == 5:
        del data[at:]
    elif kind == 6:
        number = rng.choice(NUMBERS)
        data[at : at + len(number)] = number
    else:
        other = rng.choice(seeds)
        start = rng.randrange(len(other) + 1)
        data[at:end] = other[start : start + rng.choice((8, 64, 512))]
