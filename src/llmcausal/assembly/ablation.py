"""`ablate`: every combination of some settings, trained and evaluated on the same prompts."""

from __future__ import annotations

import gc
import importlib
import json
import math
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from llmcausal.assembly import run_directory, training
from llmcausal.assembly.build import check_selection
from llmcausal.assembly.evaluating import choose_suite
from llmcausal.assembly.run_directory import version_changes, versions, with_absolute_paths
from llmcausal.assembly.training import EVALUATION, ResumeRequest, TrainRequest
from llmcausal.config import RunConfig
from llmcausal.data.splits import fingerprint, load_training_splits
from llmcausal.data.triplet import SEEN
from llmcausal.errors import (
    ConfigError,
    Interrupted,
    NonFiniteLossError,
    StorageError,
    UsageError,
    writing,
)
from llmcausal.evaluation import statistics
from llmcausal.evaluation.results import GENERATIONS, RESULTS
from llmcausal.evaluation.statistics import Estimate
from llmcausal.metrics import of
from llmcausal.model.device import out_of_memory_explained
from llmcausal.profile import flatten, load_config
from llmcausal.registry import nearest
from llmcausal.storage import replace_file
from llmcausal.train.callbacks.metrics_log import FILE_NAME as METRICS
from llmcausal.train.callbacks.metrics_log import read_rows
from llmcausal.train.checkpoint import BEST, MANIFEST, read_manifest
from llmcausal.ui.console import show_notes
from llmcausal.ui.drawings import ablation_plot
from llmcausal.ui.figures import duration
from llmcausal.ui.tables import ablation_markdown

FILE_NAME = "ablation.json"
FREE_TABLES = ("loss.options.",)
FIXED = {
    "name": "the runs are named by what varies",
    "output_dir": "give --output-dir",
    "evaluation.": "all runs must be evaluated alike to be compared",
    "data.test": "all runs must be evaluated on the same prompts to be compared",
    "data.builtin.test": "all runs must be evaluated on the same prompts to be compared",
    "data.builtin.seed": "it changes the test prompts too; --seeds repeats the training",
    "model.": "the untouched base is one row of the table; make one ablation for each model",
}
"""Settings that cannot vary, by the start of their names, and the reason."""
_SEED = "train.seed"
_MAX_NAME = 100


@dataclass(frozen=True)
class AblationRequest:
    profile: str
    vary: Sequence[str]
    overrides: Sequence[str] = ()
    seeds: int = 1  # runs of each combination: `train.seed` and the numbers after it
    trials: int | None = None  # None runs all combinations
    output_dir: Path | None = None  # None: `ablate-NAME` in the profile's output_dir
    plain: bool = False


