"""`train` and `resume`: data, memory plan, model, fit, detector, evaluation, report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from llmcausal.assembly import run_directory
from llmcausal.assembly.build import (
    Built,
    Screen,
    build_run,
    build_snapshot,
    check_share,
    computed_whole,
    trackers_closed,
)
from llmcausal.assembly.evaluating import Parts, choose_suite, evaluate_model
from llmcausal.assembly.prepare import PreparedData, fetch_model, prepare_data, settle_precision
from llmcausal.config import RunConfig
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.errors import CheckpointError, DataError, LlmcausalError, UsageError
from llmcausal.evaluation.detection import CALIBRATION, calibrate_head, why_off
from llmcausal.evaluation.forward import Readable, read
from llmcausal.evaluation.generation import evaluation_mode
from llmcausal.evaluation.results import RESULTS, write_results
from llmcausal.memory.runs import Fallbacks, plan_run
from llmcausal.metrics import COSINES
from llmcausal.model.device import choose_device, out_of_memory_explained
from llmcausal.profile import config_differences, load_config
from llmcausal.train.batch import Needs, collate
from llmcausal.train.build import build_contrastive, build_projection, learns_detector
from llmcausal.train.callbacks.early_stopping import EarlyStopping
from llmcausal.train.callbacks.metrics_log import FILE_NAME as METRICS
from llmcausal.train.checkpoint import (
    BEST,
    CONFIG,
    MANIFEST,
    PROJECTION,
    TRAINING_STATE,
    add_files,
    discard_after,
    has_projection,
    newest_good,
    prune,
    read_manifest,
    recover,
    restore_weights,
    verify,
)
from llmcausal.train.detector import LEARNING_RATE, learn_detector
from llmcausal.train.interrupt import stopping_explained
from llmcausal.train.loop import fit
from llmcausal.train.processes import Processes, process_group
from llmcausal.train.recovery import release
from llmcausal.train.update import Run
from llmcausal.ui.console import ProgressLine, console, show_notes, status, wants_dashboard
from llmcausal.ui.figures import duration
from llmcausal.ui.progress import Dashboard, Forecast, PlainLog
from llmcausal.ui.report import write_run_report
from llmcausal.ui.tables import OneScreen

EVALUATION = "evaluation"
NATURAL = "natural"
"""The gate's suite."""
CENTERED_ON = 32
"""Number of training triplets whose mean state centers a fresh projection head."""
_RESUMABLE = (
    "name",
    "output_dir",
    "tracking.",
    "evaluation.",
    "checkpoint.every_steps",
    "checkpoint.keep",
    "memory.shards",
)
_PROBE_SETTING = "evaluation.max_new_tokens"
"""It decides what the attack probe measures, and so which checkpoint a run with a probe selects."""
_DEBUG = {
    "data": {"max_samples": 8, "min_samples": 1},
    "train": {"max_steps": 4, "detect_anomaly": True, "empty_cache_every": 1},
    "validation": {"every_steps": 1, "at_start": True},
    "checkpoint": {"every_steps": 2},
    "evaluation": {"max_samples": 4, "max_new_tokens": 8},
    "tracking": {"trackers": ()},
}


@dataclass(frozen=True)
class TrainRequest:
    """The options of `train`; `plain` replaces the live screen by lines."""

    config: RunConfig
    plain: bool = False
    debug: bool = False


@dataclass(frozen=True)
class ResumeRequest:
    """The options of `resume`; `target` is a run directory or one of its checkpoints."""

    target: Path
    plain: bool = False
    allow_changes: bool = False


@dataclass(frozen=True)
class TrainOutcome:
    """How a run ended; `stop_reason` is why it ended before the last step, if it did."""

    run_dir: Path
    stop_reason: str | None
    steps: int
    best_value: float | None
    evaluation: dict[str, Any] | None


@out_of_memory_explained("outside a step")
def train(request: TrainRequest) -> TrainOutcome:
    began = time.monotonic()
    config = _for_debugging(request.config) if request.debug else request.config
    with ExitStack() as stack:
        processes = stack.enter_context(process_group(choose_device(config.model.device)))
        check_share(config.train, config.memory, processes)
        config, notes = processes.on_main(lambda: settle_precision(config))
        data = _read_data(config, processes)
        planned = processes.on_main(lambda: plan_run(config, data.train, status))
        absolute = run_directory.with_absolute_paths(planned.config)
        named = processes.on_main(lambda: run_directory.claim_name(absolute))
        built = _load(named, data, request.plain, processes)
        _center_projection(built)
        processes.on_main(lambda: run_directory.create(named, planned.record))
        processes.on_main(lambda: stack.enter_context(run_directory.locked(named.run_dir)))
        stack.enter_context(trackers_closed(built.tracking))
        return _fit_and_show(built, [*notes, *planned.notes], began)


