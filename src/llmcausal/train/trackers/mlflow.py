"""MLflow: the server that MLFLOW_TRACKING_URI names, else a database in the output directory."""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcausal.config import TrackingSection
from llmcausal.train.trackers.tracker import Row, TrackedRun, Tracker, missing_package

FOLDER = ".mlflow"
"""In the output directory; no run's name starts with a dot."""
DATABASE = "runs.db"
ADDRESS = "MLFLOW_TRACKING_URI"
LONGEST_SETTING = 6000
_STATUS = {"failed": "FAILED", "interrupted": "KILLED"}
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Defaults: no telemetry, and a server that is down is given up within a minute."""


class Mlflow(Tracker):
    """Logs through MLflow's client, which sends no user, host or source file by itself."""

    def __init__(self) -> None:
        self._client: Any = None
        self._run_id = ""

    @classmethod
    def problem(cls, tracking: TrackingSection) -> str | None:
        if missing := missing_package("mlflow", "sqlalchemy", "alembic", extra="trackers"):
            return missing
        if tracking.mode == "online" and not os.environ.get(ADDRESS):
            return f"{ADDRESS} is not set, but tracking.mode = 'online': set it, or mode = 'auto'"
        return None

    @classmethod
    def destination(cls, tracking: TrackingSection) -> str:
        address = "" if tracking.mode == "offline" else os.environ.get(ADDRESS)
        return ADDRESS if address else f"{FOLDER}/{DATABASE} in the output directory"

    def start(self, run: TrackedRun, run_id: str | None) -> str:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        mlflow = importlib.import_module("mlflow")
        address = "" if run.tracking.mode == "offline" else os.environ.get(ADDRESS, "")
        folder = run.run_dir.parent / FOLDER
        if not address:
            folder.mkdir(exist_ok=True)
            files = importlib.import_module("mlflow.utils.file_utils")
            address = str(files.path_to_local_sqlite_uri(str(folder / DATABASE)))
            run.notes.append(f"mlflow: mlflow ui --backend-store-uri {address}")
        self._client = mlflow.MlflowClient(tracking_uri=address)
        if run_id and self._exists(mlflow, run_id):
            self._run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
        else:  # also if the server has lost that run
            local = folder / "artifacts" if folder.is_dir() else None
            self._run_id = self._create(run, local)
        return self._run_id

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        metric = importlib.import_module("mlflow.entities").Metric
        now = int(time.time() * 1000)
        metrics = [metric(name, value, now, step) for name, value in figures.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def log_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        self._client.log_dict(self._run_id, table, f"{name}/step-{step}.json")

    def log_files(self, name: str, files: Sequence[Path]) -> None:
        for file in files:
            self._client.log_artifact(self._run_id, str(file), name)

    def finish(self, outcome: str) -> None:
        self._client.set_terminated(self._run_id, _STATUS.get(outcome, "FINISHED"))

    def _exists(self, mlflow: Any, run_id: str) -> bool:
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except mlflow.exceptions.MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _create(self, run: TrackedRun, local: Path | None) -> str:
        client, project = self._client, run.tracking.project
        experiment = client.get_experiment_by_name(project)
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            location = local.absolute().as_uri() if local else None
            experiment_id = client.create_experiment(project, artifact_location=location)
        created = client.create_run(experiment_id, run_name=run.name)
        run_id = str(created.info.run_id)
        param = importlib.import_module("mlflow.entities").Param
        client.log_batch(run_id, params=[param(*pair) for pair in _params(run.settings).items()])
        return run_id


def _params(settings: Mapping[str, Any]) -> dict[str, str]:
    """Returns `section.key: value`; a user's table is one value."""
    params: dict[str, str] = {}
    for name, value in settings.items():
        section = value if isinstance(value, Mapping) else {"": value}
        for key, item in section.items():
            text = item if isinstance(item, str) else json.dumps(item)
            params[f"{name}.{key}".rstrip(".")] = text[:LONGEST_SETTING]
    return params
