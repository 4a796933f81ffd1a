"""`train` and `resume`: prepare, build, fit, then show what was reached."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmcausal.assembly import run_directory
from llmcausal.assembly.adaptive import Parts
from llmcausal.assembly.build import (
    Built,
    Screen,
    build_run,
    build_snapshot,
    check_share,
    computed_whole,
    track_evaluation,
    trackers_closed,
)
from llmcausal.assembly.detecting import add_detector, center_projection
from llmcausal.assembly.evaluating import Asked, choose_triplets, evaluate_model, suite_name
from llmcausal.assembly.fallbacks import advice_after, build_fallbacks
from llmcausal.assembly.fetching import fetch_model
from llmcausal.assembly.prepare import PreparedData, prepare_data, settle_precision
from llmcausal.assembly.strategy_choice import plan_run
from llmcausal.config import CheckpointSection, RunConfig
from llmcausal.errors import CheckpointError, DataError, LlmcausalError, UsageError
from llmcausal.evaluation.results import RESULTS, write_results
from llmcausal.model.device import choose_device
from llmcausal.profile import config_differences, load_config
from llmcausal.train.build import learns_detector
from llmcausal.train.callback import Callback
from llmcausal.train.callbacks.early_stopping import EarlyStopping
from llmcausal.train.callbacks.metrics_log import FILE_NAME as METRICS
from llmcausal.train.callbacks.monitors import MemoryMonitor
from llmcausal.train.checkpoint import (
    BEST,
    MANIFEST,
    discard_after,
    newest_good,
    prune,
    read_manifest,
    recover,
    verify,
)
from llmcausal.train.interrupt import stopping_explained
from llmcausal.train.loop import fit
from llmcausal.train.processes import process_group
from llmcausal.train.run import Run
from llmcausal.train.snapshot import CONFIG, restore_weights
from llmcausal.ui.console import console, show_notes, status, wants_dashboard
from llmcausal.ui.figures import duration
from llmcausal.ui.progress import Forecast
from llmcausal.ui.report import write_run_report

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
"""Decides what the attack probe measures, and so what a run that has one selects."""
EVALUATION = "evaluation"
NATURAL = "natural"
"""Suite of the gate."""
_DEBUG = {
    "data": {"max_samples": 8, "min_samples": 1},
    "train": {"max_steps": 4, "detect_anomaly": True, "empty_cache_every": 1},
    "validation": {"every_steps": 1, "at_start": True},
    "checkpoint": {"every_steps": 2},
    "evaluation": {"max_samples": 4, "max_new_tokens": 8},
    "tracking": {"trackers": ()},
}


@dataclass(frozen=True)
class TrainOutcome:
    """How a run ended.

    Attributes:
        run_dir: Its directory.
        stop_reason: Why it ended before the last step, if it did.
        steps: Steps done.
        best_value: Best value of the metric that decides.
        evaluation: Result of the final evaluation, if one was made.
    """

    run_dir: Path
    stop_reason: str | None
    steps: int
    best_value: float | None
    evaluation: dict[str, Any] | None


def train(config: RunConfig, *, plain: bool, debug: bool) -> TrainOutcome:
    """Trains a fresh run in a directory of its own.

    Raises:
        LlmcausalError: With what is wrong and what to do; see `llmcausal.errors`.
    """
    began = time.monotonic()
    if debug:
        config = _for_debugging(config)
    with ExitStack() as stack:
        processes = stack.enter_context(process_group(choose_device(config.model.device)))
        check_share(config.train, config.memory, processes)
        config, precision = processes.on_main(lambda: settle_precision(config))
        if config.data.answers == "model":
            processes.on_main(lambda: fetch_model(config.model))
        with status("Reading the data"):
            data = prepare_data(config)
        planned = processes.on_main(lambda: plan_run(config, data))
        absolute = run_directory.with_absolute_paths(planned.config)
        named = processes.on_main(lambda: run_directory.claim_name(absolute))
        processes.on_main(lambda: fetch_model(config.model))
        with status("Loading the model"):
            built = build_run(named, data, named.run_dir, _screen(plain), processes)
            center_projection(built, data)
        processes.on_main(lambda: run_directory.create(named, planned.record))
        processes.on_main(lambda: stack.enter_context(run_directory.locked(named.run_dir)))
        stack.enter_context(trackers_closed(built.run))
        return _fit_and_show(built, data, [*precision, *planned.notes], began)


def resume(target: Path, *, plain: bool, allow_changes: bool) -> TrainOutcome:
    """Goes on with a run from its newest good checkpoint, or from the one named.

    Raises:
        CheckpointError: If there is no good checkpoint, or data, settings or template changed.
    """
    began = time.monotonic()
    target = target.resolve()
    named = (target / MANIFEST).is_file()
    run_dir = target.parent if named else target
    if not (run_dir / run_directory.CONFIG_FILE).is_file():
        raise UsageError(
            f"{target}: neither a run directory nor a checkpoint inside one; "
            "a run directory holds config.toml"
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
        if config.data.answers == "model":
            processes.on_main(lambda: fetch_model(config.model))
        with status("Reading the data"):
            data = prepare_data(config)
        changes = []
        if checkpoint is not None:
            changes = _refuse_changes(config, data, checkpoint, allow_changes)
        notes += changes
        notes += [
            f"not bit for bit: {change} since the run began"
            for change in run_directory.version_changes(run_dir)
        ]
        processes.on_main(lambda: fetch_model(config.model))
        with status("Loading the model"):
            built = build_run(config, data, run_dir, _screen(plain), processes)
            if checkpoint is not None:
                build_snapshot(built, data.fingerprints).restore(checkpoint)
            else:
                center_projection(built, data)
        _skip_what_is_gone(built.run)
        notes += processes.on_main(lambda: _leave_later_behind(built.run))
        if changes and checkpoint is not None:
            _forget_what_does_not_compare(built.run, checkpoint)
        stack.enter_context(trackers_closed(built.run))
        return _fit_and_show(built, data, notes, began)


def _choose_checkpoint(run_dir: Path, named: Path | None) -> tuple[Path | None, list[str]]:
    if named is not None:
        recover(run_dir)
        verify(named)
        return named, [f"resuming from {named.name}"]
    checkpoint, damaged = newest_good(run_dir)
    notes = [f"passed over: {reason}" for reason in damaged]
    if checkpoint is None:
        return None, [*notes, "no checkpoint was written yet: starting again from step 0"]
    return checkpoint, [*notes, f"resuming from {checkpoint.name}"]


def _skip_what_is_gone(run: Run) -> None:
    """Goes on with the next epoch, if the data was allowed to become shorter than this one."""
    state = run.state
    if state.position >= len(run.batches.triplets):
        state.epoch, state.position = state.epoch + 1, 0


def _leave_later_behind(run: Run) -> list[str]:
    """Deletes what lies after the point that the run goes on from: it is another future."""
    state = run.state
    if not state.started:
        (run.run_dir / METRICS).unlink(missing_ok=True)
    discarded = discard_after(run.run_dir, state.step)
    prune(run.run_dir, run.config.checkpoint.keep)  # what a kill kept the last checkpoint from
    return [f"deleted {folder.name}, which is newer than step {state.step}" for folder in discarded]


def _forget_what_does_not_compare(run: Run, checkpoint: Path) -> None:
    """Lets the next validation decide afresh what is best, where the best so far says nothing.

    That is so if `best/` lies in a future that will not come, or was chosen by another figure.
    """
    before, now = load_config(checkpoint / CONFIG), run.config
    best = run.run_dir / BEST
    abandoned = best.is_dir() and verify(best)["step"] != run.state.best_step
    if abandoned or _chosen_by(before.checkpoint) != _chosen_by(now.checkpoint):
        run.state.best_value = run.state.best_step = None
    watched = [(each.early_stopping.metric, each.early_stopping.mode) for each in (before, now)]
    for callback in run.callbacks:
        if isinstance(callback, EarlyStopping) and watched[0] != watched[1]:
            callback.forget()


def _chosen_by(section: CheckpointSection) -> tuple[str, str]:
    return section.best_metric, section.best_mode


def _fit_and_show(built: Built, data: PreparedData, notes: list[str], began: float) -> TrainOutcome:
    run = built.run
    config, run_dir, processes = run.config, run.run_dir, run.processes
    trained = 0.0
    stop_reason = None
    evaluation = None
    results = run_dir / EVALUATION / RESULTS
    if run.state.step < run.total_steps:
        run.notes[:0] = [f"run: {run_dir}", *notes]
        if processes.is_main:
            run.callbacks = [Forecast(_tokens_to_answer(config, data)), *run.callbacks]
        processes.on_main(lambda: results.unlink(missing_ok=True))
        run.fallbacks = build_fallbacks(built)
        started = time.monotonic()
        run.advice = partial(advice_after, built, data)
        with computed_whole(config.model, built.model, built.loaded.device, processes):
            stop_reason = fit(run, build_snapshot(built, data.fingerprints)).stop_reason
        trained = time.monotonic() - started
    else:
        show_notes([*notes, f"{run_dir}: all {run.total_steps} steps are already done"])
    best = run_dir / BEST
    shown = best if best.is_dir() else run_dir / f"checkpoint-{run.state.step}"
    evaluates = config.evaluation.at_end and not processes.on_main(results.is_file)
    with stopping_explained(f"Continue with: llmcausal resume {run_dir}"):
        if best.is_dir() and (evaluates or learns_detector(config.loss)):
            verify(best)
            restore_weights(best, built.model, built.step.objective.projection)
        add_detector(built, data, shown)
        if evaluates:
            gate = _pass_gate(built, data) if config.evaluation.gate else []
            evaluation = _evaluated(built, data)
            if processes.is_main:
                _show([*gate, evaluation])
                track_evaluation(run, evaluation)
    if not processes.is_main:
        return TrainOutcome(run_dir, stop_reason, run.state.step, None, evaluation)
    report = write_run_report(run_dir)
    whole = time.monotonic() - began
    if trained or evaluation:
        rest = f"the rest {duration(whole - trained)}"
        show_notes([f"took {duration(whole)}: training {duration(trained)}, {rest}"])
    show_notes([f"report: {report}"])
    show_notes([f"next: llmcausal eval --checkpoint {shown}"])
    return TrainOutcome(run_dir, stop_reason, run.state.step, run.state.best_value, evaluation)


def _pass_gate(built: Built, data: PreparedData) -> list[dict[str, Any]]:
    """Evaluates on what shares nothing with training, or says why that cannot be done."""
    try:
        return [_evaluated(built, data, NATURAL)]
    except DataError as error:  # such as a model whose context is too short for these prompts
        show_notes([f"the suite {NATURAL} gives no verdict: {error}"])
        return []


def _evaluated(built: Built, data: PreparedData, suite: str | None = None) -> dict[str, Any]:
    """Evaluates on a suite, the run's by default, and writes the result."""
    run = built.run
    notes: list[str] = []
    parts = Parts(built.model, data.template, built.step, other=None)
    name = suite_name(run.config.data, run.config.evaluation, suite)
    triplets = choose_triplets(run.config.data, name, notes)
    asked = Asked(name, reads=suite is None, notes=notes)
    result = evaluate_model(run.config, parts, triplets, asked, run.processes)
    if run.processes.is_main:
        folder = f"{EVALUATION}-{suite}" if suite else EVALUATION
        write_results(result, run.run_dir / folder)
    return result


