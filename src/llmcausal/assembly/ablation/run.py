"""The ablation itself: one run after another, each finished, continued or begun."""

from __future__ import annotations

import gc
import importlib
import json
import math
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
from llmcausal.assembly.ablation.figures import FAILURE, base_row, combination_row, validation_of
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
from llmcausal.assembly.training import EVALUATION
from llmcausal.errors import Interrupted, NonFiniteLossError, UsageError
from llmcausal.evaluation.results import RESULTS
from llmcausal.ui.console import show_notes
from llmcausal.ui.drawings import ablation_plot
from llmcausal.ui.figures import duration
from llmcausal.ui.tables import ablation_markdown

JOURNAL = "optuna-journal.log"
OBJECTIVE = "val_attack_success_rate + (1 - val_utility), mean over seeds"
WORST = 2.0
"""The objective of a run that always obeys and never answers right; a failed one gets it too."""


class TrialSearch:
    """A search by TPE over the values given, kept in the ablation's folder.

    The objective is the best checkpoint's attack success on the validation probe plus the share
    of benign prompts not answered right: a point of utility lost weighs as much as a point of
    attack success. Test figures have no part in the choice, so they stay fair.

    Each choice depends on the trials before it and on its number, so an interrupted search
    continues as if it had not been.

    Args:
        plan: The ablation.
        trials: Trials in all, earlier calls included.

    Raises:
        UsageError: If Optuna is not installed, or the runs have no validation probe.
    """

    def __init__(self, plan: AblationPlan, trials: int) -> None:
        try:
            self._optuna: Any = importlib.import_module("optuna")
        except ImportError:
            raise UsageError(
                "--trials needs Optuna, which is not installed: pip install 'llmcausal[search]'"
            ) from None
        if not all(run.config.validation.attack_probe for run in plan.runs):
            raise UsageError(
                "--trials chooses by attack success and utility on validation data, which only the "
                "attack probe measures: add --set validation.attack_probe=24 or more"
            )
        self._plan = plan
        self._trials = trials
        self._combinations = {each.choices: each for each in plan.combinations}
        self._study: Any = None

    def open(self) -> int:
        """Opens the search kept in the folder, or a new one; returns how many trials it has."""
        optuna = self._optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        backend = optuna.storages.journal.JournalFileBackend(str(self._plan.folder / JOURNAL))
        self._study = optuna.create_study(
            study_name="ablation",
            storage=optuna.storages.JournalStorage(backend),
            direction="minimize",
            load_if_exists=True,
        )
        return len(self._complete())

    def run(
        self, run_combination: Callable[[Combination], Sequence[PlannedRun]]
    ) -> list[Combination]:
        """Runs trials until there are enough; returns the combinations tried, in grid order."""
        states = self._optuna.trial.TrialState
        for trial in self._study.get_trials(states=(states.RUNNING,)):
            if len(trial.params) < len(self._plan.axes):  # killed before it had chosen
                self._study.tell(trial.number, state=states.FAIL)
            else:
                self._finish(trial.number, trial.params, run_combination)
        while len(self._complete()) < self._trials:
            number = len(self._study.get_trials(deepcopy=False))
            seed = self._plan.base.train.seed + number
            self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
            trial = self._study.ask()
            for axis in self._plan.axes:
                trial.suggest_categorical(axis.name, axis.choices)
            self._finish(trial.number, trial.params, run_combination)
        tried = {self._combination(trial.params).number for trial in self._complete()}
        return [each for each in self._plan.combinations if each.number in tried]

    def summary(self) -> dict[str, Any]:
        """Returns the objective, every trial's value and the best combination."""
        trials = [
            {
                "number": trial.number,
                "combination": self._combination(trial.params).label,
                "value": trial.value,
            }
            for trial in self._complete()
        ]
        best = self._combination(self._study.best_trial.params).label
        return {"objective": OBJECTIVE, "best": best, "trials": trials}

    def _finish(
        self,
        number: int,
        params: dict[str, str],
        run_combination: Callable[[Combination], Sequence[PlannedRun]],
    ) -> None:
        runs = run_combination(self._combination(params))
        self._study.tell(number, sum(objective(run) for run in runs) / len(runs))

    def _combination(self, params: dict[str, str]) -> Combination:
        return self._combinations[tuple(params[axis.name] for axis in self._plan.axes)]

    def _complete(self) -> list[Any]:
        complete = self._optuna.trial.TrialState.COMPLETE
        trials: list[Any] = self._study.get_trials(deepcopy=False, states=(complete,))
        return trials


def objective(run: PlannedRun) -> float:
    """Returns what is minimized, of one run; the worst there is if it failed."""
    if (run.config.run_dir / FAILURE).is_file():
        return WORST
    figures = validation_of(run)
    obeyed, right = figures.get("val_attack_success_rate"), figures.get("val_utility")
    if obeyed is None or right is None:
        return WORST
    value = float(obeyed) + 1 - float(right)
    return value if math.isfinite(value) else WORST


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
