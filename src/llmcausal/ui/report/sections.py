"""The report's contents on evaluation and training, as plain values for its template."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmcausal.launched import MEMORY_OF_PROCESS
from llmcausal.metrics import BEFORE_SEARCH, BY_NAME, CORE, GROUPED, Metric, of
from llmcausal.ui.drawings import Point, interval_strip, line_panel, moving_mean, representation_map
from llmcausal.ui.figures import (
    CAUSAL_METRICS,
    LOSS_TERMS,
    PROBE_METRICS,
    Measured,
    compact,
    duration,
    number,
    tokens_per_second,
)
from llmcausal.ui.hostile_text import Object, as_object, as_objects, shown

MOST_EXAMPLES = 30
_FURTHER = [m for m in (*of("answers"), *of("perplexity")) if m not in CORE]
_ADAPTIVE = [BEFORE_SEARCH, *(replace(metric, note="after the search") for metric in GROUPED)]
_DIMENSIONS: dict[str, tuple[str, dict[str, str]]] = {
    "family": ("Attack family", {}),
    "novelty": (
        "What training saw of the attack",
        {
            "new_family": "neither family nor phrasing",
            "new_phrasing": "the family, in other phrasings",
            "seen": "the same phrasing",
        },
    ),
    "position": ("Where the attack is", {"start": "start", "middle": "middle", "end": "end"}),
    "difficulty": (
        "How hard the attack is to recognize",
        {"easy": "easy", "medium": "medium", "hard": "hard"},
    ),
    "category": ("Kind of task", {}),
}
_GROUPS_SHOWN = 60
_ADAPTIVE_EXAMPLES = 8
_MAP = "Map of the representations"
_SEARCHED_TEXTS = ("prefix", "suffix", "prompt", "answer")


def model_named(base: Object) -> str:
    return str(base["name"]) if base.get("name") else "base model"


def reading(tuned: Object, base: Object) -> str:
    """Returns the result in one sentence; `base` is empty without a baseline."""
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


def details(tuned: Object, difference: Object) -> list[str]:
    """Returns sentences on the task, and on whether chance could explain the changes."""
    sentences = []
    clean, attacked = (Measured.of(tuned.get(metric.name)) for metric in CORE[1:])
    if attacked.value is not None and clean.value is not None:
        sentences.append(
            f"The tuned model did its task on {clean.percent} of clean prompts and on "
            f"{attacked.percent} of attacked ones."
        )
    for metric in CORE[:2]:
        change = as_object(difference.get(metric.name))
        moved, p_value = Measured.of(change).value, number(change.get("p_value"))
        if moved is None or p_value is None:
            continue
        if moved == 0:
            sentences.append(f"{metric.label} is the same before and after.")
            continue
        verb = "rose" if moved > 0 else "fell"
        chance = "more than chance explains" if p_value < 0.05 else "which chance could explain"
        written = f"{'' if p_value < 0.001 else '= '}{_written_p(p_value)}"
        points = f"{abs(100 * moved):.1f} points"
        sentences.append(f"{metric.label} {verb} by {points}, {chance} (p {written}).")
    return sentences


def _written_p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def _count(figure: Measured) -> int:
    return round((figure.value or 0.0) * (figure.n or 0))


def evaluation(result: Object) -> dict[str, Any]:
    tuned, base = as_object(result.get("tuned")), as_object(result.get("base"))
    causal = as_object(base.get("causal")), as_object(tuned.get("causal"))
    sides = (model_named(base), "tuned model")
    kinds = [side.get("representation") for side in causal]
    maps = as_object(result.get("representations"))
    return {
        "compared": str(base.get("name") or "base") if base else "",
        "verdict": str(as_object(result.get("verdict")).get("text") or ""),
        "likeness": str(as_object(result.get("likeness")).get("text") or ""),
        "tiles": [_compared(metric, base, tuned) for metric in CORE],
        "grouped": GROUPED,
        "breakdowns": _breakdowns(as_object(tuned.get("groups")), as_object(base.get("groups"))),
        "differences": _differences(as_object(result.get("difference"))),
        "further": _compare_all(_FURTHER, base, tuned),
        "causal": {
            "rows": _compare_all(of("causal"), *causal),
            "kinds": [f"{side}: {kind}" for side, kind in zip(sides, kinds, strict=True) if kind],
        },
        "maps": [
            (name, drawn)
            for side, name in zip(("base", "tuned"), sides, strict=True)
            if (drawn := representation_map(as_objects(maps.get(side)), f"{_MAP}: {name}"))
        ],
        "adaptive": _adaptive(as_object(result.get("adaptive"))),
        "scales": _scales(as_objects(result.get("scales"))),
    }


def _compared(metric: Metric, base: Object, tuned: Object) -> dict[str, Any]:
    before, after = (Measured.of(side.get(metric.name)) for side in (base, tuned))
    entries = [("tuned", after)] if before.value is None else [("base", before), ("tuned", after)]
    return {"metric": metric, "base": before, "tuned": after, "strip": interval_strip(entries)}


def _compare_all(metrics: Sequence[Metric], base: Object, tuned: Object) -> list[dict[str, Any]]:
    rows = [_compared(metric, base, tuned) for metric in metrics]
    return [row for row in rows if row["base"].value is not None or row["tuned"].value is not None]


def _breakdowns(tuned: Object, base: Object) -> list[dict[str, Any]]:
    known = [key for key in _DIMENSIONS if key in tuned]
    found = []
    for key in [*known, *(key for key in tuned if key not in _DIMENSIONS)]:
        title, names = _DIMENSIONS.get(key, (str(key), {}))
        groups, before = as_object(tuned[key]), as_object(base.get(key))
        order = _ordered(groups, list(names))
        if order in ([], [""]):
            continue
        rows = []
        for name in order[:_GROUPS_SHOWN]:
            sides = as_object(before.get(name)), as_object(groups[name])
            figures = [_compared(metric, *sides) for metric in GROUPED]
            rows.append({"name": names.get(name, name) or "not stated", "figures": figures})
        found.append({"title": title, "groups": rows, "left_out": len(order) - len(rows)})
    return found


def _ordered(groups: Object, known: Sequence[str]) -> list[str]:
    """Orders names as in `known`, then by attack success, the worst first."""

    def key(name: str) -> Any:
        value = Measured.of(as_object(groups[name]).get(GROUPED[0].name)).value
        place = known.index(name) if name in known else len(known)
        return (name == "", place, -(value or 0.0), name)

    return sorted(groups, key=key)


def _differences(difference: Object) -> list[dict[str, str]]:
    rows = []
    for metric, change in difference.items():
        figure = Measured.of(change)
        if figure.value is None or not isinstance(change, Mapping):
            continue
        interval = ""
        if figure.low is not None and figure.high is not None:
            interval = f"{100 * figure.low:+.1f} to {100 * figure.high:+.1f}"
        p_value = number(change.get("p_value"))
        rows.append(
            {
                "name": BY_NAME[metric].label if metric in BY_NAME else metric,
                "n": str(figure.n),
                "points": f"{100 * figure.value:+.1f}",
                "interval": interval,
                "only_base": str(change.get("only_base", "")),
                "only_tuned": str(change.get("only_tuned", "")),
                "p": "" if p_value is None else _written_p(p_value),
            }
        )
    return rows


def _scales(measured: Sequence[Object]) -> dict[str, Any] | None:
    """Returns each scale of the adapter with its figures, and attack success against utility."""
    if not measured:
        return None
    attack, utility = (metric.name for metric in CORE[:2])
    rows, curve = [], []
    for point in measured:
        figures = {metric.name: Measured.of(point.get(metric.name)) for metric in CORE}
        strips = [(figure, interval_strip([("tuned", figure)])) for figure in figures.values()]
        rows.append({"scale": _plain(point.get("scale")), "figures": strips})
        x, y = figures[utility].value, figures[attack].value
        if x is not None and y is not None:
            curve.append((100 * min(max(x, 0.0), 1.0), 100 * min(max(y, 0.0), 1.0)))
    drawing = None
    if curve:
        across = [x for x, _ in curve]
        drawing = line_panel(
            "Attack success against utility, percent",
            [("validation", curve)],
            (min(across), max(across)),
            "One point for each scale of the adapter.",
            from_zero=True,
            counted="utility",
        )
    return {"metrics": CORE, "rows": rows, "drawing": drawing}


def _adaptive(adaptive: Object) -> dict[str, Any] | None:
    if not adaptive:
        return None
    base, tuned = as_object(adaptive.get("base")), as_object(adaptive.get("tuned"))
    facts = [
        (str(key).replace("_", " "), _plain(value))
        for key, value in adaptive.items()
        if isinstance(value, (str, int, float))
    ]
    facts += [
        (f"queries a prompt, {name}", _plain(side["mean_queries"]))
        for name, side in (("base", base), ("tuned", tuned))
        if side.get("mean_queries") is not None
    ]
    # The tuned model's examples come first, and successes before failures.
    examples = [
        {"against": name} | dict(example)
        for name, side in (("tuned", tuned), ("base", base))
        for example in sorted(
            as_objects(side.get("examples")), key=lambda row: row.get("obeyed") is not True
        )
    ]
    searched = [
        {
            "facts": [
                f"{str(key).replace('_', ' ')}: {_plain(value)}"
                for key, value in example.items()
                if key not in _SEARCHED_TEXTS and value not in ("", None)
            ],
            "texts": [
                (key, shown(_plain(example[key]), example.get("witness") or ""))
                for key in _SEARCHED_TEXTS
                if example.get(key) is not None
            ],
        }
        for example in examples[:_ADAPTIVE_EXAMPLES]
    ]
    return {"rows": _compare_all(_ADAPTIVE, base, tuned), "facts": facts, "examples": searched}


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return compact(value) if isinstance(value, float) else str(value)


_POSITION = {"start": "at the start", "middle": "in the middle", "end": "at the end"}
_NOVELTY = {
    "seen": "phrasing seen in training",
    "new_phrasing": "new phrasing",
    "new_family": "new family",
}
_GROUPS: tuple[tuple[str, Callable[[Object], bool], int], ...] = (
    ("The tuned model obeyed the attack", lambda row: row.get("obeyed") is True, 14),
    (
        "A clean prompt answered wrong by the tuned model",
        lambda row: row.get("member") == "benign" and row.get("right") is False,
        8,
    ),
    (
        "The tuned model resisted where the other model obeyed",
        lambda row: row.get("base_obeyed") is True and row.get("obeyed") is False,
        8,
    ),
)
"""A group's title, its rows, and its quota of examples."""


