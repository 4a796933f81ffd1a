"""Every figure of an evaluation: its name in files, labels, better direction and format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Part = Literal["answers", "perplexity", "causal"]


@dataclass(frozen=True)
class Metric:
    """One figure."""

    name: str  # in files and on the command line
    label: str  # for people
    note: str  # what it counts
    short: str  # label for narrow columns
    better: Literal["less", "more"]
    # Its place in a result: `answers` and `perplexity` are on a side, `causal` is in the side's
    # `causal`. Answers are shares of prompts, written in percent.
    part: Part = "answers"
    everywhere: bool = False  # every suite measures it; others are left out if not measured
    headline: bool = False  # in the small table after training
    brief: str = ""  # label for the narrowest columns; empty if `short` fits

    @property
    def is_share(self) -> bool:
        return self.part == "answers"


METRICS = (
    Metric("attack_success_best_of_k", "Attack success, best of several",
           "any attack on a prompt works", "any ASR", "less", headline=True),
    Metric("attack_success_rate", "Attack success", "of attacked prompts", "ASR", "less",
           everywhere=True, headline=True),
    Metric("asr_begins_with", "Attack success, strict", "the answer begins with the witness",
           "strict ASR", "less", everywhere=True),
    Metric("utility", "Utility", "right on clean prompts", "utility", "more",
           everywhere=True, headline=True),
    Metric("utility_under_attack", "Utility under attack", "right on attacked prompts",
           "under attack", "more", everywhere=True, headline=True),
    Metric("instruction_following", "Instruction following",
           "the attack's request, asked by the user", "following", "more", headline=True),
    Metric("empty_answers", "Empty answers", "clean prompts", "empty", "less"),
    Metric("refusals", "Refusals", "clean prompts", "refusing", "less"),
    Metric("repetitions", "Repetitive answers", "clean prompts", "repeating", "less"),
    Metric("perplexity", "Perplexity of right answers", "clean prompts", "perplexity", "less",
           "perplexity"),
    Metric("perplexity_under_attack", "Perplexity of right answers under attack",
           "attacked prompts", "attacked", "less", "perplexity"),
    Metric("causal_stability", "Causal stability",
           "similarity of a prompt and its harmless variant", "stability", "more", "causal",
           brief="stab."),
    Metric("spurious_separation", "Spurious separation",
           "distance of a prompt and its injected twin", "separation", "more", "causal",
           brief="sep."),
    Metric("causal_discrimination", "Causal discrimination",
           "the first similarity minus the injected twin's", "discrimination", "more", "causal",
           brief="discr."),
    Metric("detection_auroc", "Detection AUROC",
           "telling injected prompts apart by their representation", "AUROC", "more", "causal"),
)  # fmt: skip
"""In display order."""

BY_NAME = {metric.name: metric for metric in METRICS}
CORE = tuple(BY_NAME[name] for name in ("attack_success_rate", "utility", "utility_under_attack"))
"""The first figures of every report; the attack probe measures them, an ablation compares them."""
COSINES = tuple(
    BY_NAME[name] for name in ("causal_stability", "spurious_separation", "causal_discrimination")
)
"""Figures on the representations of a triplet's members, also measured in training."""
GROUPED = (BY_NAME["attack_success_rate"], BY_NAME["utility_under_attack"])
"""Figures that are also reported by family, position and so on."""

BEFORE_SEARCH = replace(
    BY_NAME["attack_success_rate"], name="before_search", note="the original prompts"
)
"""On the prompts of an adaptive attack, without the texts that it finds."""


def of(part: Part) -> tuple[Metric, ...]:
    return tuple(metric for metric in METRICS if metric.part == part)


Figure = Mapping[str, Any]
"""`value`, `n`, `low` and `high`, as in results.json; all but `n` may be None."""


def share(figure: Figure | None, digits: int = 0) -> str:
    """Writes a share in percent, with `digits` in its interval: `12.5% [2, 22]`, or `-`."""
    return _written(figure, ".1%", f".{digits}f", 100)


def number(figure: Figure | None, form: str = ".3f", ends: str = ".2f") -> str:
    """Writes a number and its interval: `0.988 [0.98, 0.99]`, or `-`."""
    return _written(figure, form, ends, 1)


def points(change: Figure, digits: int = 0) -> str:
    """Writes a share's change in points, with `digits` in its interval: `-37.5 [-50, -25]`."""
    return f"{100 * change['value']:+.1f}{_interval(change, f'+.{digits}f', 100)}"


def counts(tuned: Figure, base: Figure | None) -> str:
    """Writes a figure's number of prompts; if the sides differ, both, base first."""
    return f"{base['n']}/{tuned['n']}" if base and base["n"] != tuned["n"] else str(tuned["n"])


def _written(figure: Figure | None, form: str, ends: str, scale: int) -> str:
    if not figure or figure["value"] is None:
        return "-"
    return f"{figure['value']:{form}}{_interval(figure, ends, scale)}"


def _interval(figure: Figure, form: str, scale: int) -> str:
    if figure.get("low") is None or figure.get("high") is None:
        return ""
    return f" [{scale * figure['low']:{form}}, {scale * figure['high']:{form}}]"
