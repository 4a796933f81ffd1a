"""Triplets without a meaning, of the lengths that a workload says."""

from __future__ import annotations

from llmcausal.data.tokenization import EncodedMember, EncodedTriplet
from llmcausal.memory.prediction import Workload


def triplets_of(workload: Workload) -> list[EncodedTriplet]:
    """Makes triplets of the workload's lengths, which every term of the loss reads.

    No two prompts share more than it says; an attack leaves the right answer as it is.
    """
    made = []
    for row in range(workload.triplets):
        first = 6 * row
        shared = (first,) * min(workload.shared_tokens, workload.member_tokens - 1)
        members = []
        for number, scored in enumerate((True, False, True, True, True)):
            own = (first + 1 + number,) * (workload.member_tokens - len(shared))
            whole = shared + own
            scored_tokens = min(workload.response_tokens, len(whole) - 1) if scored else 0
            cut = len(whole) - scored_tokens
            members.append(EncodedMember(whole[:cut], whole[cut:]))
        benign, other, injection, obeying, yielding = members
        injection = EncodedMember(injection.prompt, benign.response)
        reference = (1.0, 1.0)
        made.append(
            EncodedTriplet(str(row), benign, other, injection, obeying, yielding, reference)
        )
    return made
