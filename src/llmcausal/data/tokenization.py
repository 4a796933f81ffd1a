"""Triplets as token ids, within the length limit and without cutting what matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmcausal.data.ledger import TruncationLedger
from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import MEMBERS, Member, Triplet
from llmcausal.errors import DataError


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
    """

    id: str
    benign: EncodedMember
    benign_cf: EncodedMember
    injection: EncodedMember

    @property
    def longest(self) -> int:
        """Tokens of the longest member."""
        return max(len(self.benign), len(self.benign_cf), len(self.injection))


class TripletEncoder:
    """Encodes triplets so that no member exceeds a length; only `context` is ever shortened.

    Attributes:
        ledger: What was cut or dropped so far.
    """

    def __init__(self, template: ChatTemplate, max_length: int) -> None:
        """Starts an empty ledger.

        Args:
            template: Renders the members.
            max_length: Most tokens of one member, prompt and response together.
        """
        self._template = template
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
        def member(name: Member, response: str | None) -> EncodedMember:
            prompt = self._template.encode_prompt(triplet.system, triplet.user_text(name))
            answer = () if response is None else self._template.encode_response(response)
            return EncodedMember(self._shared(prompt), self._shared(answer))

        return EncodedTriplet(
            id=triplet.id,
            benign=member("benign", triplet.response),
            benign_cf=member("benign_cf", None),
            injection=member("injection", triplet.robust_response),
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
        for name in MEMBERS:
            member: EncodedMember = getattr(encoded, name)
            if len(member) > self._max_length:
                counts = {"system": triplet.system, name: getattr(triplet, name)}
                fields = [f"{key} {self._template.count_tokens(t)}" for key, t in counts.items()]
                answer = f", response {len(member.response)}" if member.response else ""
                reasons.append(f"{name} takes {len(member)} tokens ({', '.join(fields)}{answer})")
        without = " without context" if triplet.context else ""
        return "; ".join(reasons) + without
