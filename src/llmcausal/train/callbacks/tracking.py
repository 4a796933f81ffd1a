"""Hands a run's figures, answers and best checkpoint to the trackers, each on its own thread."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Full, Queue
from typing import Any

from llmcausal.config import RunConfig, TrackingSection
from llmcausal.errors import ConfigError
from llmcausal.train.callback import Callback, FitContext, Record
from llmcausal.train.checkpoint import BEST, CONFIG, MANIFEST, TRAINING_STATE
from llmcausal.train.trackers import TRACKERS
from llmcausal.train.trackers.tracker import Row, TrackedRun, Tracker

START_SECONDS = 60.0
"""How long a tracker may take to start; only the first checkpoint waits for it."""
FINISH_SECONDS = 60.0
"""How long the end of a run waits for unsent figures."""
QUEUED = 1000
"""Calls that may wait; a slower tracker is switched off."""
MESSAGE_LENGTH = 300
_COLUMNS = ("id", "family", "category", "member", "prompt", "expected", "answer", "obeyed", "right")
_BASE_COLUMNS = ("base_answer", "base_obeyed", "base_right")
_KEPT_HERE = (TRAINING_STATE, MANIFEST, CONFIG)
_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def load_trackers(tracking: TrackingSection) -> dict[str, type[Tracker]]:
    """Returns the settings' trackers, by name.

    Raises:
        ConfigError: If one is unknown, not installed, or does not support `tracking.mode`.
    """
    kinds: dict[str, type[Tracker]] = {}
    for name in tracking.trackers:
        kind = TRACKERS.load(name)
        if not (isinstance(kind, type) and issubclass(kind, Tracker)):
            raise ConfigError(
                f"tracking.trackers: {name!r}: derive it from "
                "llmcausal.train.trackers.tracker.Tracker"
            )
        if problem := kind.problem(tracking):
            raise ConfigError(f"tracking.trackers: {name}: {problem}")
        kinds[name] = kind
    return kinds


class _TrackerThread:
    """Calls a tracker's methods in order, on a daemon thread, until one fails."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.begun = threading.Event()
        self.run_id: str | None = None
        self.failure: str | None = None  # why no more actions run
        self._actions: Queue[Callable[[], object] | None] = Queue(QUEUED)
        threading.Thread(target=self._work, daemon=True, name="tracker").start()

    def start(self, run: TrackedRun, run_id: str | None) -> None:
        try:
            self.run_id = self.tracker.start(run, run_id)
        finally:
            self.begun.set()

    def give(self, action: Callable[[], object]) -> None:
        """Queues an action; never waits."""
        if self.failure is not None:
            return
        try:
            self._actions.put_nowait(action)
        except Full:
            self.failure = f"it is {QUEUED} calls behind"

    def wait(self, seconds: float) -> bool:
        """Waits until all actions are done, or skipped after a failure."""
        queue = self._actions
        with queue.all_tasks_done:
            return queue.all_tasks_done.wait_for(lambda: not queue.unfinished_tasks, seconds)

    def end(self) -> None:
        """Ends the thread after its current action."""
        self.failure = self.failure or "it has ended"
        with suppress(Full):
            self._actions.put_nowait(None)

    def _work(self) -> None:
        for action in iter(self._actions.get, None):
            try:
                if self.failure is None:
                    action()
            except BaseException as error:  # no tracker's error may stop training
                # On one line, without an address's password.
                text = " ".join(f"{type(error).__name__}: {error}".split())
                self.failure = re.sub(r"//[^/@\s]+@", "//", text)[:MESSAGE_LENGTH]
            self._actions.task_done()


