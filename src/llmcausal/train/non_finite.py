"""Steps whose loss or gradient is NaN or infinite: named, left out a few times, then refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from llmcausal.errors import NonFiniteLossError
from llmcausal.train.computed import Computed
from llmcausal.train.state import TrainState

MOST_OVERFLOWS = 24
"""fp16 steps in a row whose gradient may overflow: the scale starts at 2^16 and is halved each
time, so that more have another cause."""
_NAMED = 8
ADVICE = (
    "What helps, cheapest first: lower train.learning_rate, raise "
    "train.warmup_ratio, raise loss.tau, lower train.max_grad_norm; with "
    "--set train.detect_anomaly=true torch names the operation."
)


def fault_of(record: Mapping[str, float], norm: float) -> str | None:
    """Says which terms of the loss are not finite, else that the gradient is not.

    Args:
        record: Means of the step's figures, `loss` and its terms among them.
        norm: Of the gradient, before clipping.

    Returns:
        None if loss and gradient are finite.
    """
    if math.isfinite(record["loss"]):
        return None if math.isfinite(norm) else f"gradient norm {norm}"
    odd = {name: value for name, value in record.items() if not math.isfinite(value)}
    return ", ".join(f"{name} {value}" for name, value in odd.items())


def left_out(
    state: TrainState,
    fault: str,
    triplets: str,
    *,
    overflow: bool,
    most: int,
) -> str:
    """Counts a step that must not be applied, and returns what to tell the user.

    Args:
        state: Counts are kept in it; the step is not yet done.
        fault: As `fault_of` says it.
        triplets: Whose step it is.
        overflow: The loss is finite and scaled, as fp16 needs: the scaler lowers the scale.
        most: Steps in a row that may be left out otherwise.

    Raises:
        NonFiniteLossError: If it is one too many; counting then begins anew.
    """
    allowed = MOST_OVERFLOWS if overflow else most
    step = state.step + 1
    if state.skipped_in_a_row >= allowed:
        before = state.skipped_in_a_row
        state.skipped_in_a_row = 0
        after = f", after {before} skipped steps" if before else ""
        raise NonFiniteLossError(
            f"Step {step}: {fault}{after}; the weights from before it are saved. "
            f"Triplets of the step: {triplets}.\n{ADVICE}"
        )
    state.skipped_in_a_row += 1
    state.skipped_steps += 1
    why = "the fp16 scale was too high" if overflow else f"triplets {triplets}"
    return f"step {step} skipped, the weights did not change: {fault} ({why})"


def offenders(computed: Sequence[Computed]) -> str:
    """Names the triplets of the micro-batches whose figures are not finite, else of all.

    Args:
        computed: Micro-batches of the step.
    """
    odd = [each for each in computed if not all(map(math.isfinite, each.sums.values()))]
    ids = [identity for each in odd or computed for identity in each.ids]
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more
