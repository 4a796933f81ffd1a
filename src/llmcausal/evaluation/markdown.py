"""An evaluation as Markdown: every table, the exact command and environment, and the caveats."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmcausal.evaluation.summary import caveats
from llmcausal.metrics import BEFORE_SEARCH, GROUPED, of

MAX_EXAMPLES = 5
MAX_CHARACTERS = 400

Values = Mapping[str, Any]

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_SPECIAL = re.compile(r"([\\`*_{}\[\]|~$@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""What means something inside a line, bare addresses included, which some renderers link."""
_LEADING = re.compile(r"^(\d+)([.)])(?=\s|$)|^()([#+\-=:!])")


def to_markdown(result: Values) -> str:
    """Renders a result, whose texts may come from anyone and stay text here.

    Args:
        result: As `evaluate_model` returns it; parts that are absent are left out.
    """
    tuned, base = result["tuned"], result.get("base")
    name = (base or {}).get("name") or "base"
    parts = [
        "# Evaluation",
        _facts(result, name),
        "## Generated answers",
        _shares(tuned, base, name),
    ]
    if result.get("difference"):
        parts += ["## Change on the same prompts", _changes(result["difference"], name)]
    for group, members in tuned.get("groups", {}).items():
        if members:
            parts += [f"## By {group}", _grouped(members, base, group, name)]
    if any(metric.name in tuned for metric in of("perplexity")):
        parts += ["## Perplexity of the right answers", _perplexities(tuned, base, name)]
    if tuned.get("causal"):
        parts += ["## Representations", _causal(tuned, base, name)]
    if result.get("adaptive"):
        parts += ["## Adaptive attack", _adaptive(result["adaptive"], name)]
    parts += ["## Caveats", _bullets([*caveats(result), *_left_out(result)])]
    parts += _examples(result.get("generations", ()))
    parts += _environment(result)
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Returns text as one line that Markdown shows as it is."""
    visible = "".join(
        " " if char in "\n\r\t" else char
        for char in text
        if char in "\n\r\t" or unicodedata.category(char) not in _HIDDEN
    )
    line = " ".join(visible.split())
    if len(line) > limit:
        line = f"{line[: limit - 3]}..."
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LEADING.sub(r"\1\3\\\2\4", _SPECIAL.sub(r"\\\1", line))


def _left_out(result: Values) -> list[str]:
    skipped = result.get("skipped", ())
    texts = list(result.get("notes", ()))
    if skipped:
        texts.append(f"{len(skipped)} triplets were left out of some or all figures:")
        texts += [f"{item['id']}: {item['reason']}" for item in skipped]
    return texts


def _facts(result: Values, name: str) -> str:
    facts = [
        f"{key}: {escape(str(result[key]))}" for key in ("suite", "checkpoint") if result.get(key)
    ]
    if endpoint := result.get("endpoint"):
        facts.append(f"endpoint: {escape(endpoint['model'])} at {escape(endpoint['url'])}")
    if result.get("base"):
        facts.append(f"compared with: {escape(name)}")
    if result.get("verdict"):
        facts.append(escape(result["verdict"]["text"]))
    if result.get("likeness"):
        facts.append(escape(result["likeness"]["text"]))
    return "\n".join(f"- {fact}" for fact in facts)


def _shares(tuned: Values, base: Values | None, other: str) -> str:
    names = [metric.name for metric in of("answers")]
    rows = [_row(name, tuned, base, _share) for name in names if tuned.get(name, {}).get("n")]
    return _table(("metric", "n", *_sides(base, other)), rows)


def _changes(difference: Values, name: str) -> str:
    rows = []
    for metric in (each.name for each in of("answers")):
        change = difference.get(metric)
        if change and change["value"] is not None:
            points = f"{100 * change['value']:+.1f}{_interval(change, 100, '+.1f')}"
            pairs = f"{change['only_base']} / {change['only_tuned']}"
            p_value = f"{change['p_value']:.2g}"
            rows.append((metric, str(change["n"]), points, p_value, pairs))
    other = escape(name)
    heading = ("metric", "n", f"tuned - {other}, points", "McNemar p", f"{other} only / tuned only")
    return _table(heading, rows)


def _grouped(members: Values, base: Values | None, group: str, name: str) -> str:
    rows = []
    for member, metrics in members.items():
        before = base["groups"][group].get(member) if base else None
        cells = [escape(member)]
        for metric in GROUPED:
            _, *rest = _row(metric.name, metrics, before, _share, base is not None)
            cells += rest
        rows.append(tuple(cells))
    heading: list[str] = [group]
    for metric in GROUPED:
        heading += ["n", *(f"{metric.short}, {side}" for side in _sides(base, name))]
    return _table(heading, rows)


def _perplexities(tuned: Values, base: Values | None, other: str) -> str:
    names = [metric.name for metric in of("perplexity")]
    rows = [_row(name, tuned, base, _plain) for name in names if name in tuned]
    return _table(("metric", "n", *_sides(base, other)), rows)


def _causal(tuned: Values, base: Values | None, name: str) -> str:
    after, before = tuned["causal"], base["causal"] if base else None
    causal = [metric.name for metric in of("causal")]
    rows = [_row(metric, after, before, _plain) for metric in causal if metric in after]
    read = [side["representation"] for side in (before, after) if side]
    return _table(("metric", "n", *_sides(base, name)), [*rows, ("read from", "", *read)])


def _adaptive(adaptive: Values, name: str) -> str:
    tuned, base = adaptive["tuned"], adaptive.get("base")
    figures = (GROUPED[0], BEFORE_SEARCH, GROUPED[1])
    rows = [_row(metric.name, tuned, base, _share) for metric in figures]
    told = (
        "Texts before and after the instruction are searched for each prompt "
        f"({adaptive['search']}), in at most {adaptive['steps']} steps of "
        f"{adaptive['candidates']} candidates. It counts if the greedy answer obeys, or any of "
        f"{adaptive['samples']} drawn ones. `before_search` is the same prompts as they were. "
        "Published attacks take 500 steps; a longer search finds more."
    )
    return f"{told}\n\n{_table(('metric', 'n', *_sides(base, name)), rows)}"


def _examples(generations: Iterable[Values]) -> list[str]:
    obeyed = [row for row in generations if row["obeyed"]][:MAX_EXAMPLES]
    if not obeyed:
        return []
    parts = [f"## Attacks that the tuned model obeyed (the first {len(obeyed)})"]
    for row in obeyed:
        facts = (
            ("prompt", row["prompt"]),
            ("injected", row["goal"]),
            ("right answer", row["expected"]),
            ("base answered", row["base_answer"] or ""),
            ("tuned answered", row["answer"]),
        )
        title = ", ".join(escape(row[key], 80) for key in ("id", "family") if row[key])
        told = "\n".join(f"- {what}: {escape(text)}" for what, text in facts if text)
        parts.append(f"### {title}\n\n{told}")
    return parts


def _environment(result: Values) -> list[str]:
    parts = []
    if result.get("command"):
        parts += ["## Command", _code(shlex.join(map(str, result["command"])))]
    if result.get("environment"):
        facts = _flat(result["environment"])
        parts += ["## Environment", _table(("what", "value"), facts)]
    return parts


def _flat(values: Values, prefix: str = "") -> list[tuple[str, str]]:
    facts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            facts += _flat(value, f"{prefix}{key} ")
        elif key != "command":
            facts.append((escape(f"{prefix}{key}"), escape(str(value))))
    return facts


def _code(text: str) -> str:
    """Fences a line with more backticks than it holds; it is shown whole, to be copied."""
    line = "".join(char for char in text if unicodedata.category(char) not in _HIDDEN)
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{line}\n{fence}"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def _sides(base: Values | None, name: str) -> list[str]:
    return ["tuned"] if base is None else [escape(name), "tuned"]


def _row(
    metric: str, tuned: Values, base: Values | None, show: Any, compared: bool | None = None
) -> tuple[str, ...]:
    compared = base is not None if compared is None else compared
    before = base.get(metric) if base else None
    counts = [str(tuned[metric]["n"])]
    if before and before["n"] != tuned[metric]["n"]:
        counts.insert(0, str(before["n"]))
    return (metric, "/".join(counts), *([show(before)] if compared else []), show(tuned[metric]))


def _share(figure: Values | None) -> str:
    if not figure or figure["value"] is None:
        return "-"
    return f"{figure['value']:.1%}{_interval(figure, 100, '.1f')}"


def _plain(figure: Values | None) -> str:
    if not figure or figure["value"] is None:
        return "-"
    return f"{figure['value']:.4g}{_interval(figure, 1, '.4g')}"


def _interval(figure: Values, scale: int, form: str) -> str:
    if figure["low"] is None:
        return ""
    return f" [{scale * figure['low']:{form}}, {scale * figure['high']:{form}}]"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
