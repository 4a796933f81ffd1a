"""The training loop: steps, validation, callbacks, stopping."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import torch

from llmcausal.errors import Interrupted, NonFiniteLossError, OutOfMemoryError
from llmcausal.launched import MEMORY_OF_PROCESS
from llmcausal.train.batch import TripletBatch, label_totals
from llmcausal.train.callback import Callback, FitContext, Record
from llmcausal.train.checkpoint import BEST, Snapshot
from llmcausal.train.interrupt import signals_remembered
from llmcausal.train.objective import StepResult
from llmcausal.train.recovery import Recovery, Rewind
from llmcausal.train.update import Run, compute, means, update

STOPPING = "stopping: this step is finished and saved first; Ctrl-C again stops at once"


def fit(run: Run, snapshot: Snapshot) -> FitContext:
    """Trains until the last step, a callback's stop, a signal, or a failure.

    The last finished step is saved, unless a write fails or a second Ctrl-C stops at once.

    Raises:
        Interrupted: After SIGINT or SIGTERM.
        NonFiniteLossError: If more than `train.max_skipped_steps` steps in a row have a loss or
            gradient that is NaN or infinite.
        OutOfMemoryError: If memory runs out and no fallback is left.
        StorageError: If a write fails.
    """
    try:
        return _fit(run, snapshot)
    except OutOfMemoryError as error:
        if not run.processes.is_main:
            raise
        # The advice predicts memory, which takes time: the screen is closed by now.
        raise OutOfMemoryError(f"{error}\n{run.advice()}") from error


def _fit(run: Run, snapshot: Snapshot) -> FitContext:
    context = _context(run, snapshot)
    rewind = Rewind(run.modules, run.parameters, run.optimizer, run.scaler)
    recovery = Recovery(run.fallbacks, rewind, run.state, context.notes)
    processes = run.processes
    outcome = "failed"

    def received_by_any() -> int:
        return max(processes.all_gather(received[-1] if received else 0))

    with signals_remembered(lambda: context.notes.append(STOPPING)) as received:
        try:
            processes.run_all(
                lambda: _each(run.callbacks, lambda callback: callback.on_fit_start(context))
            )
            if not run.state.started:
                _start(run, context, recovery)
            signal_number = 0
            while run.state.step < run.total_steps and not context.stop_reason:
                # Steps are collective, and a signal may reach one rank only: all ranks must agree
                # to stop, or the others would wait for it forever.
                if signal_number := received_by_any():
                    break
                _advance(run, context, recovery)
            processes.on_main(context.save_checkpoint)
            outcome = "stopped" if context.stop_reason else "completed"
            # A signal may also arrive in the last step or while the checkpoint is written.
            if signal_number := signal_number or received_by_any():
                outcome = "interrupted"
                error = Interrupted(
                    f"Stopped at step {run.state.step} of {run.total_steps}; everything is saved. "
                    f"Continue with: llmcausal resume {run.run_dir}",
                    signal_number,
                )
                error.told = not processes.is_main
                raise error
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        except (OutOfMemoryError, NonFiniteLossError):
            # All ranks raise both, and no step is half applied: the checkpoint is the last
            # finished step's.
            processes.on_main(context.save_checkpoint)
            raise
        finally:
            # The stack calls every callback: a failing one must not leave the terminal or a file
            # of another open.
            with ExitStack() as stack:
                for callback in reversed(run.callbacks):
                    stack.callback(callback.on_fit_end, context, outcome)
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

    # The two functions above read it when they are called.
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


def _start(run: Run, context: FitContext, recovery: Recovery) -> None:
    """Writes step 0's record, with the untrained model's validation."""
    record: Record = {"step": 0, "epoch": 0.0}
    if run.config.validation.at_start:
        record.update(_validated(run, context, recovery))
    run.state.started = True
    _tell(run, context, record | recovery.figures())


def _advance(run: Run, context: FitContext, recovery: Recovery) -> None:
    state = run.state
    started = time.perf_counter()
    record = recovery.attempt(
        "training", f"at step {state.step + 1}", lambda: update(run, context, recovery.rewind)
    )
    record["seconds"] = time.perf_counter() - started
    state.train_seconds += record["seconds"]
    every = run.config.validation.every_steps
    due = state.step % every == 0 if every else state.position == 0
    try:
        if due or state.step == run.total_steps:
            record.update(_validated(run, context, recovery))
    except OutOfMemoryError:
        # The weights already changed: without this row, a resumed run would lack the step.
        _tell(run, context, record | recovery.figures())
        raise
    clear_every = run.config.train.empty_cache_every
    if clear_every and state.step % clear_every == 0 and run.device.type == "cuda":
        torch.cuda.empty_cache()
    _tell(run, context, record | recovery.figures())


def _tell(run: Run, context: FitContext, record: Record) -> None:
    def complete() -> int | None:
        _each(run.callbacks, lambda callback: callback.on_step_end(context, record))
        return record.get("memory_bytes")

    def show() -> str | None:
        _each(run.callbacks, lambda callback: callback.on_record(context, record))
        return context.stop_reason

    # Every rank measures itself before rank 0 shows the record.
    for index, memory in enumerate(run.processes.run_all(complete)):
        if index and memory is not None:
            record[f"{MEMORY_OF_PROCESS}{index}"] = memory
    context.stop_reason = run.processes.on_main(show)  # only rank 0's callbacks decide


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
    totals = label_totals(run.validation)

    def work(_: int, batch: TripletBatch) -> StepResult:
        result = run.step(batch.to(run.device), totals)
        batch_done()
        return result

    with torch.no_grad():
        computed = compute(run.validation, run.processes, work)
    measured = {**means(computed), **(run.probe(batch_done) if run.probe else {})}
    return {f"val_{name}": value for name, value in measured.items()}


def _each(callbacks: Iterable[Callback], call: Callable[[Callback], None]) -> None:
    for callback in callbacks:
        call(callback)