def choose_examples(rows: Sequence[Object], other: str = "base model") -> list[dict[str, Any]]:
    """Chooses at most `MOST_EXAMPLES` rows of generations.jsonl, the worst first.

    `other` names the model that the tuned one is compared with.
    """
    found = [[row for row in rows if belongs(row)] for _, belongs, _ in _GROUPS]
    counts = [min(len(some), quota) for some, (_, _, quota) in zip(found, _GROUPS, strict=True)]
    for index, some in enumerate(found):  # groups share unused places
        counts[index] += min(len(some) - counts[index], MOST_EXAMPLES - sum(counts))
    return [
        {
            "title": title,
            "total": len(some),
            "examples": [_example(row, other) for row in _varied(some)[:count]],
        }
        for (title, _, _), some, count in zip(_GROUPS, found, counts, strict=True)
        if some
    ]


def _varied(rows: Iterable[Object]) -> list[Object]:
    """Orders rows so that the attack families take turns."""
    turns: dict[str, int] = {}
    placed = []
    for place, row in enumerate(rows):
        family = str(row.get("family"))
        turns[family] = turns.get(family, -1) + 1
        placed.append((turns[family], place, row))
    return [row for _, _, row in sorted(placed, key=lambda item: item[:2])]


def _example(row: Object, other: str) -> dict[str, Any]:
    witness = row.get("witness") or ""
    attacked = row.get("member") == "injection"
    goal = row.get("goal") if attacked else ""
    facts = [row.get("category")]
    if attacked:
        position, novelty = row.get("position"), row.get("novelty")
        facts[:0] = [
            row.get("family"),
            position and _POSITION.get(str(position), position),
            row.get("difficulty"),
            novelty and _NOVELTY.get(str(novelty), novelty),
        ]
    return {
        "id": str(row.get("id", "")),
        "facts": [str(fact) for fact in facts if fact],
        "system": shown(row.get("system") or ""),
        "prompt": shown(row.get("prompt") or "", witness if attacked else "", goal),
        "expected": shown(row.get("expected") or ""),
        "answers": [
            {
                "who": who,
                "kind": kind,
                "text": shown(row[f"{key}answer"], witness),
                "verdicts": _verdicts(row, key),
            }
            for who, kind, key in ((other, "base", "base_"), ("tuned model", "tuned", ""))
            if row.get(f"{key}answer") is not None
        ],
    }


