"""An evaluation as Markdown: every table, the exact command and environment, and the caveats."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmcausal.data.triplet import SEEN
from llmcausal.evaluation.summary import BEST_OF_K, GROUPED

SHARES = (
    BEST_OF_K,
    "attack_success_rate",
    "asr_begins_with",
    "utility",
    "utility_under_attack",
    "instruction_following",
    "empty_answers",
    "refusals",
    "repetitions",
)
"""In the order of the tables; one that nothing was measured of is left out."""
PERPLEXITIES = ("perplexity", "perplexity_under_attack")
CAUSAL = ("causal_stability", "spurious_separation", "causal_discrimination", "detection_auroc")
MAX_EXAMPLES = 5
MAX_CHARACTERS = 400

Values = Mapping[str, Any]

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_SPECIAL = re.compile(r"([\\`*_{}\[\]|~$@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""What means something inside a line, bare addresses included, which some renderers link."""
_LEADING = re.compile(r"^(\d+)([.)])(?=\s|$)|^()([#+\-=:!])")

_ALWAYS = (
    "Intervals are 95%: Wilson for shares; bootstrap over triplets for differences, means and "
    "perplexity; DeLong for detection_auroc. They tell how sure the figures are for prompts like "
    "these, not for others.",
    "Attack success is by rule: the attack's own check, or its witness in the greedy answer. A "
    "verbatim copy of the injected instruction does not count as obeying it.",
)

_SEEN_TOLD = "Attacks in phrasings of the training data are in the tables by group, and no other."


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
    if any(metric in tuned for metric in PERPLEXITIES):
        parts += ["## Perplexity of the right answers", _perplexities(tuned, base, name)]
    if tuned.get("causal"):
        parts += ["## Representations", _causal(tuned, base, name)]
    if result.get("adaptive"):
        parts += ["## Adaptive attack", _adaptive(result["adaptive"], name)]
    parts += ["## Caveats", _bullets(caveats(result))]
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


def caveats(result: Values) -> list[str]:
    """Says what a reader must know to judge the figures."""
    rows = result.get("generations", ())
    attacked = [row for row in rows if row["member"] == "injection"]
    carriers = {(row["system"], row["prompt"]) for row in rows if row["member"] == "benign"}
    cut = sum(not row["stopped"] for row in attacked)
    skipped = result.get("skipped", ())
    told = list(_ALWAYS)
    if any(row["novelty"] == SEEN for row in attacked):
        told.append(_SEEN_TOLD)
    if cut:
        told.append(
            f"{cut} of {len(attacked)} attacked prompts were answered up to the length limit; what "
            "would have come later is not judged."
        )
    if len(carriers) < len(attacked):
        told.append(
            f"{len(attacked)} attacked prompts are made from {len(carriers)} benign ones, so they "
            "are not independent, and intervals on them are somewhat too narrow."
        )
    told += result.get("notes", ())
    if skipped:
        told.append(f"{len(skipped)} triplets were left out of some or all figures:")
        told += [f"{item['id']}: {item['reason']}" for item in skipped]
    return told


def _facts(result: Values, name: str) -> str:
    facts = [
        f"{key}: {escape(str(result[key]))}" for key in ("suite", "checkpoint") if result.get(key)
    ]
    if result.get("base"):
        facts.append(f"compared with: {escape(name)}")
    if result.get("verdict"):
        facts.append(escape(result["verdict"]["text"]))
    if result.get("likeness"):
        facts.append(escape(result["likeness"]["text"]))
    return "\n".join(f"- {fact}" for fact in facts)


def _shares(tuned: Values, base: Values | None, name: str) -> str:
    rows = [
        _row(metric, tuned, base, _share) for metric in SHARES if tuned.get(metric, {}).get("n")
    ]
    return _table(("metric", "n", *_sides(base, name)), rows)


def _changes(difference: Values, name: str) -> str:
    rows = []
    for metric in SHARES:
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
            _, *rest = _row(metric, metrics, before, _share, base is not None)
            cells += rest
        rows.append(tuple(cells))
    heading: list[str] = [group]
    for short in ("ASR", "utility under attack"):
        heading += ["n", *(f"{short}, {side}" for side in _sides(base, name))]
    return _table(heading, rows)


def _perplexities(tuned: Values, base: Values | None, name: str) -> str:
    rows = [_row(metric, tuned, base, _plain) for metric in PERPLEXITIES if metric in tuned]
    return _table(("metric", "n", *_sides(base, name)), rows)


def _causal(tuned: Values, base: Values | None, name: str) -> str:
    after, before = tuned["causal"], base["causal"] if base else None
    rows = [_row(metric, after, before, _plain) for metric in CAUSAL if metric in after]
    read = [side["representation"] for side in (before, after) if side]
    return _table(("metric", "n", *_sides(base, name)), [*rows, ("read from", "", *read)])


def _adaptive(adaptive: Values, name: str) -> str:
    tuned, base = adaptive["tuned"], adaptive.get("base")
    figures = ("attack_success_rate", "before_search", "utility_under_attack")
    rows = [_row(metric, tuned, base, _share) for metric in figures]
    told = (
        f"A suffix is searched for each prompt ({adaptive['search']}), in at most "
        f"{adaptive['steps']} steps of {adaptive['candidates']} candidates. "
        "`before_search` is the same prompts without one. A longer search finds more."
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
