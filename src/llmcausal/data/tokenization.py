"""Triplets as token ids, within the length limit and without cutting what matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import BRANCHES, Member, Triplet
from llmcausal.errors import DataError

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


@dataclass(frozen=True)
class EncodedMember:
    """One member's token ids.

    Attributes:
        prompt: Ids up to where the answer begins.
        response: Ids of the answer with its end-of-turn token; empty where none is trained on.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class EncodedTriplet:
    """A triplet's members as token ids.

    Attributes:
        id: The triplet's id.
        benign: Carries the answer of the task loss.
        benign_cf: Prompt only.
        injection: Carries the answer of the robust loss.
        obeying: The attack's instruction as the trusted one, with its answer; None where the
            triplet or the objective has no use for it.
        yielding: The injection with the answer that the attacker wants; None likewise.
        reference: Mean cross-entropy of the robust and of the yielding answer with the adapter
            off, in nats a token; None where it is not known.
    """

    id: str
    benign: EncodedMember
    benign_cf: EncodedMember
    injection: EncodedMember
    obeying: EncodedMember | None = None
    yielding: EncodedMember | None = None
    reference: tuple[float, float] | None = None

    @property
    def members(self) -> list[EncodedMember]:
        """Those that it has."""
        return [member for name in BRANCHES if (member := getattr(self, name)) is not None]

    @property
    def longest(self) -> int:
        """Tokens of the longest member."""
        return max(map(len, self.members))


class TripletEncoder:
    """Encodes triplets so that no member exceeds a length; only `context` is ever shortened.

    Attributes:
        ledger: What was cut or dropped so far.
    """

    def __init__(self, template: ChatTemplate, max_length: int, *, swapped: bool = False) -> None:
        """Starts an empty ledger.

        Args:
            template: Renders the members.
            max_length: Most tokens of one member, prompt and response together.
            swapped: Also encode `obeying` and `yielding`, where a triplet has them.
        """
        self._template = template
        self._swapped = swapped
        self._max_length = max_length
        # One object for each id, or every token of every triplet would hold a number of its own.
        self._ids: dict[int, int] = {}
        self.ledger = TruncationLedger(max_length)

    def encode(self, triplet: Triplet) -> EncodedTriplet | None:
        """Encodes a triplet, or returns None and records why it is too long to be used.

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
            self.ledger.drop(triplet.id, self._explain(triplet))
            return None
        # By the longest member: a context has one length in tokens only inside a prompt.
        self.ledger.cut(triplet.id, "context", encoded.longest - fitting.longest)
        return fitting

    def _encode(self, triplet: Triplet) -> EncodedTriplet:
        def member(name: Member, response: str | None, field: str = "") -> EncodedMember:
            system, user = triplet.system_text(name), triplet.user_text(name)
            prompt = self._template.encode_prompt(system, user)
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
        """Names the members that are too long without context, and what each field takes."""
        bare = replace(triplet, context="")
        encoded = self._encode(bare)
        reasons = []
        for name in BRANCHES:
            member: EncodedMember | None = getattr(encoded, name)
            if member is not None and len(member) > self._max_length:
                counts = {"system": bare.system_text(name), name: bare.user_text(name)}
                fields = [f"{key} {self._template.count_tokens(t)}" for key, t in counts.items()]
                answer = f", response {len(member.response)}" if member.response else ""
                reasons.append(f"{name} takes {len(member)} tokens ({', '.join(fields)}{answer})")
        without = " without context" if triplet.context else ""
        return "; ".join(reasons) + without