@out_of_memory_explained("outside a step")
def resume(request: ResumeRequest) -> TrainOutcome:
    """Continues a run from its newest good checkpoint, or from the named one.

    Raises:
        CheckpointError: If there is no good checkpoint, or data, settings or template changed.
    """
    began = time.monotonic()
    target = request.target.resolve()
    named = (target / MANIFEST).is_file()
    run_dir = target.parent if named else target
    if not (run_dir / run_directory.CONFIG_FILE).is_file():
        raise UsageError(
            f"{target}: neither a run directory nor a checkpoint inside one; "
            "a run directory contains config.toml"
        )
    config = load_config(run_dir / run_directory.CONFIG_FILE).model_copy(
        update={"name": run_dir.name, "output_dir": run_dir.parent}
    )
    with ExitStack() as stack:
        processes = stack.enter_context(process_group(choose_device(config.model.device)))
        processes.on_main(lambda: stack.enter_context(run_directory.locked(run_dir)))
        checkpoint, notes = processes.on_main(
            lambda: _choose_checkpoint(run_dir, target if named else None)
        )
        notes += processes.on_main(lambda: settle_precision(config))[1]
        data = _read_data(config, processes)
        changes = []
        if checkpoint is not None:
            changes = _refuse_changes(config, data, checkpoint, request.allow_changes)
        notes += changes
        notes += [
            f"not bit for bit: {change} since the run began"
            for change in run_directory.version_changes_since_start(run_dir)
        ]
        built = _load(config, data, request.plain, processes)
        if checkpoint is not None:
            build_snapshot(built).restore(checkpoint)
        else:
            _center_projection(built)
        state = built.run.state
        if state.position >= len(built.run.batches.triplets):  # allowed changes made it shorter
            state.epoch, state.position = state.epoch + 1, 0
        notes += processes.on_main(lambda: _delete_later(built.run))
        if changes and checkpoint is not None:
            _forget_incomparable(built.run, checkpoint)
        stack.enter_context(trackers_closed(built.tracking))
        return _fit_and_show(built, notes, began)


def _read_data(config: RunConfig, processes: Processes) -> PreparedData:
    if config.data.answers == "model":
        processes.on_main(lambda: fetch_model(config.model))
    with status("Reading the data"):
        return prepare_data(config)


def _load(config: RunConfig, data: PreparedData, plain: bool, processes: Processes) -> Built:
    processes.on_main(lambda: fetch_model(config.model))
    with status("Loading the model"):
        return build_run(config, data, _screen(plain), processes)


def _choose_checkpoint(run_dir: Path, named: Path | None) -> tuple[Path | None, list[str]]:
    if named is not None:
        recover(run_dir)
        verify(named)
        if not (named / TRAINING_STATE).is_file():
            raise CheckpointError(
                f"{named}: an exported adapter has no state of the training; resume {run_dir}"
            )
        return named, [f"resuming from {named.name}"]
    checkpoint, damaged = newest_good(run_dir)
    notes = [f"passed over: {reason}" for reason in damaged]
    if checkpoint is None:
        return None, [*notes, "no checkpoint was written yet: starting again from step 0"]
    return checkpoint, [*notes, f"resuming from {checkpoint.name}"]


def _refuse_changes(
    config: RunConfig, data: PreparedData, checkpoint: Path, allow: bool
) -> list[str]:
    changes = [
        f"setting {change}"
        for change in config_differences(load_config(checkpoint / CONFIG), config)
        if not change.startswith(_RESUMABLE)
        or (config.validation.attack_probe and change.startswith(_PROBE_SETTING))
    ]
    manifest = read_manifest(checkpoint)  # verified when it was chosen
    for split, digest in data.fingerprints["data"].items():
        if manifest["data"].get(split) != digest:
            changes.append(f"the {split} data ({getattr(config.data, split)}) is not the same")
    if manifest["template"] != data.fingerprints["template"]:
        changes.append("the chat template or the tokenizer is not the same")
    if changes and not allow:
        lines = [
            f"{checkpoint}: cannot be resumed exactly, since this changed:",
            *(f"  {change}" for change in changes),
            "Undo this, or continue anyway with --allow-changes.",
        ]
        raise CheckpointError("\n".join(lines))
    return [f"allowed: {change}" for change in changes]


