"""A run's parts, and one optimizer step: micro-batches, check of the loss, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from llmcausal.config import RunConfig
from llmcausal.errors import NonFiniteLossError
from llmcausal.train.batch import EpochBatches, TripletBatch, label_totals
from llmcausal.train.callback import Callback, FitContext, Record, TrainState
from llmcausal.train.objective import StepResult
from llmcausal.train.optimizer import optimizer_step
from llmcausal.train.processes import SINGLE, Processes
from llmcausal.train.recovery import ADVICE, Fallback, Place, Rewind
from llmcausal.train.rng import seed_micro_batch
from llmcausal.train.step import TripletStep

MOST_OVERFLOWS = 24
"""fp16 steps in a row whose gradient may overflow. Each halves the scale, which starts at 2^16:
more overflows have another cause."""
_NAMED = 8
ADVICE_NOT_FINITE = (
    "What helps, cheapest first: lower train.learning_rate, raise "
    "train.warmup_ratio, raise loss.tau, lower train.max_grad_norm; with "
    "--set train.detect_anomaly=true torch names the operation."
)


class Probe(Protocol):
    """Measures a validation's answers; leaves modules' modes and random states as they are."""

    batches: int

    def __call__(self, batch_done: Callable[[], None]) -> dict[str, float]:
        """Returns the model's figures; calls `batch_done` `batches` times."""
        ...

    def answer_together(self, batch_size: int) -> None:
        """Sets how many prompts are generated together, and `batches` with it."""
        ...


@dataclass
class Run:
    config: RunConfig
    run_dir: Path  # exists
    modules: Sequence[torch.nn.Module]  # switch between training and evaluation mode
    step: TripletStep
    batches: EpochBatches
    validation: Sequence[TripletBatch]
    parameters: Sequence[torch.nn.Parameter]  # all that the optimizer trains
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler  # scales in fp16 only
    state: TrainState
    callbacks: Sequence[Callback]  # in order of their calls
    device: torch.device
    total_steps: int  # optimizer steps of the whole run
    notes: list[str]  # facts to show at the start
    probe: Probe | None = None  # adds its figures to each validation
    # Leaner ways to train and to validate, for when memory runs out.
    fallbacks: Mapping[Place, Sequence[Fallback]] = field(default_factory=dict)
    # Says what to change when memory runs out with no fallback left. Called after the run has
    # ended and everything is saved; must not raise.
    advice: Callable[[], str] = lambda: ADVICE
    processes: Processes = SINGLE  # only rank 0 has callbacks that write and show


def fault_of(record: Mapping[str, float], norm: float) -> str | None:
    """Names the figures of a loss that is not finite, else the gradient's norm if it is not."""
    if math.isfinite(record["loss"]):
        return None if math.isfinite(norm) else f"gradient norm {norm}"
    odd = {name: value for name, value in record.items() if not math.isfinite(value)}
    return ", ".join(f"{name} {value}" for name, value in odd.items())


def left_out(state: TrainState, fault: str, triplets: str, *, overflow: bool, most: int) -> str:
    """Counts a skipped step, and returns a note for the user.

    Args:
        overflow: Whether only the scaled fp16 gradient overflowed; the scaler lowers the scale.
        most: Steps in a row that may be skipped without an overflow.

    Raises:
        NonFiniteLossError: If this step is one too many; counting then starts again.
    """
    allowed = MOST_OVERFLOWS if overflow else most
    step = state.step + 1
    if state.skipped_in_a_row >= allowed:
        before = state.skipped_in_a_row
        state.skipped_in_a_row = 0
        after = f", after {before} skipped steps" if before else ""
        raise NonFiniteLossError(
            f"Step {step}: {fault}{after}; the weights from before it are saved. "
            f"Triplets of the step: {triplets}.\n{ADVICE_NOT_FINITE}"
        )
    state.skipped_in_a_row += 1
    state.skipped_steps += 1
    why = "the fp16 scale was too high" if overflow else f"triplets {triplets}"
    return f"step {step} skipped, the weights did not change: {fault} ({why})"


def offenders(computed: Sequence[Computed]) -> str:
    """Names the triplets of micro-batches with figures that are not finite, else all triplets."""
    odd = [each for each in computed if not all(map(math.isfinite, each.sums.values()))]
    ids = [identity for each in odd or computed for identity in each.ids]
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ", ".join(ids[:_NAMED]) + more


