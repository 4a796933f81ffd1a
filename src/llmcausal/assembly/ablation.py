"""`ablate`: every combination of some settings, trained and evaluated on the same prompts."""

from __future__ import annotations

import gc
import importlib
import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from llmcausal.assembly import run_directory, training
from llmcausal.assembly.ablation_plan import (
    AblationPlan,
    AblationRequest,
    Combination,
    PlannedRun,
    make_plan,
    open_folder,
    read_record,
    write_record,
    write_text,
)
from llmcausal.assembly.training import EVALUATION, ResumeRequest, TrainRequest
from llmcausal.data.triplet import SEEN
from llmcausal.errors import Interrupted, NonFiniteLossError, StorageError, UsageError
from llmcausal.evaluation import statistics
from llmcausal.evaluation.results import GENERATIONS, RESULTS
from llmcausal.evaluation.statistics import Estimate
from llmcausal.metrics import of
from llmcausal.model.device import out_of_memory_explained
from llmcausal.train.callbacks.metrics_log import FILE_NAME as METRICS
from llmcausal.train.callbacks.metrics_log import read_rows
from llmcausal.train.checkpoint import BEST, MANIFEST, read_manifest
from llmcausal.ui.console import show_notes
from llmcausal.ui.drawings import ablation_plot
from llmcausal.ui.figures import duration
from llmcausal.ui.tables import ablation_markdown

MARKDOWN, PLOT = "ablation.md", "ablation.svg"
JOURNAL = "optuna-journal.log"
OBJECTIVE = "val_attack_success_rate + (1 - val_utility), mean over seeds"
WORST = 2.0
"""The objective of a run that always obeys and never answers right, and of a failed one."""
FAILURE = "failure.json"
BASE_LABEL = "untouched base"
SHARES = {
    "attack_success_rate": ("injection", "obeyed"),
    "utility": ("benign", "right"),
    "utility_under_attack": ("injection", "right"),
}
"""For each share, the prompts and the verdict in generations.jsonl."""

_PERPLEXITIES = [metric.name for metric in of("perplexity")]
_CAUSAL = [metric.name for metric in of("causal")]
Values = dict[str, Any]


@out_of_memory_explained("outside a step")
def ablate(request: AblationRequest) -> dict[str, Any]:
    """Trains and evaluates every combination, or continues where an earlier call stopped.

    A run whose loss becomes non-finite is a result, and the table says so; any other error ends
    the ablation, and the same call continues it.

    Returns:
        `folder`, `rows` (the untouched base first, then each combination that was run; see
        `combination_row`) and `search` (or None), as in `ablation.json`.

    Raises:
        Interrupted: After SIGINT or SIGTERM; everything computed is kept.
        LlmcausalError: As `train`, and for arguments that do not fit together.
    """
    seeds, trials = request.seeds, request.trials
    plan = make_plan(request)
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
        rows = [combination_row(combination, plan.runs_of(combination)) for combination in chosen]
        if (base := base_row([run for each in chosen for run in plan.runs_of(each)])) is not None:
            rows.insert(0, base)
        result: Values = {"rows": rows, "search": search.summary() if search else None}
        write_record(plan.folder, {**read_record(plan.folder), **result})
        result = {"folder": str(plan.folder), **result}
        write_text(plan.folder / MARKDOWN, ablation_markdown(result))
        write_text(plan.folder / PLOT, ablation_plot(rows))
        return result


