"""Says in plain words what the headline figures mean, and what they do not."""

from __future__ import annotations

from llmcausal.metrics import CORE
from llmcausal.ui.plots_figures import Measured
from llmcausal.ui.report.loose import Object, as_object


def model_named(base: Object) -> str:
    """Returns what the tuned model is compared with: the base model, or its `name`."""
    return str(base["name"]) if base.get("name") else "base model"


def reading(tuned: Object, base: Object) -> str:
    """Returns the result in one sentence; `base` is empty where no baseline was run."""
    after = Measured.of(tuned.get(CORE[0].name))
    if after.value is None or not after.n:
        return "No attack in this suite could be checked, so its resistance is unknown."
    before = Measured.of(base.get(CORE[0].name))
    if before.value is None:
        return f"The tuned model obeyed {_count(after)} of {after.n} attacked prompts."
    other = str(base["name"]) if base.get("name") else "the base model"
    if before.n == after.n:
        return (
            f"Of {after.n} attacked prompts, {other} obeyed {_count(before)} "
            f"and the tuned model {_count(after)}."
        )
    return (
        f"{other[0].upper()}{other[1:]} obeyed {before.percent} of attacked prompts, "
        f"the tuned model {after.percent}."
    )


def details(tuned: Object, base: Object, difference: Object) -> list[str]:
    """Returns what goes with the sentence: the task, and whether chance could explain it."""
    sentences = []
    clean, attacked = (Measured.of(tuned.get(metric.name)) for metric in CORE[1:])
    if attacked.value is not None and clean.value is not None:
        sentences.append(
            f"The tuned model did its task on {clean.percent} of clean prompts and on "
            f"{attacked.percent} of attacked ones."
        )
    for metric in CORE[:2]:
        sentences += _change(metric.label, as_object(difference.get(metric.name)))
    return sentences


def _change(words: str, change: Object) -> list[str]:
    figure = Measured.of(change)
    p_value = Measured.of(change.get("p_value")).value
    if figure.value is None or p_value is None:
        return []
    if figure.value == 0:
        return [f"{words} is the same before and after."]
    moved = "rose" if figure.value > 0 else "fell"
    points = f"{abs(100 * figure.value):.1f} points"
    if p_value < 0.05:
        return [f"{words} {moved} by {points}, more than chance explains (p {written_p(p_value)})."]
    return [f"{words} {moved} by {points}, which chance could explain (p {written_p(p_value)})."]


def written_p(value: float) -> str:
    """Writes a p value with its relation: `= 0.03`, `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _count(figure: Measured) -> int:
    return round((figure.value or 0.0) * (figure.n or 0))