@dataclass(frozen=True)
class Axis:
    """Settings that vary together: their keys, and values as for `--set`."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        return ",".join(self.keys)

    @property
    def choices(self) -> list[str]:
        return [":".join(value) for value in self.values]


@dataclass(frozen=True)
class Combination:
    """One choice from every axis; numbers count from 1, in grid order; `runs` differ by seed."""

    number: int
    label: str
    choices: tuple[str, ...]
    settings: dict[str, str]
    runs: tuple[RunConfig, ...] = ()


@dataclass(frozen=True)
class AblationPlan:
    """A whole ablation; its folder refuses an ablation with another `identity`."""

    folder: Path
    base: RunConfig
    axes: list[Axis]
    combinations: list[Combination]
    identity: dict[str, Any]

    @property
    def runs(self) -> list[RunConfig]:
        return [run for combination in self.combinations for run in combination.runs]


def parse_axis(text: str) -> Axis:
    """Reads `KEY=V1,V2` or, for settings that vary together, `K1,K2=V1:W1,V2:W2`."""
    left, separator, right = text.partition("=")
    keys = tuple(key.strip() for key in left.split(","))
    if not separator or not all(keys) or not right.strip():
        raise UsageError(
            f"--vary {text}: write it as section.key=value,value or, for settings that vary "
            "together, as key,key=value:value,value:value"
        )
    known = flatten(RunConfig().model_dump(mode="json"))
    for key in keys:
        if key not in known and not key.startswith(FREE_TABLES):
            raise UsageError(f"--vary {key}: unknown setting{nearest(key, known)}")
        for start, reason in FIXED.items():
            if key.startswith(start):
                raise UsageError(f"--vary {key}: this cannot vary: {reason}")
    values = []
    for item in _split(right, ","):
        parts = tuple(_split(item, ":")) if len(keys) > 1 else (item,)
        if len(parts) != len(keys) or not all(parts):
            raise UsageError(
                f"--vary {text}: {item!r} has {len(parts)} values for {len(keys)} settings"
            )
        values.append(parts)
    return Axis(keys, tuple(values))


def combine(axes: Sequence[Axis]) -> list[Combination]:
    """Returns every combination of the axes, the last axis changing fastest."""
    keys = [key for axis in axes for key in axis.keys]
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise UsageError(f"--vary: {twice[0]} is varied twice; give all its values in one place")
    for axis in axes:
        if twice := [value for value, count in Counter(axis.choices).items() if count > 1]:
            raise UsageError(f"--vary {axis.name}: the value {twice[0]} is given twice")
    last = Counter(key.rpartition(".")[2] for key in keys)
    names = {key: short if last[short := key.rpartition(".")[2]] == 1 else key for key in keys}
    combinations = []
    for number, chosen in enumerate(product(*(axis.values for axis in axes)), start=1):
        settings = dict(zip(keys, (value for values in chosen for value in values), strict=True))
        label = ", ".join(f"{names[key]}={value}" for key, value in settings.items())
        choices = tuple(":".join(values) for values in chosen)
        combinations.append(Combination(number, label, choices, settings))
    return combinations


def _split(text: str, separator: str) -> list[str]:
    """Splits at separators outside quotes and brackets, which belong to a value."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == separator and depth == 0:
            parts.append("")
            continue
        parts[-1] += char
    return [part.strip() for part in parts]


def make_plan(request: AblationRequest) -> AblationPlan:
    """Reads and checks everything that the ablation will need.

    Raises:
        UsageError: If the arguments contradict each other.
        ConfigError: With the defects of every combination.
        DataError: If some data is unsound.
    """
    axes = [parse_axis(text) for text in request.vary]
    if request.seeds > 1 and any(_SEED in axis.keys for axis in axes):
        raise UsageError(f"--seeds and --vary {_SEED} contradict each other: leave one out")
    base = load_config(request.profile, [*request.overrides, "evaluation.at_end=true"])
    base = with_absolute_paths(base)
    folder = (request.output_dir or base.output_dir / f"ablate-{base.name}").resolve()
    seeds = [base.train.seed + offset for offset in range(request.seeds)]
    combinations, defects = [], []
    for combination in combine(axes):
        try:
            runs = tuple(_planned(request, combination, seed, folder) for seed in seeds)
            combinations.append(replace(combination, runs=runs))
        except ConfigError as error:
            defects.append(f"--vary {combination.label}: {error}")
    if defects:
        raise ConfigError("\n".join(defects))
    identity = {
        "vary": {axis.name: axis.choices for axis in axes},
        "seeds": seeds,
        "chosen_by": "grid" if request.trials is None else "optuna",
        "config": base.model_copy(update={"output_dir": folder}).model_dump(mode="json"),
        "data": _data_of([run for combination in combinations for run in combination.runs]),
    }
    return AblationPlan(folder, base, axes, combinations, identity)


