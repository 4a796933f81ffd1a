"""The loop: steps, validation, callbacks, stopping. It knows nothing of losses or screens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from llmcausal.config import RunConfig
from llmcausal.errors import Interrupted, NonFiniteLossError, OutOfMemoryError
from llmcausal.train.batch import TripletBatch, label_totals
from llmcausal.train.batches import Batches
from llmcausal.train.callback import Callback, FitContext, Record
from llmcausal.train.checkpoint import BEST
from llmcausal.train.interrupt import InterruptGuard
from llmcausal.train.non_finite import fault_of, left_out, offenders
from llmcausal.train.optimizer import optimizer_step
from llmcausal.train.recovery import ADVICE, Fallback, Place, Recovery, Rewind
from llmcausal.train.snapshot import Snapshot
from llmcausal.train.state import TrainState
from llmcausal.train.step import StepResult

STOPPING = "stopping: this step is finished and saved first; Ctrl-C again stops at once"


class StepFunction(Protocol):
    """What the loop calls for each micro-batch."""

    def __call__(
        self,
        batch: TripletBatch,
        totals: dict[str, int],
        backward: Callable[[torch.Tensor], None] | None = None,
    ) -> StepResult:
        """Returns the micro-batch's share of the step, gone backward from if `backward` is given.

        `backward` may be called several times, on scalars whose gradients add up to the share's.
        """
        ...


class Probe(Protocol):
    """Measures at a validation what a loss cannot; disturbs neither modes nor random states."""

    batches: int

    def __call__(self, batch_done: Callable[[], None]) -> dict[str, float]:
        """Returns figures of the model as it is now; calls `batch_done` `batches` times."""
        ...


@dataclass
class Run:
    """Everything that a run is made of; built by `assembly`.

    Attributes:
        config: Settings.
        run_dir: Run directory; exists.
        modules: Trained modules, for switching between training and evaluation mode.
        step: Computes a micro-batch.
        batches: Training data.
        validation: Validation batches.
        parameters: What the optimizer trains, for clipping.
        optimizer: With its states.
        scheduler: Learning-rate schedule.
        scaler: Loss scaler; does nothing but in fp16.
        state: Position and totals.
        callbacks: In order of their calls.
        device: Where the model is.
        total_steps: Optimizer steps of the whole run.
        notes: Facts to tell at the start.
        probe: Adds its figures to each validation.
        fallbacks: Leaner ways to train and to validate, for when memory runs out.
        advice: Says what to change when it runs out with no fallback left. Asked last of all,
            with everything saved and ended; must not raise.
    """

    config: RunConfig
    run_dir: Path
    modules: Sequence[torch.nn.Module]
    step: StepFunction
    batches: Batches
    validation: Sequence[TripletBatch]
    parameters: Sequence[torch.nn.Parameter]
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    state: TrainState
    callbacks: Sequence[Callback]
    device: torch.device
    total_steps: int
    notes: list[str]
    probe: Probe | None = None
    fallbacks: Mapping[Place, Sequence[Fallback]] = field(default_factory=dict)
    advice: Callable[[], str] = lambda: ADVICE


def fit(run: Run, snapshot: Snapshot) -> FitContext:
    """Trains until the last step, a callback's stop, a signal, or a failure.

    Args:
        run: What to train.
        snapshot: Writes its checkpoints.

    Raises:
        Interrupted: After SIGINT or SIGTERM, with the step finished and saved.
        NonFiniteLossError: If the loss or the gradient is NaN or infinite more often in a row
            than `train.max_skipped_steps`; the last finished step is saved.
        OutOfMemoryError: If memory runs out and no fallback is left; the last finished step is
            saved.
        StorageError: If the disk refuses a write.
    """
    try:
        return _fit(run, snapshot)
    except OutOfMemoryError as error:
        raise OutOfMemoryError(f"{error}\n{run.advice()}") from error


def _fit(run: Run, snapshot: Snapshot) -> FitContext:
    context = _context(run, snapshot)
    recovery = _recovery(run, context)
    outcome = "failed"
    with InterruptGuard(lambda: context.notes.append(STOPPING)) as guard:
        try:
            _each(run.callbacks, lambda callback: callback.on_fit_start(context))
            if not run.state.started:
                _start(run, context, recovery)
            while run.state.step < run.total_steps and not context.stop_reason:
                if guard.signal_number is not None:
                    break
                _advance(run, context, recovery)
            context.save_checkpoint()
            outcome = "stopped" if context.stop_reason else "completed"
            if guard.signal_number is not None:
                outcome = "interrupted"
                raise Interrupted(
                    f"Stopped at step {run.state.step} of {run.total_steps}; everything is saved. "
                    f"Go on with: llmcausal resume {run.run_dir}",
                    guard.signal_number,
                )
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        except (OutOfMemoryError, NonFiniteLossError):
            context.save_checkpoint()
            raise
        finally:
            _end(run, context, outcome)
    return context


def _context(run: Run, snapshot: Snapshot) -> FitContext:
    saved_step: int | None = None

    def save_checkpoint() -> Path:
        nonlocal saved_step
        folder = run.run_dir / f"checkpoint-{run.state.step}"
        if run.state.step != saved_step:
            snapshot.write(folder)
            saved_step = run.state.step
            _each(run.callbacks, lambda each: each.on_checkpoint(context, folder, False))
        return folder

    def save_best() -> Path:
        folder = snapshot.write(run.run_dir / BEST)
        _each(run.callbacks, lambda each: each.on_checkpoint(context, folder, True))
        return folder

    context = FitContext(
        config=run.config,
        run_dir=run.run_dir,
        state=run.state,
        total_steps=run.total_steps,
        steps_per_epoch=run.batches.steps_per_epoch,
        device=run.device,
        samples={
            "train": len(run.batches.triplets),
            "validation": sum(len(batch) for batch in run.validation),
        },
        save_checkpoint=save_checkpoint,
        save_best=save_best,
        notes=list(run.notes),
    )
    return context


def _recovery(run: Run, context: FitContext) -> Recovery:
    rewind = Rewind(run.modules, run.parameters, run.optimizer, run.scaler)
    return Recovery(run.fallbacks, rewind, run.state, context.notes)


def _start(run: Run, context: FitContext, recovery: Recovery) -> None:
    """Writes the record of step 0, with the untrained model's validation."""
    record: Record = {"step": 0, "epoch": 0.0}
    if run.config.validation.at_start:
        record.update(_validated(run, context, recovery))
    run.state.started = True
    _tell(run, context, record | recovery.figures())


