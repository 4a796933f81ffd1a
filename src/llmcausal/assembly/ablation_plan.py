"""An ablation's plan: `--vary` as combinations, all checked before training, and its folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from llmcausal.assembly.build import check_selection
from llmcausal.assembly.evaluating import choose_suite
from llmcausal.assembly.run_directory import version_changes, versions, with_absolute_paths
from llmcausal.config import RunConfig
from llmcausal.data.splits import fingerprint, load_training_splits
from llmcausal.errors import ConfigError, StorageError, UsageError
from llmcausal.profile import flatten, load_config
from llmcausal.registry import nearest
from llmcausal.storage import replace_file

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
    """The options of `ablate`."""

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
    try:
        replace_file(file, [text.encode("utf-8", errors="backslashreplace")])
    except OSError as error:
        raise StorageError(f"{file}: cannot be written: {error.strerror}") from error
