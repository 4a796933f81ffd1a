"""Texts that an earlier attack found, read from its result: a search may begin with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from llmcausal.errors import UsageError
from llmcausal.evaluation.adaptive.slot import BARE, START, PromptSlot

RESULTS = "results.json"
MAX_BYTES = 2**28


class _Example(BaseModel):
    id: str
    suffix: str
    prefix: str = START
    frame: str = BARE


class _Side(BaseModel):
    examples: list[_Example]


class _Adaptive(BaseModel):
    tuned: _Side
    base: _Side | None = None


class _Result(BaseModel):
    adaptive: _Adaptive


@dataclass(frozen=True)
class Opening:
    """A way to begin a search.

    Attributes:
        slot: The prompt.
        texts: The free texts in it.
    """

    slot: PromptSlot
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Earlier:
    """What an earlier attack found.

    Attributes:
        finds: Each prompt's id with frame, prefix and suffix; those against the tuned model first.
    """

    finds: tuple[tuple[str, str, str, str], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Earlier:
        """Reads a result, or the one in a folder.

        Raises:
            UsageError: If it cannot be read, or holds no adaptive attack.
        """
        file = path / RESULTS if path.is_dir() else path
        advice = "give the results.json of an `eval --adaptive`, or its folder"
        try:
            if file.stat().st_size > MAX_BYTES:
                raise UsageError(
                    f"--adaptive-from {file}: larger than {MAX_BYTES:,} bytes; {advice}"
                )
            result = _Result.model_validate(json.loads(file.read_bytes()))
        except OSError as error:
            raise UsageError(f"--adaptive-from {file}: {error.strerror}; {advice}") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise UsageError(
                f"--adaptive-from {file}: {field}: {first['msg']}; {advice}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--adaptive-from {file}: not JSON; {advice}") from error
        sides = [side for side in (result.adaptive.tuned, result.adaptive.base) if side]
        rows = [
            (each.id, each.frame, each.prefix, each.suffix)
            for side in sides
            for each in side.examples
        ]
        if not rows:
            raise UsageError(f"--adaptive-from {file}: no text was found there; {advice}")
        return cls(tuple(dict.fromkeys(rows)))

    def openings(self, slots: Sequence[PromptSlot], prompt: str, most: int) -> list[Opening]:
        """Returns how a search on a prompt may begin: plainly in each frame, then as found before.

        What was found on the same prompt comes first. Texts of more tokens than a plain beginning
        are left out, so that no search has more room than another.

        Args:
            slots: The prompt's, one a frame.
            prompt: Its id.
            most: How many.
        """
        plain = {slot.frame: Opening(slot, slot.start) for slot in slots}
        found = dict.fromkeys(plain.values())
        for _, frame, prefix, suffix in sorted(self.finds, key=lambda find: find[0] != prompt):
            if len(found) >= most:
                break
            if frame not in plain:
                continue
            slot = plain[frame].slot
            opening = Opening(slot, (prefix or START, suffix)[-len(slot.start) :])
            if _fits(opening):
                found[opening] = None
        return list(found)[:most]


def _fits(opening: Opening) -> bool:
    slot, texts = opening.slot, opening.texts
    halves_of_characters = any("\ud800" <= each <= "\udfff" for each in "".join(texts))
    if halves_of_characters or not slot.takes(texts):
        return False
    spans = zip(slot.place(texts).spans, slot.place(slot.start).spans, strict=True)
    return all(end - start <= last - first for (start, end), (first, last) in spans)