def update(run: Run, context: FitContext, rewind: Rewind) -> Record:
    """Makes one optimizer step and returns its record.

    Raises:
        NonFiniteLossError: If loss or gradient is not finite, once too often in a row.
    """
    state = run.state
    for module in run.modules:
        module.train()
    run.optimizer.zero_grad(set_to_none=True)
    computed = _gradients(run, context, run.batches.step_at(state.epoch, state.position))
    run.processes.all_reduce(run.parameters)
    # Clipping compares the true norm with the limit, so the scale goes first.
    run.scaler.unscale_(run.optimizer)
    norm = float(torch.nn.utils.clip_grad_norm_(run.parameters, run.config.train.max_grad_norm))
    record = means(computed)
    fault = fault_of(record, norm)
    if fault is not None:
        overflow = run.scaler.is_enabled() and math.isfinite(record["loss"])
        most = run.config.train.max_skipped_steps
        note = left_out(state, fault, offenders(computed), overflow=overflow, most=most)
        context.notes.append(note)
    run.processes.run_all(lambda: _change_weights(run, rewind, fault))
    # Nothing below may run out of memory: `Rewind` does not undo it.
    if fault is None:
        run.scheduler.step()
        state.skipped_in_a_row = 0
    tokens = sum(each.tokens for each in computed)
    state.step += 1
    state.epoch, state.position = run.batches.after(state.epoch, state.position)
    state.tokens += tokens
    epoch = state.epoch + state.position / max(len(run.batches.triplets), 1)
    record |= {"grad_norm": norm, "tokens": tokens}
    if state.skipped_steps:
        record["skipped_steps"] = state.skipped_steps
    return {"step": state.step, "epoch": epoch, **record}


def _gradients(run: Run, context: FitContext, batches: Sequence[TripletBatch]) -> list[Computed]:
    totals = label_totals(batches)
    count = len(run.processes.shard(batches))
    done = 0
    weight = 1  # 0 for a micro-batch that only keeps the other processes company

    def backward(loss: torch.Tensor) -> None:
        scaled = run.scaler.scale(loss * weight)
        try:
            scaled.backward()
        except RuntimeError as error:
            if "returned nan values" not in str(error):  # anomaly detection's message
                raise
            fault = f"loss {scaled.item()} ({error})"
            triplets = offenders([Computed(batch.ids, 0, {}, {}) for batch in batches])
            left_out(run.state, fault, triplets, overflow=False, most=0)

    def work(place: int, batch: TripletBatch) -> StepResult:
        nonlocal done, weight
        weight = int(run.processes.owns(place))
        # By place, not by process: dropout's masks then don't depend on the number of processes.
        seed_micro_batch(run.config.train.seed, run.state.step, place)
        result = run.step(batch.to(run.device), totals, backward)
        done += 1
        for callback in run.callbacks:
            callback.on_micro_batch(context, done, count)
        return result

    with torch.autograd.set_detect_anomaly(run.config.train.detect_anomaly):
        return compute(batches, run.processes, work)


def _change_weights(run: Run, rewind: Rewind, fault: str | None) -> None:
    rewind.mark_weights()
    # After an overflow the scaler itself skips the update, and lowers its scale.
    if fault is None or run.scaler.is_enabled():
        optimizer_step(run.optimizer, run.scaler)


@dataclass(frozen=True)
class Computed:
    """A micro-batch's results as plain values; `sums` and `counts` as in `StepResult`."""

    ids: tuple[str, ...]
    tokens: int
    sums: dict[str, float]
    counts: dict[str, int]


def compute(
    batches: Sequence[TripletBatch],
    processes: Processes,
    work: Callable[[int, TripletBatch], StepResult],
) -> list[Computed]:
    """Computes this process's share of the micro-batches, and returns all processes' results.

    Args:
        work: Computes a micro-batch, given its place in the step. Called in order. A micro-batch
            that another process owns (`Processes.owns`) comes last; its result is dropped.

    Returns:
        A result for each of `batches`, in their order, the same on every process.
    """

    def share() -> list[Computed]:
        mine = processes.shard(list(enumerate(batches)))
        results = [(batch, work(place, batch)) for place, batch in mine]
        # Reading a figure waits for the device, so all micro-batches are queued first.
        return [_plain(batch, result) for batch, result in results]

    return processes.unshard(processes.forward_all(share), len(batches))


def means(computed: Sequence[Computed]) -> dict[str, float]:
    """Returns each figure's mean; `loss` is already a sum of weighted shares."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for each in computed:
        for name, value in each.sums.items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + each.counts[name]
    return {name: sums[name] / (1 if name == "loss" else counts[name]) for name in sums}


def _plain(batch: TripletBatch, result: StepResult) -> Computed:
    values = torch.stack([value.double() for value in result.sums.values()]).tolist()
    sums = dict(zip(result.sums, values, strict=True))
    return Computed(batch.ids, len(batch.tokens), sums, result.counts)
