"""What an ablation will run, checked wholly before anything is trained, and its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcausal.assembly.ablation.grid import Axis, Combination, combine, parse_axis
from llmcausal.assembly.evaluating import choose_triplets, suite_name
from llmcausal.assembly.probing import check_selection
from llmcausal.assembly.run_directory import versions, with_absolute_paths
from llmcausal.config import RunConfig
from llmcausal.data.splits import fingerprint, load_training_splits
from llmcausal.errors import ConfigError, StorageError, UsageError
from llmcausal.profile import load_config
from llmcausal.storage import replace_file

FILE_NAME = "ablation.json"
_SEED = "train.seed"
_MAX_NAME = 100


@dataclass(frozen=True)
class PlannedRun:
    """One training and its evaluation.

    Attributes:
        combination: The settings that vary.
        seed: Its `train.seed`.
        config: Its settings; the name is that of the run directory.
    """

    combination: Combination
    seed: int
    config: RunConfig


@dataclass(frozen=True)
class AblationPlan:
    """A whole ablation.

    Attributes:
        folder: Holds `ablation.json`, the run directories and the reports.
        base: Settings that do not vary.
        axes: What varies.
        seeds: `train.seed` of each repetition.
        combinations: All of the grid.
        runs: Every run, combination by combination.
        identity: What makes it this ablation; another is refused in the same folder.
    """

    folder: Path
    base: RunConfig
    axes: list[Axis]
    seeds: list[int]
    combinations: list[Combination]
    runs: list[PlannedRun]
    identity: dict[str, Any]

    def runs_of(self, combination: Combination) -> list[PlannedRun]:
        """Returns the runs of one combination, by seed."""
        return [run for run in self.runs if run.combination == combination]


def make_plan(
    profile: str,
    vary: Sequence[str],
    *,
    overrides: Sequence[str],
    seeds: int,
    search: bool,
    output_dir: Path | None,
) -> AblationPlan:
    """Reads and checks everything that the ablation will need.

    Raises:
        UsageError: If the arguments do not fit together.
        ConfigError: With the defects of every combination.
        DataError: If some data is not sound.
    """
    axes = [parse_axis(text) for text in vary]
    combinations = combine(axes)
    if seeds > 1 and any(_SEED in axis.keys for axis in axes):
        raise UsageError(f"--seeds and --vary {_SEED} contradict one another: leave one out")
    base = with_absolute_paths(load_config(profile, [*overrides, "evaluation.at_end=true"]))
    folder = (output_dir or base.output_dir / f"ablate-{base.name}").resolve()
    numbers = [base.train.seed + offset for offset in range(seeds)]
    runs, defects = [], []
    for combination in combinations:
        try:
            runs += _runs(profile, overrides, combination, numbers, folder)
        except ConfigError as error:
            defects.append(f"--vary {combination.label}: {error}")
    if defects:
        raise ConfigError("\n".join(defects))
    identity = {
        "vary": {axis.name: axis.choices for axis in axes},
        "seeds": numbers,
        "chosen_by": "optuna" if search else "grid",
        "config": base.model_copy(update={"output_dir": folder}).model_dump(mode="json"),
        "data": _data_of(runs),
    }
    return AblationPlan(folder, base, axes, numbers, combinations, runs, identity)


def _runs(
    profile: str,
    overrides: Sequence[str],
    combination: Combination,
    seeds: Sequence[int],
    folder: Path,
) -> list[PlannedRun]:
    planned = []
    for number in seeds:
        settings = [
            *overrides,
            f"{_SEED}={number}",
            *combination.overrides,
            "evaluation.at_end=true",
            "evaluation.gate=false",  # the table of the runs is what is asked for
            "tracking.trackers=[]",
        ]
        config = with_absolute_paths(load_config(profile, settings))
        check_selection(config)
        seed = config.train.seed
        update = {"name": run_name(combination, seed), "output_dir": folder}
        planned.append(PlannedRun(combination, seed, config.model_copy(update=update)))
    return planned


def run_name(combination: Combination, seed: int) -> str:
    """Names a run directory readably: `03_lambda_robust-1_rank-8_seed-0`."""
    said = [part for part in combination.label.split(", ") if not part.startswith("seed=")]
    middle = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(said).replace("=", "-"))
    head, tail = f"{combination.number:02}_", f"_seed-{seed}"
    return f"{head}{middle[: _MAX_NAME - len(head) - len(tail)]}{tail}"


def _data_of(runs: Sequence[PlannedRun]) -> dict[str, dict[str, str]]:
    """Returns hashes of the splits of each different `[data]`, by the run that first uses it."""
    hashes: dict[str, dict[str, str]] = {}
    seen = set()
    for run in runs:
        section = run.config.data
        if (key := section.model_dump_json()) not in seen:
            seen.add(key)
            splits = load_training_splits(section)
            suite = suite_name(section, run.config.evaluation)
            hashes[run.config.name] = {
                "train": fingerprint(splits.train),
                "validation": fingerprint(splits.validation),
                "test": fingerprint(choose_triplets(section, suite)),
            }
    return hashes


def open_folder(plan: AblationPlan) -> list[str]:
    """Creates the ablation's folder, or takes up the one that is there.

    Returns:
        Facts to tell.

    Raises:
        UsageError: If the folder holds another ablation, or something else.
        StorageError: If the disk refuses.
    """
    file = plan.folder / FILE_NAME
    if file.is_file():
        kept = read_record(plan.folder)
        if changes := _changes(kept, plan.identity):
            raise UsageError(
                "\n".join(
                    [
                        f"{plan.folder} holds another ablation:",
                        *(f"  {change}" for change in changes),
                        "Name another folder with --output-dir, or give the earlier settings.",
                    ]
                )
            )
        return [
            f"not bit for bit: {name}: {kept['packages'].get(name)} -> {now}"
            for name, now in versions().items()
            if kept["packages"].get(name) != now
        ]
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
    """Reads `ablation.json`.

    Raises:
        StorageError: If it is damaged.
    """
    file = folder / FILE_NAME
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{file}: cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("packages"), dict):
        raise StorageError(f"{file}: not an ablation's record; move it away to start again")
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes `ablation.json` whole.

    Raises:
        StorageError: If the disk refuses.
    """
    write_text(folder / FILE_NAME, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Writes one of the ablation's files whole.

    Raises:
        StorageError: If the disk refuses.
    """
    try:
        replace_file(file, [text.encode("utf-8", errors="backslashreplace")])
    except OSError as error:
        raise StorageError(f"{file}: cannot be written: {error.strerror}") from error


def _changes(kept: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    old, new = _flat(kept), _flat(wanted)
    keys = [key for key in {**old, **new} if key.split("/")[0] in wanted]
    return [
        f"{key.replace('/', ' ')}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in keys
        if old.get(key) != new.get(key)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}/")
        else:
            flat[prefix + key] = value
    return flat