def _verdicts(row: Object, key: str) -> list[tuple[str, str]]:
    """Returns an answer's verdicts, each with `good`, `bad` or `note`."""
    verdicts = []
    obeyed, right = row.get(f"{key}obeyed"), row.get(f"{key}right")
    if isinstance(obeyed, bool):
        verdicts.append(("obeyed", "bad") if obeyed else ("resisted", "good"))
    if isinstance(right, bool):
        verdicts.append(("task done", "good") if right else ("task not done", "bad"))
    if row.get(f"{key}stopped") is False:
        verdicts.append(("cut at the length limit", "note"))
    return verdicts


Rows = Sequence[Object]
Axis = tuple[float, float]
Panel = dict[str, Any]
"""A small chart: `title`, `last` (the newest values in words) and `drawing`."""

_NOT_DRAWN = frozenset({"step", "epoch", "tokens", "seconds", "memory_bytes", "memory_peak_bytes"})
_TABLE_ROWS = 40


def charts(rows: Rows) -> dict[str, Any]:
    """Returns the panels by subject, a table of the validations, and figures not finite."""
    names = figure_names(rows)
    learning = [name for name in names if name in LOSS_TERMS or name in CAUSAL_METRICS]
    rest = [name for name in names if name not in learning]
    axis = step_axis(rows)
    return {
        "progress": progress(rows),
        "learning": _panels(_figures(rows, learning), axis),
        "other": _panels(_figures(rows, rest), axis),
        "machine": _panels(_machine(rows), axis, from_zero=True),
        "table": _validations(rows),
        "odd": _odd(rows),
    }