def _advance(run: Run, context: FitContext, recovery: Recovery) -> None:
    state = run.state
    started = time.perf_counter()
    record = recovery.attempt(
        "training", f"at step {state.step + 1}", lambda: _train_step(run, context, recovery.rewind)
    )
    record["seconds"] = time.perf_counter() - started
    state.train_seconds += record["seconds"]
    every = run.config.validation.every_steps
    due = state.step % every == 0 if every else state.position == 0
    try:
        if due or state.step == run.total_steps:
            record.update(_validated(run, context, recovery))
    except OutOfMemoryError:
        _tell(run, context, record | recovery.figures())  # the step itself is done and counts
        raise
    clear_every = run.config.train.empty_cache_every
    if clear_every and state.step % clear_every == 0 and run.device.type == "cuda":
        torch.cuda.empty_cache()
    _tell(run, context, record | recovery.figures())


def _tell(run: Run, context: FitContext, record: Record) -> None:
    _each(run.callbacks, lambda callback: callback.on_step_end(context, record))
    _each(run.callbacks, lambda callback: callback.on_record(context, record))


def _train_step(run: Run, context: FitContext, rewind: Rewind) -> Record:
    """Makes one optimizer step. What may run out of memory comes before the state moves on."""
    state = run.state
    for module in run.modules:
        module.train()
    micro_batches = run.batches.step_at(state.epoch, state.position)
    totals = label_totals(micro_batches)
    run.optimizer.zero_grad(set_to_none=True)
    figures = _Figures()
    sums = []
    tokens, count = 0, len(micro_batches)

    def backward(loss: torch.Tensor) -> None:
        _backward(run.scaler.scale(loss), state, micro_batches)

    with torch.autograd.set_detect_anomaly(run.config.train.detect_anomaly):
        for done, batch in enumerate(micro_batches, start=1):
            result = run.step(batch.to(run.device), totals, backward)
            figures.add(result)
            sums.append(result.sums)
            tokens += len(batch.tokens)
            for callback in run.callbacks:
                callback.on_micro_batch(context, done, count)
    run.scaler.unscale_(run.optimizer)
    norm = float(torch.nn.utils.clip_grad_norm_(run.parameters, run.config.train.max_grad_norm))
    record = figures.means()
    fault = fault_of(record, norm)
    if fault is not None:
        overflow = run.scaler.is_enabled() and math.isfinite(record["loss"])
        most = run.config.train.max_skipped_steps
        triplets = offenders(micro_batches, sums)
        context.notes.append(left_out(state, fault, triplets, overflow=overflow, most=most))
    rewind.mark_weights()
    if run.scaler.is_enabled():
        run.scaler.step(run.optimizer)  # does nothing where it found a gradient that overflowed
        run.scaler.update()
    elif fault is None:
        optimizer_step(run.optimizer)
    if fault is None:
        run.scheduler.step()
        state.skipped_in_a_row = 0
    state.step += 1
    state.epoch, state.position = run.batches.after(state.epoch, state.position)
    state.tokens += tokens
    epoch = state.epoch + state.position / max(len(run.batches.triplets), 1)
    record |= {"grad_norm": norm, "tokens": tokens}
    if state.skipped_steps:
        record["skipped_steps"] = state.skipped_steps
    return {"step": state.step, "epoch": epoch, **record}


