"""Triplets as token ids within the length limit; only the context is ever cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import BRANCHES, Member, Triplet
from llmcausal.errors import DataError

_NAMED = 5


@dataclass(frozen=True)
class Dropped:
    """An unused triplet; `reason` counts the tokens of its long members' fields."""

    id: str
    reason: str


@dataclass
class TruncationLedger:
    """The triplets that the length limit, in tokens of one member, shortens or drops."""

    max_length: int
    seen: int = 0
    shortened: list[str] = field(default_factory=list)
    tokens_cut: dict[str, int] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)

    def summary(self) -> list[str]:
        """Returns lines for people, none if everything fits."""
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


@dataclass(frozen=True)
class EncodedMember:
    """A member's token ids: the prompt, and the answer to train on, if any, with its end."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class EncodedTriplet:
    """A triplet's members as token ids."""

    id: str
    benign: EncodedMember  # with the task loss's answer
    benign_cf: EncodedMember  # without an answer
    injection: EncodedMember  # with the robust loss's answer
    obeying: EncodedMember | None = None  # None, as `yielding`, if triplet or objective has none
    yielding: EncodedMember | None = None
    # Mean cross-entropy, in nats a token, of the robust and the yielding answer without the
    # adapter; None if it is unknown.
    reference: tuple[float, float] | None = None

    @property
    def members(self) -> list[EncodedMember]:
        return [member for name in BRANCHES if (member := getattr(self, name)) is not None]

    @property
    def longest(self) -> int:
        return max(map(len, self.members))


class TripletEncoder:
    """Encodes triplets so that no member exceeds a length; `ledger` lists the cuts so far.

    `swapped` also encodes `obeying` and `yielding`, if a triplet has them.
    """

    def __init__(self, template: ChatTemplate, max_length: int, *, swapped: bool = False) -> None:
        self._template = template
        self._swapped = swapped
        self._max_length = max_length
        # One int object for each id: otherwise every token of every triplet is a separate object.
        self._ids: dict[int, int] = {}
        self.ledger = TruncationLedger(max_length)

    def encode(self, triplet: Triplet) -> EncodedTriplet | None:
        """Encodes a triplet, or returns None and records why it is too long.

        All three members get the same context, shortened from its end.

        Raises:
            DataError: If a text cannot be encoded safely or an answer is empty.
        """
        self.ledger.seen += 1
        try:
            encoded = self._encode(triplet)
            if encoded.longest <= self._max_length:
                return encoded
            fitting = self._shorten(triplet)
        except DataError as error:
            raise DataError(
                [f"triplet {triplet.id}: {defect}" for defect in error.defects]
            ) from error
        if fitting is None:
            self.ledger.dropped.append(Dropped(triplet.id, self._explain(triplet)))
            return None
        self.ledger.shortened.append(triplet.id)
        # Counted on the longest member: a context has no length in tokens outside a prompt.
        tokens = encoded.longest - fitting.longest
        self.ledger.tokens_cut["context"] = self.ledger.tokens_cut.get("context", 0) + tokens
        return fitting

    def _encode(self, triplet: Triplet) -> EncodedTriplet:
        def member(name: Member, response: str | None, field: str = "") -> EncodedMember:
            prompt = self._template.encode_prompt(*triplet.prompt(name))
            answer: Sequence[int] = ()
            if response is not None:
                ends = field not in triplet.unfinished
                answer = self._template.encode_response(response, ends=ends)
            return EncodedMember(self._shared(prompt), self._shared(answer))

        given = triplet.response_injection is not None
        robust = "response_injection" if given else "response"
        obeying = triplet.response_obeying if self._swapped else None
        swapped = yielding = None
        if obeying is not None:
            yielding = member("yielding", obeying, "response_obeying")
            if triplet.swapped_system:
                swapped = member("obeying", obeying, "response_obeying")
        return EncodedTriplet(
            id=triplet.id,
            benign=member("benign", triplet.response, "response"),
            benign_cf=member("benign_cf", None),
            injection=member("injection", triplet.robust_response, robust),
            obeying=swapped,
            yielding=yielding,
        )

    def _shared(self, ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(map(self._ids.setdefault, ids, ids))

    def _shorten(self, triplet: Triplet) -> EncodedTriplet | None:
        """Finds the longest beginning of the context with which every member fits."""
        if not triplet.context:
            return None
        best = None
        fits, too_long = -1, len(triplet.context)
        while too_long - fits > 1:
            kept = (fits + too_long) // 2
            candidate = self._encode(replace(triplet, context=triplet.context[:kept]))
            if candidate.longest <= self._max_length:
                best, fits = candidate, kept
            else:
                too_long = kept
        return best

    def _explain(self, triplet: Triplet) -> str:
        bare = replace(triplet, context="")
        encoded = self._encode(bare)
        reasons = []
        for name in BRANCHES:
            member: EncodedMember | None = getattr(encoded, name)
            if member is not None and len(member) > self._max_length:
                counts = {"system": bare.system_text(name), name: bare.user_text(name)}
                if others := [span.words for span in bare.spans]:
                    counts["spans"] = "\n".join(others)
                fields = [f"{key} {self._template.count_tokens(t)}" for key, t in counts.items()]
                answer = f", response {len(member.response)}" if member.response else ""
                reasons.append(f"{name} takes {len(member)} tokens ({', '.join(fields)}{answer})")
        without = " without context" if triplet.context else ""
        return "; ".join(reasons) + without
