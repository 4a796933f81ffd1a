"""`--trials`: Optuna chooses which combinations of the grid are worth a run."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from llmcausal.assembly.ablation.figures import FAILURE, validation_of
from llmcausal.assembly.ablation.grid import Combination
from llmcausal.assembly.ablation.plan import AblationPlan, PlannedRun
from llmcausal.errors import UsageError

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