def _delete_later(run: Run) -> list[str]:
    """Deletes checkpoints and figures that are newer than the step from which the run continues."""
    state = run.state
    if not state.started:
        (run.run_dir / METRICS).unlink(missing_ok=True)
    discarded = discard_after(run.run_dir, state.step)
    prune(run.run_dir, run.config.checkpoint.keep)  # a kill may have prevented the last pruning
    return [f"deleted {folder.name}, which is newer than step {state.step}" for folder in discarded]


def _forget_incomparable(run: Run, checkpoint: Path) -> None:
    """Forgets the best value so far if it is not comparable with later ones.

    This is so if `best/` is newer than the checkpoint, or another metric selected it.
    """
    before, now = load_config(checkpoint / CONFIG), run.config
    best = run.run_dir / BEST
    abandoned = best.is_dir() and verify(best)["step"] != run.state.best_step
    chosen_by = [(each.checkpoint.best_metric, each.checkpoint.best_mode) for each in (before, now)]
    if abandoned or chosen_by[0] != chosen_by[1]:
        run.state.best_value = run.state.best_step = None
    watched = [(each.early_stopping.metric, each.early_stopping.mode) for each in (before, now)]
    for callback in run.callbacks:
        if isinstance(callback, EarlyStopping) and watched[0] != watched[1]:
            callback.forget()


def _fit_and_show(built: Built, notes: list[str], began: float) -> TrainOutcome:
    run = built.run
    config, run_dir, processes = run.config, run.run_dir, run.processes
    trained = 0.0
    stop_reason: str | None = None
    evaluation: dict[str, Any] | None = None
    results = run_dir / EVALUATION / RESULTS
    if run.state.step < run.total_steps:
        run.notes[:0] = [f"run: {run_dir}", *notes]
        if processes.is_main:
            run.callbacks = [Forecast(_tokens_to_answer(config, built.data)), *run.callbacks]
        processes.on_main(lambda: results.unlink(missing_ok=True))
        validation = built.data.validation
        fallbacks = Fallbacks(run, built.step, built.loaded, built.model, validation)
        run.fallbacks = fallbacks.ladder()
        run.advice = partial(fallbacks.advice, built.data.train, status)
        started = time.monotonic()
        with computed_whole(config.model, built.model, built.loaded.device, processes):
            stop_reason = fit(run, build_snapshot(built)).stop_reason
        trained = time.monotonic() - started
    else:
        show_notes([*notes, f"{run_dir}: all {run.total_steps} steps are already done"])
    best = run_dir / BEST
    release([built.loaded.device])
    shown = best if best.is_dir() else run_dir / f"checkpoint-{run.state.step}"
    evaluates = config.evaluation.at_end and not processes.on_main(results.is_file)
    with stopping_explained(f"Continue with: llmcausal resume {run_dir}"):
        if best.is_dir() and (evaluates or learns_detector(config.loss)):
            verify(best)
            restore_weights(best, built.model, built.step.objective.projection)
        _add_detector(built, shown)
        if evaluates:
            gate = _pass_gate(built) if config.evaluation.gate else []
            evaluation = _evaluated(built)
            if processes.is_main:
                console().print(OneScreen([*gate, evaluation]))
                if built.tracking is not None:
                    built.tracking.log_evaluation(evaluation, run.state.step)
    if not processes.is_main:
        return TrainOutcome(run_dir, stop_reason, run.state.step, None, evaluation)
    report = write_run_report(run_dir)
    whole = time.monotonic() - began
    if trained or evaluation:
        rest = f"the rest {duration(whole - trained)}"
        show_notes([f"took {duration(whole)}: training {duration(trained)}, {rest}"])
    show_notes([f"report: {report}", f"next: llmcausal eval --checkpoint {shown}"])
    return TrainOutcome(run_dir, stop_reason, run.state.step, run.state.best_value, evaluation)


def _pass_gate(built: Built) -> list[dict[str, Any]]:
    """Evaluates on the gate's suite, or reports why this is impossible."""
    try:
        return [_evaluated(built, NATURAL)]
    except DataError as error:  # such as a model whose context is too short for these prompts
        show_notes([f"the suite {NATURAL} gives no verdict: {error}"])
        return []