class Tracking(Callback):
    """Owns a run's trackers and their run ids, which checkpoints keep.

    A tracker that fails or falls behind is noted once and switched off; training and the other
    trackers continue. Trackers get finite figures only.
    """

    def __init__(self, config: RunConfig, kinds: Mapping[str, type[Tracker]]) -> None:
        # Returns the latest validation's answers, if its attack probe is on.
        self.answers: Callable[[], Sequence[Row]] = tuple
        self._config = config
        self._kinds = kinds
        self._run_ids: dict[str, str] = {}
        self._tracked: dict[str, _TrackerThread] = {}
        self._notes: list[str] = []
        self._started = False
        self._shown = 0
        self._outcome = "failed"
        self._deadline = 0.0

    @property
    def active(self) -> bool:
        return bool(self._tracked)

    def state_dict(self) -> dict[str, Any]:
        """Returns the run's id at each tracker; waits for trackers that are starting."""
        late = "it did not start within a minute"
        self._await(late, self._deadline, lambda each, seconds: each.begun.wait(seconds))
        return {"run_ids": self._ids()}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        ids = values["run_ids"].items()
        self._run_ids = {name: run_id for name, run_id in ids if _RUN_ID.fullmatch(run_id)}

    def on_fit_start(self, context: FitContext) -> None:
        state = context.state
        self._notes = context.notes
        self._start(state.step + 1 if state.started else 0)

    def on_record(self, context: FitContext, record: Record) -> None:
        step, figures = int(record["step"]), _finite(record)
        self._give(lambda tracker: tracker.log(step, figures))
        if any(key.startswith("val_") for key in record):
            self._give_table("validation_answers", self.answers(), step)
        self._tell_failures()

    def on_fit_end(self, context: FitContext, outcome: str) -> None:
        self._outcome = outcome  # `close` reports it: the final evaluation may come first
        self._tell_failures()
        self._shown = len(self._notes)

    def log_evaluation(self, result: Mapping[str, Any], step: int) -> None:
        """Logs the final evaluation; starts the trackers if there was nothing left to train.

        Args:
            result: As in `evaluation/results.py`.
            step: Number of trained steps.
        """
        if not self._started:
            self._outcome = "completed"
            self._start(step + 1)
        figures = _finite(_evaluation_figures(result))
        self._give(lambda tracker: tracker.summarize(figures, step))
        self._give_table("evaluation_answers", result["generations"], step)

    def close(self) -> list[str]:
        """Ends the trackers within a minute, and returns new notes for the user."""
        outcome, best = self._outcome, self._config.run_dir / BEST
        ended_well = outcome in ("completed", "stopped")
        if self._config.tracking.log_model and ended_well and best.is_dir():
            files = [file for file in sorted(best.iterdir()) if file.name not in _KEPT_HERE]
            self._give(lambda tracker: tracker.log_files("best", files))
        self._give(lambda tracker: tracker.finish(outcome))
        deadline = time.monotonic() + FINISH_SECONDS
        late = "it did not finish within a minute, so it may lack the last figures"
        self._await(late, deadline, _TrackerThread.wait)
        self._run_ids = self._ids()
        for tracked in self._tracked.values():
            tracked.end()
        self._tracked = {}
        return self._notes[self._shown :]

    def _start(self, first_step: int) -> None:
        config = self._config
        run = TrackedRun(
            name=config.name,
            run_dir=config.run_dir,
            settings=_without_folders(config.model_dump(mode="json")),
            tracking=config.tracking,
            first_step=first_step,
            notes=self._notes,
        )
        self._started = True
        self._deadline = time.monotonic() + START_SECONDS
        for name, kind in self._kinds.items():
            tracked = self._tracked[name] = _TrackerThread(kind())
            tracked.give(partial(tracked.start, run, self._run_ids.get(name)))

    def _ids(self) -> dict[str, str]:
        began = {name: each.run_id for name, each in self._tracked.items() if each.run_id}
        return {**self._run_ids, **began}

    def _give(self, call: Callable[[Tracker], object]) -> None:
        for tracked in self._tracked.values():
            tracked.give(partial(call, tracked.tracker))

    def _give_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        if self._config.tracking.tables and rows:
            table = _table(rows)
            self._give(lambda tracker: tracker.log_table(name, table, step))

    def _await(
        self, otherwise: str, deadline: float, wait: Callable[[_TrackerThread, float], bool]
    ) -> None:
        """Waits for every tracker until the deadline, and switches off the late ones."""
        for tracked in self._tracked.values():
            if not wait(tracked, max(deadline - time.monotonic(), 0.0)):
                tracked.failure = tracked.failure or otherwise
        self._tell_failures()

    def _tell_failures(self) -> None:
        for name, tracked in list(self._tracked.items()):
            if failure := tracked.failure:
                self._run_ids = self._ids()
                tracked.end()
                del self._tracked[name]
                self._notes.append(
                    f"tracker {name} is switched off: {failure}; metrics.jsonl has every figure"
                )


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the finite numbers, under names that every tracker accepts."""
    figures: dict[str, float] = {}
    for name, value in values.items():
        if value is None or isinstance(value, str):
            continue
        figure = float(value)
        if math.isfinite(figure):
            parts = [re.sub(r"[^A-Za-z0-9_ -]", "_", part).strip() for part in name.split("/")]
            figures["/".join(filter(None, parts))[:200] or "unnamed"] = figure
    return figures


def _without_folders(value: Any) -> Any:
    """Cuts absolute paths, which may contain the user's name, to their last part."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _table(rows: Sequence[Row]) -> list[Row]:
    has_base = any(row.get("base_answer") is not None for row in rows)
    columns = _COLUMNS + (_BASE_COLUMNS if has_base else ())
    return [{column: _encodable(row[column]) for column in columns} for row in rows]


def _encodable(value: Any) -> Any:
    """Escapes lone surrogates, which hostile data may have and encoders refuse."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _evaluation_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures of base, tuned and their difference, with intervals."""
    found: dict[str, Any] = {}
    for part in ("base", "tuned", "difference"):
        side = result[part] or {}
        for name, figure in {**side, **side.get("causal", {})}.items():
            if isinstance(figure, Mapping) and "value" in figure:
                key = f"evaluation/{part}/{name}"
                found[key] = figure["value"]
                found[f"{key}_low"] = figure["low"]
                found[f"{key}_high"] = figure["high"]
    return found
