"""Weights & Biases, or its files on disk for `wandb sync`."""

from __future__ import annotations

import importlib
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcausal.config import TrackingSection
from llmcausal.train.trackers.tracker import Row, TrackedRun, Tracker, missing_package

NETWORK_TIMEOUT_SECONDS = 5.0
TIMEOUT_SECONDS = 50.0
"""Shorter than training's wait: the user then gets wandb's own message."""


class Wandb(Tracker):
    """Logs figures by step, offline without a login or network.

    Sends no source, console output, package list, host name, user, command line or environment.
    """

    def __init__(self) -> None:
        self._wandb: Any = None
        self._run: Any = None
        self._name = ""

    @classmethod
    def problem(cls, tracking: TrackingSection) -> str | None:
        if missing := missing_package("wandb", extra="wandb"):
            return missing
        if tracking.mode == "online" and (reason := reason_to_stay_offline(tracking)):
            return f"offline ({reason}), but tracking.mode = 'online': `wandb login`, or set 'auto'"
        return None

    @classmethod
    def destination(cls, tracking: TrackingSection) -> str:
        if reason := reason_to_stay_offline(tracking):
            return f"files in the run directory ({reason})"
        return f"{_settings_of_user(importlib.import_module('wandb')).base_url}"

    def start(self, run: TrackedRun, run_id: str | None) -> str:
        wandb = self._wandb = importlib.import_module("wandb")
        reason = reason_to_stay_offline(run.tracking)
        run_id = run_id or secrets.token_hex(8)
        self._name = run.name
        self._run = wandb.init(
            project=run.tracking.project,
            id=run_id,
            resume="allow",
            name=run.name,
            dir=str(run.run_dir),
            config=dict(run.settings),
            mode="offline" if reason else None,
            settings=wandb.Settings(
                reinit="create_new",
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                host="",
                username="",
                email="",
                program="",
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                init_timeout=TIMEOUT_SECONDS,
                finish_timeout=TIMEOUT_SECONDS,
            ),
        )
        # A resumed run repeats the steps since its checkpoint, which wandb's own step counter
        # refuses. So the step is a figure, and the others are drawn over it.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if reason:
            run.notes.append(
                f"wandb is offline ({reason}); `wandb sync {run.run_dir / 'wandb'}/offline-run-*` "
                "sends it later"
            )
        return run_id

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({**figures, "step": step})

    def summarize(self, figures: Mapping[str, float], step: int) -> None:
        self._run.summary.update(dict(figures))

    def log_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        table = self._wandb.Table(
            columns=list(rows[0]), data=[list(row.values()) for row in rows], allow_mixed_types=True
        )
        self._run.log({name: table, "step": step})

    def log_files(self, name: str, files: Sequence[Path]) -> None:
        artifact = self._wandb.Artifact(f"{self._name}-{name}", type="model")
        for file in files:
            artifact.add_file(str(file), name=file.name)
        self._run.log_artifact(artifact)

    def finish(self, outcome: str) -> None:
        self._run.finish(exit_code=1 if outcome == "failed" else 0)


def reason_to_stay_offline(tracking: TrackingSection) -> str:
    """Returns why W&B cannot get figures now, or nothing; takes up to five seconds."""
    if tracking.mode == "offline":
        return "tracking.mode says so"
    wandb = importlib.import_module("wandb")
    settings = _settings_of_user(wandb)
    if settings.mode == "disabled":
        return ""
    if settings.mode in ("offline", "dryrun"):
        return "WANDB_MODE or wandb's settings say so"
    if not wandb.login(prompt=False, verify=False):
        return "no login"
    try:
        urllib.request.urlopen(settings.base_url, timeout=NETWORK_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return ""  # it answered
    except (OSError, ValueError) as error:
        return f"{settings.base_url} cannot be reached: {error}"
    return ""


def _settings_of_user(wandb: Any) -> Any:
    return wandb.setup(settings=wandb.Settings(silent=True)).settings