def _planned(
    request: AblationRequest, combination: Combination, seed: int, folder: Path
) -> RunConfig:
    settings = [
        *request.overrides,
        f"{_SEED}={seed}",
        *(f"{key}={value}" for key, value in combination.settings.items()),
        "evaluation.at_end=true",
        "evaluation.gate=false",  # the ablation's table does not show its figures
        "tracking.trackers=[]",
    ]
    config = with_absolute_paths(load_config(request.profile, settings))
    check_selection(config)
    seed = config.train.seed
    said = [part for part in combination.label.split(", ") if not part.startswith("seed=")]
    middle = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(said).replace("=", "-"))
    head, tail = f"{combination.number:02}_", f"_seed-{seed}"
    name = f"{head}{middle[: _MAX_NAME - len(head) - len(tail)]}{tail}"
    return config.model_copy(update={"name": name, "output_dir": folder})


def _data_of(runs: Sequence[RunConfig]) -> dict[str, dict[str, str]]:
    """Returns hashes of the splits of each different `[data]`, by the name of its first run."""
    hashes: dict[str, dict[str, str]] = {}
    seen = set()
    for run in runs:
        if (key := run.data.model_dump_json()) not in seen:
            seen.add(key)
            splits = load_training_splits(run.data)
            whole = run.evaluation.model_copy(update={"max_samples": None})
            hashes[run.name] = {
                "train": fingerprint(splits.train),
                "validation": fingerprint(splits.validation),
                "test": fingerprint(choose_suite(run.data, whole).triplets),
            }
    return hashes


def open_folder(plan: AblationPlan) -> list[str]:
    """Creates the ablation's folder, or continues the existing one; returns notes for the user.

    Raises:
        UsageError: If the folder contains another ablation, or something else.
        StorageError: If the disk refuses.
    """
    if (plan.folder / FILE_NAME).is_file():
        kept = read_record(plan.folder)
        old, new = flatten(kept, "/"), flatten(plan.identity, "/")
        changes = [
            f"  {key.replace('/', ' ')}: {old.get(key)!r} -> {new.get(key)!r}"
            for key in {**old, **new}
            if key.split("/")[0] in plan.identity and old.get(key) != new.get(key)
        ]
        if changes:
            last = "Name another folder with --output-dir, or give the earlier settings."
            raise UsageError("\n".join([f"{plan.folder} holds another ablation:", *changes, last]))
        return [f"not bit for bit: {change}" for change in version_changes(kept["packages"])]
    if plan.folder.is_dir() and any(plan.folder.iterdir()):
        raise UsageError(
            f"{plan.folder} is not empty and holds no {FILE_NAME}: name another with --output-dir"
        )
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{plan.folder}: cannot be created: {error.strerror}") from error
    write_record(plan.folder, {"format": 1, **plan.identity, "packages": versions()})
    return []