def _tokens_to_answer(config: RunConfig, data: PreparedData) -> int:
    """Counts the prompts and longest answers of the final evaluation, of both sides."""
    section = config.evaluation
    if not section.at_end:
        return 0
    try:
        suites = [suite_name(config.data, section), *([NATURAL] if section.gate else [])]
        triplets = [t for suite in suites for t in choose_triplets(config.data, suite)][
            : section.max_samples
        ]
        prompts = {(t.system, t.user_text(m)) for t in triplets for m in ("benign", "injection")}
        lengths = [len(data.template.encode_prompt(*prompt)) for prompt in prompts]
    except LlmcausalError:  # the evaluation itself will say what is wrong
        return 0
    return 2 * sum(length + section.max_new_tokens for length in lengths)


def _refuse_changes(
    config: RunConfig, data: PreparedData, checkpoint: Path, allow: bool
) -> list[str]:
    saved = load_config(checkpoint / CONFIG)
    changes = [
        f"setting {change}"
        for change in config_differences(saved, config)
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
        raise CheckpointError(
            "\n".join(
                [
                    f"{checkpoint}: cannot be resumed exactly, since this changed:",
                    *(f"  {change}" for change in changes),
                    "Undo this, or continue anyway with --allow-changes.",
                ]
            )
        )
    return [f"allowed: {change}" for change in changes]


def _for_debugging(config: RunConfig) -> RunConfig:
    values = config.model_dump(exclude_unset=True)  # the planner asks what was set by hand
    for section, settings in _DEBUG.items():
        values.setdefault(section, {}).update(settings)
    values["name"] = f"{config.name}-debug"[:100]
    return RunConfig.model_validate(values)


def _screen(plain: bool) -> Screen:
    def make(memory: MemoryMonitor) -> Callback:
        if wants_dashboard(plain, console()):
            from llmcausal.ui.dashboard import Dashboard

            return Dashboard(console(), memory)
        from llmcausal.ui.progress import PlainLog

        return PlainLog(console())

    return make


def _show(results: Sequence[dict[str, Any]]) -> None:
    """Shows one screen: what tells most of the suite of the run, and a table of all."""
    from llmcausal.ui.tables import OneScreen

    console().print(OneScreen(results))
