"""One optimizer step: gradients of its micro-batches, added up, then the weights updated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from llmcausal.train.batch import TripletBatch, label_totals
from llmcausal.train.callback import FitContext, Record
from llmcausal.train.computed import Computed, compute, means
from llmcausal.train.non_finite import fault_of, left_out, offenders
from llmcausal.train.optimizer import optimizer_step
from llmcausal.train.recovery import Rewind
from llmcausal.train.rng import seed_micro_batch
from llmcausal.train.run import Run
from llmcausal.train.scoring import StepResult
from llmcausal.train.state import TrainState


def update(run: Run, context: FitContext, rewind: Rewind) -> Record:
    """Makes one optimizer step. What may run out of memory comes before the state moves on.

    Returns:
        The step's record: means of its figures, norm of its gradient, tokens.

    Raises:
        NonFiniteLossError: If loss or gradient is not finite, once too often in a row.
    """
    state = run.state
    for module in run.modules:
        module.train()
    run.optimizer.zero_grad(set_to_none=True)
    computed = _gradients(run, context, run.batches.step_at(state.epoch, state.position))
    run.processes.all_reduce(run.parameters)
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
    weight = 1

    def backward(loss: torch.Tensor) -> None:
        _backward(run.scaler.scale(loss * weight), run.state, batches)

    def work(place: int, batch: TripletBatch) -> StepResult:
        nonlocal done, weight
        weight = int(run.processes.owns(place))
        seed_micro_batch(run.config.train.seed, run.state.step, place)
        result = run.step(batch.to(run.device), totals, backward)
        done += 1
        for callback in run.callbacks:
            callback.on_micro_batch(context, done, count)
        return result

    with torch.autograd.set_detect_anomaly(run.config.train.detect_anomaly):
        return compute(batches, run.processes, work)


def _backward(loss: torch.Tensor, state: TrainState, batches: Sequence[TripletBatch]) -> None:
    try:
        loss.backward()
    except RuntimeError as error:
        if "returned nan values" not in str(error):  # what anomaly detection raises
            raise
        fault = f"loss {loss.item()} ({error})"
        everyone = [Computed(batch.ids, 0, {}, {}) for batch in batches]
        left_out(state, fault, offenders(everyone), overflow=False, most=0)


def _change_weights(run: Run, rewind: Rewind, fault: str | None) -> None:
    rewind.mark_weights()
    if run.scaler.is_enabled():
        run.scaler.step(run.optimizer)  # does nothing where it found a gradient that overflowed
        run.scaler.update()
    elif fault is None:
        optimizer_step(run.optimizer)