def _backward(loss: torch.Tensor, state: TrainState, batches: Sequence[TripletBatch]) -> None:
    try:
        loss.backward()
    except RuntimeError as error:
        if "returned nan values" not in str(error):  # what anomaly detection raises
            raise
        fault = f"loss {loss.item()} ({error})"
        left_out(state, fault, offenders(batches, [{}] * len(batches)), overflow=False, most=0)


def _validated(run: Run, context: FitContext, recovery: Recovery) -> Record:
    moment = f"in the validation after step {run.state.step}"
    return recovery.attempt("validation", moment, lambda: _validate(run, context))


def _validate(run: Run, context: FitContext) -> Record:
    if not run.validation:
        return {}
    batches = len(run.validation) + (run.probe.batches if run.probe else 0)
    _each(run.callbacks, lambda callback: callback.on_validation_start(context, batches))

    def batch_done() -> None:
        _each(run.callbacks, lambda callback: callback.on_validation_batch(context))

    for module in run.modules:
        module.eval()
    figures = _Figures()
    totals = label_totals(run.validation)
    with torch.no_grad():
        for batch in run.validation:
            figures.add(run.step(batch.to(run.device), totals))
            batch_done()
    measured = {**figures.means(), **(run.probe(batch_done) if run.probe else {})}
    return {f"val_{name}": value for name, value in measured.items()}


class _Figures:
    """Adds up the sums and counts of several micro-batches."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, result: StepResult) -> None:
        for name, value in result.sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + result.counts[name]

    def means(self) -> dict[str, float]:
        """Returns each figure's mean; `loss` is a sum of shares that are weighted already."""
        return {
            name: float(value) / (1 if name == "loss" else self.counts[name])
            for name, value in self.sums.items()
        }


def _each(callbacks: Iterable[Callback], call: Callable[[Callback], None]) -> None:
    for callback in callbacks:
        call(callback)


def _end(run: Run, context: FitContext, outcome: str) -> None:
    """Ends every callback, so that one that fails leaves no other's screen or file open."""
    with ExitStack() as stack:
        for callback in reversed(run.callbacks):
            stack.callback(callback.on_fit_end, context, outcome)