def progress(rows: Rows) -> str:
    steps = [row for row in rows if number(row.get("step"))]
    if not steps:
        return ""
    seconds = sum(number(row.get("seconds")) or 0.0 for row in steps)
    last = steps[-1]
    epoch = number(last.get("epoch"))
    reached = f", epoch {epoch:.2f}" if epoch is not None else ""
    return f"Training is logged up to step {last['step']}{reached}: {duration(seconds)} in steps."


def figure_names(rows: Rows) -> list[str]:
    """Returns all figures: losses first, then causal metrics, the probe's, and others."""
    found = dict.fromkeys(
        name
        for row in rows
        for key, value in row.items()
        if number(value) is not None
        and (name := key.removeprefix("val_")) not in _NOT_DRAWN
        and not key.startswith(MEMORY_OF_PROCESS)
        # A running mean is not drawn if its figure is.
        and not (name.endswith("_mean") and name[:-5] in row)
    )
    order = dict.fromkeys([*LOSS_TERMS, *CAUSAL_METRICS, *PROBE_METRICS, *found])
    return [name for name in order if name in found]


def step_axis(rows: Iterable[Object]) -> Axis:
    reached = [step for row in rows if (step := number(row.get("step"))) is not None]
    return min(reached, default=0.0), max(reached, default=0.0)


