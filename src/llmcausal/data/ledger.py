"""What did not fit, in numbers and by name: nothing is shortened or dropped silently."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_NAMED = 5


@dataclass(frozen=True)
class Dropped:
    """A triplet that is not used.

    Attributes:
        id: The triplet's id.
        reason: Which members are too long, and the tokens of each of their fields.
    """

    id: str
    reason: str


@dataclass
class TruncationLedger:
    """Counts what was cut to fit the length limit.

    Attributes:
        max_length: Most tokens of one member.
        seen: Triplets encoded so far.
        shortened: Ids of the triplets whose context was shortened.
        tokens_cut: Tokens removed, by field.
        dropped: Triplets that did not fit even without context.
    """

    max_length: int
    seen: int = 0
    shortened: list[str] = field(default_factory=list)
    tokens_cut: Counter[str] = field(default_factory=Counter)
    dropped: list[Dropped] = field(default_factory=list)

    def cut(self, triplet_id: str, field_name: str, tokens: int) -> None:
        """Records that a field of a triplet lost so many tokens."""
        self.shortened.append(triplet_id)
        self.tokens_cut[field_name] += tokens

    def drop(self, triplet_id: str, reason: str) -> None:
        """Records that a triplet is not used."""
        self.dropped.append(Dropped(triplet_id, reason))

    def summary(self) -> list[str]:
        """Returns lines for people; none if everything fitted."""
        lines = []
        if self.shortened:
            cut = ", ".join(f"{count} tokens of {name}" for name, count in self.tokens_cut.items())
            lines.append(
                f"{len(self.shortened)} of {self.seen} triplets shortened to {self.max_length} "
                f"tokens: cut {cut}"
            )
        if self.dropped:
            lines.append(
                f"{len(self.dropped)} of {self.seen} triplets dropped: longer than "
                f"{self.max_length} tokens (data.max_length)"
            )
            lines += [f"  {drop.id}: {drop.reason}" for drop in self.dropped[:_NAMED]]
            if len(self.dropped) > _NAMED:
                lines.append(f"  and {len(self.dropped) - _NAMED} more")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "max_length": self.max_length,
            "seen": self.seen,
            "shortened": list(self.shortened),
            "tokens_cut": dict(self.tokens_cut),
            "dropped": [{"id": drop.id, "reason": drop.reason} for drop in self.dropped],
        }
