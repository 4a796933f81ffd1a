"""Sends a run's figures to Weights & Biases, or keeps them on disk for `wandb sync`."""

from __future__ import annotations

import importlib
import math
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from llmcausal.train.callback import Callback, FitContext, Record

NETWORK_TIMEOUT_SECONDS = 5.0
FINISH_TIMEOUT_SECONDS = 60.0


class WandbTracker(Callback):
    """Logs settings and every figure by step; offline when there is no login or no network.

    A failure here is told once in `context.notes` and switches the tracker off; it never stops
    training. Only settings and figures are sent: no source, console output, package list,
    host name, command line or environment. A resumed run goes on under the same id.

    Args:
        project: Project name at the tracker.
    """

    def __init__(self, project: str = "llmcausal") -> None:
        self.project = project
        self.run_id: str | None = None
        self._run: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the run's id at the tracker."""
        return {"run_id": self.run_id}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Goes on under the same id."""
        self.run_id = values["run_id"]

    def on_fit_start(self, context: FitContext) -> None:
        """Starts the tracker, offline where it must be."""
        self._attempt(context, lambda: self._start(context))

    def on_record(self, context: FitContext, record: Record) -> None:
        """Hands the figures to the tracker, which sends them in the background."""
        if self._run is not None:
            self._attempt(context, lambda: self._run.log(_figures(record)))

    def on_fit_end(self, context: FitContext, outcome: str) -> None:
        """Waits at most a minute for what is unsent."""
        if self._run is not None:
            exit_code = 1 if outcome == "failed" else 0
            self._attempt(context, lambda: self._run.finish(exit_code=exit_code))
            self._run = None

    def _attempt(self, context: FitContext, action: Callable[[], object]) -> None:
        try:
            action()
        except ImportError:
            self._run = None
            context.notes.append(
                "wandb is not installed, so nothing is tracked: pip install 'llmcausal[wandb]'"
            )
        except Exception as error:  # whatever a tracker does, training goes on
            self._run = None
            context.notes.append(
                f"wandb failed and is switched off ({type(error).__name__}: {error}); "
                "metrics.jsonl has every figure"
            )

    def _start(self, context: FitContext) -> None:
        wandb = importlib.import_module("wandb")
        reason = _reason_to_stay_offline(wandb)
        self.run_id = self.run_id or secrets.token_hex(8)
        self._run = wandb.init(
            project=self.project,
            id=self.run_id,
            resume="allow",
            name=context.config.name,
            dir=str(context.run_dir),
            config=context.config.model_dump(mode="json"),
            mode="offline" if reason else None,
            settings=_settings(wandb),
        )
        # A resumed run repeats the steps since its checkpoint; wandb's own step counter would
        # refuse them, so the step is a figure that the others are drawn against.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        if reason:
            context.notes.append(
                f"wandb is offline ({reason}); `wandb sync` sends {context.run_dir / 'wandb'} later"
            )


def _settings(wandb: Any) -> Any:
    return wandb.Settings(
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
        init_timeout=FINISH_TIMEOUT_SECONDS,
        finish_timeout=FINISH_TIMEOUT_SECONDS,
    )


def _reason_to_stay_offline(wandb: Any) -> str:
    """Returns why figures cannot be sent now, or nothing."""
    settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
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


def _figures(record: Record) -> dict[str, Any]:
    """Leaves non-finite figures out: wandb's charts stop at them."""
    return {
        key: value
        for key, value in record.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }
