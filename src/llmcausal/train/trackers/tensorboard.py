"""TensorBoard: event files in the run directory."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmcausal.config import TrackingSection
from llmcausal.train.trackers.tracker import Row, TrackedRun, Tracker, missing_package

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """Writes event files with torch's own writer; nothing leaves the machine."""

    def __init__(self) -> None:
        self._writer: Any = None

    @classmethod
    def problem(cls, tracking: TrackingSection) -> str | None:
        return missing_package("tensorboard", extra="trackers")

    @classmethod
    def destination(cls, tracking: TrackingSection) -> str:
        return f"{FOLDER}/ in the run directory"

    def start(self, run: TrackedRun, run_id: str | None) -> str:
        module = importlib.import_module("torch.utils.tensorboard")
        folder = run.run_dir / FOLDER
        resumed = folder.is_dir()
        self._writer = module.SummaryWriter(
            str(folder), purge_step=run.first_step if resumed else None
        )
        self._writer.add_text("settings", _literal([run.settings]), run.first_step)
        run.notes.append(f"tensorboard: tensorboard --logdir {folder}")
        return FOLDER

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def log_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        self._writer.add_text(name, _literal(rows), step)

    def finish(self, outcome: str) -> None:
        self._writer.close()


def _literal(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns JSON as a code block: TensorBoard would render links in Markdown."""
    return "\n".join(f"    {json.dumps(row)}" for row in rows)
