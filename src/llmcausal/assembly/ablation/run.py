"""The ablation itself: one run after another, each finished, continued or begun."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from llmcausal import assembly
from llmcausal.assembly import run_directory
from llmcausal.assembly.ablation.figures import FAILURE, base_row, combination_row
from llmcausal.assembly.ablation.grid import Combination
from llmcausal.assembly.ablation.plan import (
    AblationPlan,
    PlannedRun,
    make_plan,
    open_folder,
    read_record,
    write_record,
    write_text,
)
from llmcausal.assembly.ablation.search import TrialSearch
from llmcausal.assembly.training import EVALUATION
from llmcausal.errors import Interrupted, NonFiniteLossError
from llmcausal.evaluation.results import RESULTS
from llmcausal.ui.ablation_table import ablation_markdown
from llmcausal.ui.figures import duration
from llmcausal.ui.plots_ablation import ablation_plot
from llmcausal.ui.status import show_notes

MARKDOWN, PLOT = "ablation.md", "ablation.svg"


@dataclass(frozen=True)
class AblationRequest:
    """What `ablate` is asked for.

    Attributes:
        profile: Name or path of the settings that all runs share.
        vary: `KEY=V1,V2` or `K1,K2=V1:W1,V2:W2` each.
        overrides: `KEY=VALUE` each, for all runs.
        seeds: Repetitions of each combination, with `train.seed` and the numbers after it.
        trials: Let Optuna choose so many combinations; None runs them all.
        output_dir: The ablation's folder; None takes `ablate-NAME` in the profile's output_dir.
        plain: Plain lines in place of the live screen.
    """

    profile: str
    vary: Sequence[str]
    overrides: Sequence[str] = ()
    seeds: int = 1
    trials: int | None = None
    output_dir: Path | None = None
    plain: bool = False


def ablate(request: AblationRequest) -> dict[str, Any]:
    """Trains and evaluates every combination, or continues where an earlier call stopped.

    A run whose loss becomes non-finite is a result, and the table says so; any other error ends
    the ablation, and the same call continues it.

    Returns:
        `folder`, `rows` (the untouched base first, then each combination that was run; see
        `figures.combination_row`) and `search` (or None), as in `ablation.json`.

    Raises:
        Interrupted: After SIGINT or SIGTERM; nothing that was computed is lost.
        LlmcausalError: As `train`, and for arguments that do not fit together.
    """
    seeds, trials = request.seeds, request.trials
    plan = make_plan(
        request.profile,
        request.vary,
        overrides=request.overrides,
        seeds=seeds,
        search=trials is not None,
        output_dir=request.output_dir,
    )
    search = TrialSearch(plan, trials) if trials is not None else None
    notes = open_folder(plan)
    with run_directory.locked(plan.folder):
        show_notes([f"ablation: {plan.folder}", *notes])
        done = search.open() if search else 0
        total = (trials or len(plan.combinations)) * seeds
        runner = Runner(plan, request.plain, done=done * seeds, total=total)
        if search is not None:
            chosen = search.run(runner.run)
        else:
            chosen = plan.combinations
            for combination in chosen:
                runner.run(combination)
        return _conclude(plan, chosen, search)


def _conclude(
    plan: AblationPlan, chosen: Sequence[Combination], search: TrialSearch | None
) -> dict[str, Any]:
    rows = [combination_row(combination, plan.runs_of(combination)) for combination in chosen]
    if (base := base_row([run for each in chosen for run in plan.runs_of(each)])) is not None:
        rows.insert(0, base)
    result: dict[str, Any] = {"rows": rows, "search": search.summary() if search else None}
    record = {key: value for key, value in read_record(plan.folder).items() if key not in result}
    write_record(plan.folder, {**record, **result})
    result = {"folder": str(plan.folder), **result}
    write_text(plan.folder / MARKDOWN, ablation_markdown(result))
    write_text(plan.folder / PLOT, ablation_plot(rows))
    return result


class Runner:
    """Brings the runs of a combination to their end and tells how far the ablation is.

    Args:
        plan: The ablation.
        plain: Plain lines in place of the live screen.
        done: Runs of trials that earlier calls finished.
        total: Runs expected in all.
        clock: Seconds from any start, never going back.
    """

    def __init__(
        self,
        plan: AblationPlan,
        plain: bool,
        *,
        done: int,
        total: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._plain = plain
        self._total = total
        self._clock = clock
        self._seconds: list[float] = []
        self._done = done
        self._waiting = sum(_state(run) in ("new", "begun") for run in plan.runs)

    def run(self, combination: Combination) -> list[PlannedRun]:
        """Finishes every run of a combination and returns them.

        Raises:
            Interrupted: With how to go on.
        """
        runs = self._plan.runs_of(combination)
        for run in runs:
            self._finish(run)
        return runs

    def _finish(self, run: PlannedRun) -> None:
        state = _state(run)
        position = f"run {self._done + 1} of {self._total}: {run.config.name}"
        if state in ("finished", "failed"):
            show_notes([f"{position}: {state} before"])
        else:
            show_notes([f"{position}{self._estimate()}"])
            began = self._clock()
            self._execute(run, state)
            # What was left of an interrupted run says nothing of a whole one.
            self._seconds += [self._clock() - began] if state == "new" else []
            self._waiting -= 1
        self._done += 1

    def _execute(self, run: PlannedRun, state: str) -> None:
        run_dir = run.config.run_dir
        try:
            if state == "begun":
                assembly.resume(run_dir, plain=self._plain)
            else:
                shutil.rmtree(run_dir, ignore_errors=True)  # killed before it held anything
                assembly.train(run.config, plain=self._plain)
        except NonFiniteLossError as error:
            write_text(run_dir / FAILURE, json.dumps({"error": str(error)}) + "\n")
            show_notes([f"{run.config.name} failed: {error}"])
        except Interrupted as error:
            raise self._stopped(error.exit_code - 128) from error
        except KeyboardInterrupt:
            raise self._stopped(signal.SIGINT) from None
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _stopped(self, number: int) -> Interrupted:
        return Interrupted(
            f"Stopped in run {self._done + 1} of {self._total}; everything is saved in "
            f"{self._plan.folder}. Run the same command to continue.",
            number,
        )

    def _estimate(self) -> str:
        if not self._seconds:
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        left = duration(mean * min(self._waiting, self._total - self._done))
        return f" ({duration(mean)} per run so far, at most {left} left)"


def _state(run: PlannedRun) -> Literal["new", "begun", "finished", "failed"]:
    run_dir = run.config.run_dir
    if (run_dir / EVALUATION / RESULTS).is_file():
        return "finished"
    if (run_dir / FAILURE).is_file():
        return "failed"
    return "begun" if (run_dir / run_directory.CONFIG_FILE).is_file() else "new"