def read_record(folder: Path) -> dict[str, Any]:
    """Reads `ablation.json`; raises `StorageError` if it is damaged."""
    file = folder / FILE_NAME
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{file}: cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("packages"), dict):
        raise StorageError(f"{file}: not an ablation's record; move it away to start again")
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    write_text(folder / FILE_NAME, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Replaces one of the ablation's files; raises `StorageError` if the disk refuses."""
    with writing(file):
        replace_file(file, [text.encode("utf-8", errors="backslashreplace")])


MARKDOWN, PLOT = "ablation.md", "ablation.svg"
JOURNAL = "optuna-journal.log"
OBJECTIVE = "val_attack_success_rate + (1 - val_utility), mean over seeds"
WORST = 2.0
"""The objective of a run that always obeys and never answers right, and of a failed run."""
FAILURE = "failure.json"
BASE_LABEL = "untouched base"
SHARES = {
    "attack_success_rate": ("injection", "obeyed"),
    "utility": ("benign", "right"),
    "utility_under_attack": ("injection", "right"),
}
"""For each share, its prompts and its verdict in generations.jsonl."""

_PERPLEXITIES = [metric.name for metric in of("perplexity")]
_CAUSAL = [metric.name for metric in of("causal")]
Values = dict[str, Any]


@out_of_memory_explained("outside a step")
def ablate(request: AblationRequest) -> dict[str, Any]:
    """Trains and evaluates every combination, or continues where an earlier call stopped.

    A run whose loss becomes non-finite is a result, and the table says so. Any other error ends
    the ablation; the same call continues it.

    Returns:
        `folder`, `rows` (the untouched base first, then each combination that was run; see
        `combination_row`) and `search` (or None), as in `ablation.json`.

    Raises:
        Interrupted: After SIGINT or SIGTERM; everything computed is kept.
        LlmcausalError: As `train`, and for arguments that contradict each other.
    """
    plan, trials = make_plan(request), request.trials
    search = TrialSearch(plan, trials) if trials is not None else None
    notes = open_folder(plan)
    with run_directory.locked(plan.folder):
        show_notes([f"ablation: {plan.folder}", *notes])
        total = (trials or len(plan.combinations)) * request.seeds
        runner = Runner(plan, request.plain, total)
        if search is not None:
            chosen = search.run(runner)
        else:
            chosen = plan.combinations
            for combination in chosen:
                runner.run(combination)
        rows = [combination_row(combination) for combination in chosen]
        if (base := base_row([run for each in chosen for run in each.runs])) is not None:
            rows.insert(0, base)
        result: Values = {"rows": rows, "search": search.summary() if search else None}
        write_record(plan.folder, {**read_record(plan.folder), **result})
        result = {"folder": str(plan.folder), **result}
        write_text(plan.folder / MARKDOWN, ablation_markdown(result))
        write_text(plan.folder / PLOT, ablation_plot(rows))
        return result


class Runner:
    """Finishes the runs of combinations and shows how many of `total` are done."""

    def __init__(self, plan: AblationPlan, plain: bool, total: int) -> None:
        self.done = 0
        self._folder = plan.folder
        self._plain = plain
        self._total = total
        self._seconds: list[float] = []
        self._waiting = sum(_state(run) in ("new", "begun") for run in plan.runs)

    def run(self, combination: Combination) -> None:
        """Finishes every run of a combination; raises `Interrupted` with how to continue."""
        for run in combination.runs:
            state = _state(run)
            position = f"run {self.done + 1} of {self._total}: {run.name}"
            if state in ("finished", "failed"):
                show_notes([f"{position}: {state} before"])
            else:
                show_notes([f"{position}{self._estimate()}"])
                began = time.monotonic()
                self._execute(run, state)
                # The rest of an interrupted run takes less time than a whole run.
                self._seconds += [time.monotonic() - began] if state == "new" else []
                self._waiting -= 1
            self.done += 1

    def _execute(self, run: RunConfig, state: str) -> None:
        try:
            if state == "begun":
                training.resume(ResumeRequest(run.run_dir, self._plain))
            else:
                shutil.rmtree(run.run_dir, ignore_errors=True)  # killed before it held anything
                training.train(TrainRequest(run, self._plain))
        except NonFiniteLossError as error:
            write_text(run.run_dir / FAILURE, json.dumps({"error": str(error)}) + "\n")
            show_notes([f"{run.name} failed: {error}"])
        except (Interrupted, KeyboardInterrupt) as error:
            number = error.exit_code - 128 if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(
                f"Stopped in run {self.done + 1} of {self._total}; everything is saved in "
                f"{self._folder}. Run the same command to continue.",
                number,
            ) from error
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _estimate(self) -> str:
        if not self._seconds:
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        left = duration(mean * min(self._waiting, self._total - self.done))
        return f" ({duration(mean)} per run so far, at most {left} left)"


def _state(run: RunConfig) -> Literal["new", "begun", "finished", "failed"]:
    if (run.run_dir / EVALUATION / RESULTS).is_file():
        return "finished"
    if (run.run_dir / FAILURE).is_file():
        return "failed"
    return "begun" if (run.run_dir / run_directory.CONFIG_FILE).is_file() else "new"


class TrialSearch:
    """A search by TPE over the given values, kept in the ablation's folder.

    The objective is the best checkpoint's attack success on the validation probe plus the share
    of benign prompts not answered right: a lost point of utility weighs as much as a point of
    attack success. Test figures do not influence the choice, so they stay fair.

    Each choice depends on the trials before it and on its number, so an interrupted search
    continues to the same result. `trials` includes those of earlier calls.

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
        if not all(run.validation.attack_probe for run in plan.runs):
            raise UsageError(
                "--trials chooses by attack success and utility on validation data, which only the "
                "attack probe measures: add --set validation.attack_probe=24 or more"
            )
        self._plan = plan
        self._trials = trials
        self._combinations = {each.choices: each for each in plan.combinations}
        self._study: Any = None

    def run(self, runner: Runner) -> list[Combination]:
        """Runs trials until there are enough; returns the combinations tried, in grid order."""
        optuna = self._optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        backend = optuna.storages.journal.JournalFileBackend(str(self._plan.folder / JOURNAL))
        study = self._study = optuna.create_study(
            study_name="ablation",
            storage=optuna.storages.JournalStorage(backend),
            direction="minimize",
            load_if_exists=True,
        )
        states = optuna.trial.TrialState
        runner.done = sum(len(self._combination(trial).runs) for trial in self._complete())
        for trial in study.get_trials(states=(states.RUNNING,)):
            if len(trial.params) < len(self._plan.axes):  # killed before it had chosen
                study.tell(trial.number, state=states.FAIL)
            else:
                self._finish(trial, runner)
        while len(self._complete()) < self._trials:
            number = len(study.get_trials(deepcopy=False))
            seed = self._plan.base.train.seed + number
            study.sampler = optuna.samplers.TPESampler(seed=seed)
            trial = study.ask()
            for axis in self._plan.axes:
                trial.suggest_categorical(axis.name, axis.choices)
            self._finish(trial, runner)
        tried = {self._combination(trial).number for trial in self._complete()}
        return [each for each in self._plan.combinations if each.number in tried]

    def summary(self) -> dict[str, Any]:
        trials = [
            {
                "number": trial.number,
                "combination": self._combination(trial).label,
                "value": trial.value,
            }
            for trial in self._complete()
        ]
        best = self._combination(self._study.best_trial).label
        return {"objective": OBJECTIVE, "best": best, "trials": trials}

    def _finish(self, trial: Any, runner: Runner) -> None:
        combination = self._combination(trial)
        runner.run(combination)
        values = [objective(run) for run in combination.runs]
        self._study.tell(trial.number, sum(values) / len(values))

    def _combination(self, trial: Any) -> Combination:
        return self._combinations[tuple(trial.params[axis.name] for axis in self._plan.axes)]

    def _complete(self) -> list[Any]:
        complete = self._optuna.trial.TrialState.COMPLETE
        trials: list[Any] = self._study.get_trials(deepcopy=False, states=(complete,))
        return trials


def objective(run: RunConfig) -> float:
    """Returns the value that the search minimizes, for one run; `WORST` if the run failed."""
    figures = {} if _state(run) == "failed" else validation_of(run)
    obeyed, right = figures.get("val_attack_success_rate"), figures.get("val_utility")
    if obeyed is None or right is None:
        return WORST
    value = float(obeyed) + 1 - float(right)
    return value if math.isfinite(value) else WORST


def combination_row(combination: Combination) -> Values:
    """Sums up the runs of one combination.

    Returns:
        `label`, `settings`, `seeds` (each run's `seed`, `run`, shares, perplexities, `causal`,
        `validation` at the evaluated step) and `failed` (`seed`, `run`, `error`); each of
        `SHARES` as `{"value", "n", "low", "high"}`, see `share_over_seeds`; means over seeds of
        the perplexities and, in `causal`, of the causal metrics, with their `representation`.
    """
    seeds, failed, verdicts = [], [], []
    for run in combination.runs:
        name = {"seed": run.train.seed, "run": run.name}
        if _state(run) == "failed":
            failed.append({**name, **_read(run.run_dir / FAILURE)})
            continue
        own = _verdicts(run)
        verdicts.append(own)
        figures = {share: share_over_seeds([own[share]])["value"] for share in SHARES}
        others = _others(_read(run.run_dir / EVALUATION / RESULTS)["tuned"])
        seeds.append({**name, **figures, **others, "validation": validation_of(run)})
    causal: Values = {}
    if seeds:
        causal = {name: _mean([seed["causal"].get(name) for seed in seeds]) for name in _CAUSAL}
        causal = {"representation": seeds[0]["causal"]["representation"], **causal}
    return {
        "label": combination.label,
        "settings": combination.settings,
        "seeds": seeds,
        "failed": failed,
        **{share: share_over_seeds([own[share] for own in verdicts]) for share in SHARES},
        **{name: _mean([seed[name] for seed in seeds]) for name in _PERPLEXITIES},
        "causal": causal,
    }


def base_row(runs: Sequence[RunConfig]) -> Values | None:
    """Returns the untouched base as a row, from the first run that was evaluated.

    A causal metric that the runs measured differently (another layer or pooling) is left out.
    """
    evaluated = [run for run in runs if _state(run) != "failed"]
    if not evaluated:
        return None
    bases = [_read(run.run_dir / EVALUATION / RESULTS)["base"] for run in evaluated]
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
    bootstrap of each prompt's mean over seeds. For one seed it is Wilson's, and also if all answers
    agree, since resampling equal values gives an interval of width 0.

    Args:
        verdicts: For each seed, the verdict by triplet id.
    """
    first = verdicts[0] if verdicts else {}
    shared = [key for key in first if all(key in seed for seed in verdicts)]
    means = [sum(seed[key] for seed in verdicts) / len(verdicts) for key in shared]
    if set(means) <= {0.0, 1.0} and (len(verdicts) == 1 or len(set(means)) < 2):
        return statistics.proportion([bool(value) for value in means])
    return statistics.mean(means)


def validation_of(run: RunConfig) -> Values:
    """Returns the validation figures of the evaluated checkpoint, and its step."""
    rows = [
        row
        for row in read_rows(run.run_dir / METRICS)
        if row["step"] > 0 and any(key.startswith("val_") for key in row)
    ]
    if (run.run_dir / BEST / MANIFEST).is_file():
        best = read_manifest(run.run_dir / BEST)["step"]
        rows = [row for row in rows if row["step"] == best]
    last = rows[-1] if rows else {}
    return {key: value for key, value in last.items() if key == "step" or key.startswith("val_")}


def _others(side: Values) -> Values:
    causal = side.get("causal") or {}
    measured = {name: causal[name]["value"] for name in _CAUSAL if name in causal}
    return {
        **{name: (side.get(name) or {}).get("value") for name in _PERPLEXITIES},
        "causal": {"representation": causal.get("representation"), **measured},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _verdicts(run: RunConfig) -> dict[str, dict[str, bool]]:
    """Returns each share's verdicts by triplet id, as an evaluation's headline counts them.

    Attacks from training do not count, and a repeated benign prompt counts once.
    """
    found: dict[str, dict[str, bool]] = {share: {} for share in SHARES}
    counted = set()
    file = run.run_dir / EVALUATION / GENERATIONS
    with _readable(file):
        # Not splitlines(): an answer may contain other line separators.
        rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
    for row in rows:
        if row.get("novelty") == SEEN:
            continue
        if row["member"] == "benign" and row["right"] is not None:
            prompt = (row["system"], row["prompt"], row["expected"])
            if prompt in counted:
                continue
            counted.add(prompt)
        for share, (member, verdict) in SHARES.items():
            if row["member"] == member and row[verdict] is not None:
                found[share][row["id"]] = row[verdict]
    return found


def _read(file: Path) -> Values:
    with _readable(file):
        values: Values = json.loads(file.read_text("utf-8"))
    return values


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{file}: cannot be read: {error}. Delete the folder {file.parent} and run the same "
            "command again, which repeats the evaluation"
        ) from error
