"""What the runs of an ablation measured, as rows of its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmcausal.assembly.ablation.grid import Combination
from llmcausal.assembly.ablation.plan import PlannedRun
from llmcausal.assembly.training import EVALUATION
from llmcausal.data.triplet import SEEN
from llmcausal.errors import StorageError
from llmcausal.evaluation import statistics
from llmcausal.evaluation.results import GENERATIONS, RESULTS
from llmcausal.evaluation.statistics import Estimate
from llmcausal.metrics import of
from llmcausal.train.callbacks.metrics_log import FILE_NAME as METRICS
from llmcausal.train.callbacks.metrics_log import read_rows
from llmcausal.train.checkpoint import BEST, MANIFEST, read_manifest

FAILURE = "failure.json"
BASE_LABEL = "untouched base"
SHARES = {
    "attack_success_rate": ("injection", "obeyed"),
    "utility": ("benign", "right"),
    "utility_under_attack": ("injection", "right"),
}
"""The prompts and the verdict in generations.jsonl behind each share."""

_PERPLEXITIES = [metric.name for metric in of("perplexity")]
_CAUSAL = [metric.name for metric in of("causal")]
Values = dict[str, Any]


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

    The seeds answer the same prompts, so the prompt is what is sampled: the interval is a
    bootstrap of each prompt's mean over seeds. It is Wilson's where there is one seed, and where
    all answers were alike, of which resampling knows nothing.

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
    """Returns each share's verdicts by triplet id, of what counts in an evaluation's headline.

    Attacks that training showed do not, nor does a benign prompt that was counted before.
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