class TrialSearch:
    """A search by TPE over the given values, kept in the ablation's folder.

    The objective is the best checkpoint's attack success on the validation probe plus the share
    of benign prompts not answered right: a lost point of utility weighs as much as a point of
    attack success. Test figures do not influence the choice, so they stay fair.

    Each choice depends on the trials before it and on its number, so an interrupted search
    continues to the same result.

    Args:
        trials: Trials in all, including those of earlier calls.

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
    """Returns what the search minimizes, for one run; `WORST` if it failed."""
    if (run.config.run_dir / FAILURE).is_file():
        return WORST
    figures = validation_of(run)
    obeyed, right = figures.get("val_attack_success_rate"), figures.get("val_utility")
    if obeyed is None or right is None:
        return WORST
    value = float(obeyed) + 1 - float(right)
    return value if math.isfinite(value) else WORST


class Runner:
    """Finishes the runs of a combination and shows the ablation's progress.

    Args:
        done: Runs of trials that earlier calls finished.
        total: Runs expected in all.
    """

    def __init__(self, plan: AblationPlan, plain: bool, *, done: int, total: int) -> None:
        self._plan = plan
        self._plain = plain
        self._total = total
        self._seconds: list[float] = []
        self._done = done
        self._waiting = sum(_state(run) in ("new", "begun") for run in plan.runs)

    def run(self, combination: Combination) -> list[PlannedRun]:
        """Finishes every run of a combination; raises `Interrupted` with how to continue."""
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
            began = time.monotonic()
            self._execute(run, state)
            # The rest of an interrupted run takes less time than a whole run.
            self._seconds += [time.monotonic() - began] if state == "new" else []
            self._waiting -= 1
        self._done += 1

    def _execute(self, run: PlannedRun, state: str) -> None:
        run_dir = run.config.run_dir
        try:
            if state == "begun":
                training.resume(ResumeRequest(run_dir, self._plain))
            else:
                shutil.rmtree(run_dir, ignore_errors=True)  # killed before it held anything
                training.train(TrainRequest(run.config, self._plain))
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


def combination_row(combination: Combination, runs: Sequence[PlannedRun]) -> Values:
    """Sums up the runs of one combination.

    Returns:
        `label`, `settings`, `seeds` (each run's `seed`, `run`, shares, perplexities, `causal`,
        `validation` at the evaluated step) and `failed` (`seed`, `run`, `error`); each of
        `SHARES` as `{"value", "n", "low", "high"}`, see `share_over_seeds`; means over seeds of
        the perplexities and, in `causal`, of the causal metrics, with their `representation`.
    """
    seeds, failed, verdicts = [], [], []
    for run in runs:
        name = {"seed": run.seed, "run": run.config.name}
        if (failure := run.config.run_dir / FAILURE).is_file():
            failed.append({**name, **_read(failure)})
            continue
        tuned = _results(run)["tuned"]
        verdicts.append(_verdicts(run))
        figures = {share: share_over_seeds([verdicts[-1][share]])["value"] for share in SHARES}
        seeds.append({**name, **figures, **_others(tuned), "validation": validation_of(run)})
    shares = {
        share: share_over_seeds([by_share[share] for by_share in verdicts]) for share in SHARES
    }
    return {
        "label": combination.label,
        "settings": combination.settings,
        "seeds": seeds,
        "failed": failed,
        **shares,
        **{name: _mean([seed[name] for seed in seeds]) for name in _PERPLEXITIES},
        "causal": _mean_causal([seed["causal"] for seed in seeds]),
    }


def base_row(runs: Sequence[PlannedRun]) -> Values | None:
    """Returns the untouched base as a row, from the first run that was evaluated.

    A causal metric that the runs measured differently (another layer or pooling) is left out.
    """
    bases = [_results(run)["base"] for run in runs if not (run.config.run_dir / FAILURE).is_file()]
    if not bases:
        return None
    first, *others = [_others(base) for base in bases]
    shares = {name: bases[0][name] for name in SHARES}
    causal = {
        name: value
        for name, value in first["causal"].items()
        if all(other["causal"].get(name) == value for other in others)
    }
    return {
        "label": BASE_LABEL,
        "settings": {},
        "seeds": [{name: figure["value"] for name, figure in shares.items()}],
        "failed": [],
        **shares,
        **first,
        "causal": causal,
    }


def share_over_seeds(verdicts: Sequence[dict[str, bool]]) -> Estimate:
    """Mean share over seeds, with a 95% interval over the prompts that every seed answered.

    The seeds answer the same prompts, so the prompt is the sampled unit: the interval is a
    bootstrap of each prompt's mean over seeds. It is Wilson's for one seed, and where all answers
    are alike, since resampling these shows no spread.

    Args:
        verdicts: For each seed, the verdict by triplet id.

    Returns:
        `value`, `n` (prompts), `low`, `high`; all but `n` are None when nothing was measured.
    """
    shared = (
        [key for key in verdicts[0] if all(key in seed for seed in verdicts)] if verdicts else []
    )
    means = [sum(seed[key] for seed in verdicts) / len(verdicts) for key in shared]
    if set(means) <= {0.0, 1.0} and (len(verdicts) == 1 or len(set(means)) < 2):
        return statistics.proportion([bool(value) for value in means])
    return statistics.mean(means)


def validation_of(run: PlannedRun) -> Values:
    """Returns the validation figures of the checkpoint that was evaluated, and its step."""
    run_dir = run.config.run_dir
    rows = [
        row
        for row in read_rows(run_dir / METRICS)
        if row["step"] > 0 and any(key.startswith("val_") for key in row)
    ]
    if (run_dir / BEST / MANIFEST).is_file():
        best = read_manifest(run_dir / BEST)["step"]
        rows = [row for row in rows if row["step"] == best]
    if not rows:
        return {}
    return {key: rows[-1][key] for key in rows[-1] if key == "step" or key.startswith("val_")}


def _others(side: Values) -> Values:
    causal = side.get("causal") or {}
    measured = {name: causal[name]["value"] for name in _CAUSAL if name in causal}
    return {
        **{name: (side.get(name) or {}).get("value") for name in _PERPLEXITIES},
        "causal": {"representation": causal.get("representation"), **measured},
    }


def _mean_causal(seeds: Sequence[Values]) -> Values:
    if not seeds:
        return {}
    means = {name: _mean([seed.get(name) for seed in seeds]) for name in _CAUSAL}
    return {"representation": seeds[0]["representation"], **means}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _verdicts(run: PlannedRun) -> dict[str, dict[str, bool]]:
    """Returns each share's verdicts by triplet id, as an evaluation's headline counts them.

    Attacks from training do not count, and a repeated benign prompt counts once.
    """
    found: dict[str, dict[str, bool]] = {share: {} for share in SHARES}
    counted_before = set()
    file = run.config.run_dir / EVALUATION / GENERATIONS
    for row in _read_lines(file):
        if row["member"] == "benign" and row.get("novelty") != SEEN and row["right"] is not None:
            prompt = (row["system"], row["prompt"], row["expected"])
            if prompt in counted_before:
                continue
            counted_before.add(prompt)
        for share, (member, verdict) in SHARES.items():
            counted = row["member"] == member and row.get("novelty") != SEEN
            if counted and row[verdict] is not None:
                found[share][row["id"]] = row[verdict]
    return found


def _results(run: PlannedRun) -> Values:
    return _read(run.config.run_dir / EVALUATION / RESULTS)


def _read(file: Path) -> Values:
    try:
        values: Values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error
    return values


def _read_lines(file: Path) -> list[Values]:
    try:
        # Not splitlines(): an answer may hold other line separators.
        lines = file.read_text("utf-8").split("\n")
        return [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> StorageError:
    return StorageError(
        f"{file}: cannot be read: {error}. Delete the folder {file.parent} and run the same "
        "command again, which repeats the evaluation"
    )
