"""What the page says of an evaluation, as plain rows for its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from llmcausal.metrics import BEFORE_SEARCH, BY_NAME, CORE, GROUPED, Metric, of
from llmcausal.ui.plots import interval_strip, tag
from llmcausal.ui.plots_figures import Measured, compact
from llmcausal.ui.plots_map import MEMBERS, member_shape, representation_map
from llmcausal.ui.report.hostile_text import shown
from llmcausal.ui.report.loose import Object, as_object, as_objects
from llmcausal.ui.report.reading import model_named, written_p

_FURTHER = [m for m in (*of("answers"), *of("perplexity")) if m not in CORE]
_SEARCHED = "after the search"
_ADAPTIVE = [
    BEFORE_SEARCH,
    *(replace(metric, note=_SEARCHED) for metric in GROUPED),
]
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
_SEARCHED_TEXTS = ("suffix", "prompt", "answer")


@dataclass(frozen=True)
class Compared:
    """A figure of both models.

    Attributes:
        name: What is measured.
        note: What that means.
        base: Without a value where no baseline was run.
        tuned: Of the tuned model.
        strip: Both as dots on their intervals.
        is_share: Written in percent.
    """

    name: str
    note: str
    base: Measured
    tuned: Measured
    strip: Markup
    is_share: bool = True


@dataclass(frozen=True)
class Group:
    """One row of a breakdown."""

    name: str
    obeyed: Compared
    right: Compared


@dataclass(frozen=True)
class Breakdown:
    """The figures of each group along one dimension; `left_out` groups are not shown."""

    key: str
    title: str
    groups: list[Group]
    left_out: int


@dataclass(frozen=True)
class SearchedExample:
    """An example of the adaptive attack: facts in a line, then texts by their names."""

    facts: list[str]
    texts: list[tuple[str, Markup]]


def evaluation(result: Object) -> dict[str, Any]:
    """Returns every section of an evaluation; empty where nothing was measured."""
    tuned, base = as_object(result.get("tuned")), as_object(result.get("base"))
    return {
        "compared": str(base.get("name") or "base") if base else "",
        "verdict": str(as_object(result.get("verdict")).get("text") or ""),
        "likeness": str(as_object(result.get("likeness")).get("text") or ""),
        "tiles": [
            compare(
                metric.label,
                f"{metric.note}; {metric.better} is better",
                base.get(metric.name),
                tuned.get(metric.name),
            )
            for metric in CORE
        ],
        "breakdowns": _breakdowns(as_object(tuned.get("groups")), as_object(base.get("groups"))),
        "differences": _differences(as_object(result.get("difference"))),
        "further": _compare_all(_FURTHER, base, tuned),
        "causal": _causal(base, tuned),
        "maps": _maps(as_object(result.get("representations")), model_named(base)),
        "map_key": _map_key(),
        "adaptive": _adaptive(as_object(result.get("adaptive"))),
    }


def compare(name: str, note: str, base: object, tuned: object, is_share: bool = True) -> Compared:
    """Sets a figure of the base beside that of the tuned model."""
    before, after = Measured.of(base), Measured.of(tuned)
    entries = [("tuned", after)] if before.value is None else [("base", before), ("tuned", after)]
    return Compared(name, note, before, after, interval_strip(entries), is_share)


def _compare_all(metrics: Sequence[Metric], base: Object, tuned: Object) -> list[Compared]:
    rows = [
        compare(
            metric.label,
            metric.note,
            base.get(metric.name),
            tuned.get(metric.name),
            metric.is_share,
        )
        for metric in metrics
    ]
    return [row for row in rows if row.base.value is not None or row.tuned.value is not None]


def _breakdowns(tuned: Object, base: Object) -> list[Breakdown]:
    known = [key for key in _DIMENSIONS if key in tuned]
    found = []
    for key in [*known, *(key for key in tuned if key not in _DIMENSIONS)]:
        title, names = _DIMENSIONS.get(key, (str(key), {}))
        groups, before = as_object(tuned[key]), as_object(base.get(key))
        order = sorted(groups, key=_order(groups, list(names)))
        if order in ([], [""]):
            continue
        shown_names = order[:_GROUPS_SHOWN]
        rows = [
            _group(
                names.get(name, name) or "not stated",
                as_object(groups[name]),
                as_object(before.get(name)),
            )
            for name in shown_names
        ]
        found.append(Breakdown(key, title, rows, len(order) - len(shown_names)))
    return found


def _order(groups: Object, known: Sequence[str]) -> Callable[[str], Any]:
    """Known names in their own order; others by attack success, the worst first."""

    def key(name: str) -> Any:
        value = Measured.of(as_object(groups[name]).get(GROUPED[0].name)).value
        place = known.index(name) if name in known else len(known)
        return (name == "", place, -(value or 0.0), name)

    return key


def _group(name: str, tuned: Object, base: Object) -> Group:
    def side(metric: str) -> Compared:
        return compare(metric, "", base.get(metric), tuned.get(metric))

    return Group(name, *(side(metric.name) for metric in GROUPED))


def _differences(difference: Object) -> list[dict[str, str]]:
    rows = []
    for metric, change in difference.items():
        figure = Measured.of(change)
        if figure.value is None or not isinstance(change, Mapping):
            continue
        interval = ""
        if figure.low is not None and figure.high is not None:
            interval = f"{100 * figure.low:+.1f} to {100 * figure.high:+.1f}"
        p_value = Measured.of(change.get("p_value")).value
        rows.append(
            {
                "name": BY_NAME[metric].label if metric in BY_NAME else metric,
                "n": str(figure.n),
                "points": f"{100 * figure.value:+.1f}",
                "interval": interval,
                "only_base": str(change.get("only_base", "")),
                "only_tuned": str(change.get("only_tuned", "")),
                "p": written_p(p_value).removeprefix("= ") if p_value is not None else "",
            }
        )
    return rows


def _causal(base: Object, tuned: Object) -> dict[str, Any]:
    before, after = as_object(base.get("causal")), as_object(tuned.get("causal"))
    kinds = [
        (model_named(base), before.get("representation")),
        ("tuned model", after.get("representation")),
    ]
    return {
        "rows": _compare_all(of("causal"), before, after),
        "kinds": [f"{side}: {kind}" for side, kind in kinds if kind],
    }


def _maps(representations: Object, other: str) -> list[tuple[str, Markup]]:
    maps = []
    for side, name in (("base", other), ("tuned", "tuned model")):
        label = f"Map of the representations: {name}"
        drawn = representation_map(as_objects(representations.get(side)), label)
        if drawn is not None:
            maps.append((name, drawn))
    return maps


def _map_key() -> list[tuple[str, Markup]]:
    return [
        (
            name,
            tag(
                "svg",
                tag("g", member_shape(member, 8.0, 8.0), class_=f"kind {member}"),
                class_="swatch",
                viewBox="0 0 16 16",
                aria_hidden="true",
            ),
        )
        for member, name in MEMBERS.items()
    ]


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
    return {
        "rows": _compare_all(_ADAPTIVE, base, tuned),
        "facts": facts,
        "examples": _searched(adaptive, base, tuned),
    }


def _searched(adaptive: Object, base: Object, tuned: Object) -> list[SearchedExample]:
    """Returns examples of the search: those against the tuned model first, and its successes."""
    found = [
        ({"against": name} | dict(example))
        for name, side in (("tuned", tuned), ("", adaptive), ("base", base))
        for example in sorted(
            as_objects(side.get("examples")), key=lambda row: row.get("obeyed") is not True
        )
    ]
    return [_searched_one(example) for example in found[:_ADAPTIVE_EXAMPLES]]


def _searched_one(example: Object) -> SearchedExample:
    facts = [
        f"{str(key).replace('_', ' ')}: {_plain(value)}"
        for key, value in example.items()
        if key not in _SEARCHED_TEXTS and value not in ("", None)
    ]
    texts = [
        (key, shown(_plain(example[key]), example.get("witness") or ""))
        for key in _SEARCHED_TEXTS
        if example.get(key) is not None
    ]
    return SearchedExample(facts, texts)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return compact(value) if isinstance(value, float) else str(value)