def _evaluated(built: Built, suite: str | None = None) -> dict[str, Any]:
    """Evaluates on a suite, by default the run's, and writes the result."""
    run = built.run
    result = evaluate_model(
        run.config,
        Parts(built.model, built.data.template, built.step, processes=run.processes),
        choose_suite(run.config.data, run.config.evaluation, suite),
        reads=suite is None,
    )
    if run.processes.is_main:
        folder = f"{EVALUATION}-{suite}" if suite else EVALUATION
        write_results(result, run.run_dir / folder)
    return result


def _tokens_to_answer(config: RunConfig, data: PreparedData) -> int:
    """Estimates the tokens of the final evaluation: prompts and longest answers of both sides."""
    section = config.evaluation
    if not section.at_end:
        return 0
    try:
        suites: list[str | None] = [None, NATURAL] if section.gate else [None]
        triplets = [t for s in suites for t in choose_suite(config.data, section, s).triplets]
        prompts = {t.prompt(m) for t in triplets for m in ("benign", "injection")}
        lengths = [len(data.template.encode_prompt(*prompt)) for prompt in prompts]
    except LlmcausalError:  # the evaluation itself reports what is wrong
        return 0
    return 2 * sum(length + section.max_new_tokens for length in lengths)


def _center_projection(built: Built) -> None:
    """Centers a fresh projection head on the mean representation of the run's data."""
    step = built.step
    if step.objective.projection is None:
        return
    needs = Needs(frozenset({"benign"}), frozenset())
    pooling = built.run.config.loss.pooling
    with torch.no_grad():
        rows = [
            step.representations(collate([triplet], needs, pooling).to(built.loaded.device), needs)[
                "benign"
            ]
            for triplet in built.data.train[:CENTERED_ON]
        ]
    step.objective.projection.center(torch.cat(rows))


def _add_detector(built: Built, checkpoint: Path) -> None:
    """Puts a detector on the model, if the settings ask for one.

    It is the checkpoint's, or is trained here and added to the checkpoint. The model must have the
    checkpoint's weights.
    """
    config, processes, step = built.run.config, built.run.processes, built.step
    if not learns_detector(config.loss):
        return
    head = build_projection(config.loss, step.trunk.head.shape[1], config.train.seed)
    contrastive = build_contrastive(config.loss)
    if head is None or contrastive is None:
        return
    if processes.on_main(lambda: has_projection(checkpoint)):
        head.load_state_dict(safetensors.torch.load_file(checkpoint / PROJECTION))
    elif processes.is_main or processes.sharded:
        section, data = config.train, built.data
        train = _representations(built, data.train[: section.projection_triplets], "training")
        validation = None
        if data.validation:
            validation = _representations(built, data.validation, "validation")
        figures = learn_detector(
            head,
            contrastive,
            train,
            validation,
            learning_rate=section.projection_learning_rate or LEARNING_RATE,
            seed=section.seed,
        )
        if processes.is_main:
            notes = list[str]()
            weights = {name: value.contiguous() for name, value in head.state_dict().items()}
            files = {PROJECTION: safetensors.torch.save(weights)}
            if validation is not None:
                found = calibrate_head(head, validation, [each.id for each in data.validation])
                files[CALIBRATION] = json.dumps(found).encode()
                notes = [f"detector off: {off}"] if (off := why_off(found)) else []
            add_files(checkpoint, files)
            cosines = [f"{m.short} {figures[m.name]:.2f}" for m in COSINES if m.name in figures]
            shown = f"; validation: {', '.join(cosines)}" if cosines else ""
            show_notes([f"detector trained{shown}", *notes])
    step.objective = replace(step.objective, projection=head.to(built.loaded.device))


def _representations(built: Built, triplets: Sequence[EncodedTriplet], split: str) -> Any:
    config = built.run.config
    with (
        evaluation_mode(built.model),
        computed_whole(config.model, built.model, built.loaded.device, built.run.processes),
    ):
        return read(
            built.step,
            [Readable(triplet, answered=False) for triplet in triplets],
            pooling=config.loss.pooling,
            batch_size=config.validation.batch_size,
            projected=False,
            progress=ProgressLine(f"states for the detector, {split}"),
        ).representations


def _for_debugging(config: RunConfig) -> RunConfig:
    values = config.model_dump(exclude_unset=True)  # the planner must know what the user has set
    for section, settings in _DEBUG.items():
        values.setdefault(section, {}).update(settings)
    values["name"] = f"{config.name}-debug"[:100]
    return RunConfig.model_validate(values)


def _screen(plain: bool) -> Screen:
    live = wants_dashboard(plain, console())
    return lambda memory: Dashboard(console(), memory) if live else PlainLog(console())