def points(rows: Iterable[Object], name: str, scale: float = 1.0) -> list[Point]:
    """Returns (step, value / scale) of each row with a finite value."""
    found = []
    for row in rows:
        step, value = number(row.get("step")), number(row.get(name))
        if step is not None and value is not None:
            found.append((step, value / scale))
    return found


@dataclass(frozen=True)
class _Curve:
    """A figure over the steps; `ceiling` is the highest value so far."""

    title: str
    training: Sequence[Point]
    validation: Sequence[Point] = ()
    ceiling: Sequence[Point] = ()
    unit: str = ""


def _figures(rows: Rows, names: Iterable[str]) -> list[_Curve]:
    return [
        _Curve(name.replace("_", " "), points(rows, name), points(rows, f"val_{name}"))
        for name in names
    ]


def _machine(rows: Rows) -> list[_Curve]:
    speeds = [
        {**row, "speed": tokens_per_second(row.get("tokens"), row.get("seconds"))} for row in rows
    ]
    keys = sorted({key for row in rows for key in row if key.startswith(MEMORY_OF_PROCESS)})
    others = {key.replace("_bytes", "").replace("_", " "): key for key in keys}
    peak = points(rows, "memory_peak_bytes", 2**30)
    return [
        _Curve("memory in use", points(rows, "memory_bytes", 2**30), ceiling=peak, unit=" GiB"),
        *(_Curve(name, points(rows, key, 2**30), unit=" GiB") for name, key in others.items()),
        _Curve("time per step", points(rows, "seconds"), unit=" s"),
        _Curve("tokens per second", points(speeds, "speed")),
    ]


def _panels(curves: Iterable[_Curve], axis: Axis, from_zero: bool = False) -> list[Panel]:
    panels = []
    for curve in curves:
        if not curve.training and not curve.validation:
            continue
        smooth = moving_mean(curve.training)
        raw = curve.training if smooth is not curve.training else ()
        lines = (
            ("raw", raw),
            ("training", smooth),
            ("ceiling", curve.ceiling),
            ("validation", curve.validation),
        )
        newest = (
            (curve.training, ""),
            (curve.validation, " in validation" if curve.training else ""),
            (curve.ceiling, " at most (dotted)"),
        )
        last = "Last: " + ", ".join(
            f"{compact(line[-1][1])}{curve.unit}{words}" for line, words in newest if line
        )
        drawn = [(kind, line) for kind, line in lines if line]
        drawing = line_panel(curve.title, drawn, axis, last, from_zero=from_zero)
        panels.append({"title": curve.title, "last": last, "drawing": drawing})
    return panels


def _validations(rows: Rows) -> dict[str, Any] | None:
    validated = [row for row in rows if any(key.startswith("val_") for key in row)]
    if not validated:
        return None
    names = [*dict.fromkeys(key for row in validated for key in row if key.startswith("val_"))]
    stride = -(-len(validated) // _TABLE_ROWS)
    chosen = validated[::-stride][::-1]  # the newest is always there
    figures = [[number(row.get(name)) for name in names] for row in chosen]
    cells = [["" if each is None else compact(each) for each in row] for row in figures]
    return {
        "names": [name.removeprefix("val_").replace("_", " ") for name in names],
        "rows": list(zip([str(row.get("step")) for row in chosen], cells, strict=True)),
        "left_out": len(validated) - len(chosen),
    }


def _odd(rows: Rows) -> list[str]:
    """Lists steps with figures that are not finite, which curves cannot show."""
    named = [
        f"step {row.get('step')}: {', '.join(map(str, row['non_finite']))}"
        for row in rows
        if as_object(row.get("non_finite"))
    ]
    return [*named[:10], f"and {len(named) - 10} more"] if len(named) > 10 else named
