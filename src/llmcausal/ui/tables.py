"""Tables of an evaluation: the base model against the tuned one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcausal.metrics import BEFORE_SEARCH, GROUPED, METRICS, Metric, of
from llmcausal.ui.console import one_line

SKIPPED_SHOWN = 10

Values = Mapping[str, Any]


def render_evaluation(result: Values) -> RenderableType:
    """Returns tables of metrics, groups of attacks and causal metrics.

    Args:
        result: As in `llmcausal.evaluation.results`; parts and metrics that are absent are left
            out.
    """
    tuned, base = result["tuned"], result.get("base")
    parts: list[RenderableType] = [_metrics(tuned, base)]
    if base and base.get("name"):
        parts.insert(0, Text(f"base here is {one_line(base['name'])}"))
    if result.get("difference"):
        parts.append(_changes(result["difference"]))
    for group, members in (tuned.get("groups") or {}).items():
        if len(members) > 1 or (members and group == "family"):
            parts.append(_by_group(group, members, base["groups"][group] if base else None))
    parts += _verdict(result)
    if tuned.get("causal"):
        parts.append(_read(tuned, base))
    if result.get("adaptive"):
        parts.append(_adaptive(result["adaptive"]))
    if result.get("environment"):
        parts.append(Text(_machine(result["environment"]), style="dim"))
    parts.extend(Text(f"note: {one_line(note)}") for note in result.get("notes", ()))
    skipped = result.get("skipped")
    if skipped:
        parts.append(Text(f"{len(skipped)} triplets left out:", style="yellow"))
        parts.extend(
            Text(f"  {one_line(item['id'], 40)}: {one_line(item['reason'])}")
            for item in skipped[:SKIPPED_SHOWN]
        )
        if len(skipped) > SKIPPED_SHOWN:
            parts.append(Text(f"  and {len(skipped) - SKIPPED_SHOWN} more, named in the report"))
    return Group(*parts)


def render_summary(results: Sequence[Values]) -> RenderableType:
    """Returns what generated answers show, in one small table and a verdict for each result.

    Args:
        results: Of several suites, on one machine, with a baseline in all or none of them.
    """
    compared = results[-1].get("base") is not None
    table = titled_table("Generated answers (95% intervals)")
    table.add_column("suite, metric")
    _add_rate_columns(table, results[-1].get("base"))
    table.add_column("McNemar p", justify="right")
    less: dict[str, None] = {}
    for result in results:
        tuned, base = result["tuned"], result.get("base") or {}
        table.add_row(Text(one_line(result.get("suite") or ""), style="bold"))
        for metric in METRICS:
            if not metric.headline or not tuned.get(metric.name, {}).get("n"):
                continue
            cells = _rates(tuned[metric.name], base.get(metric.name), compared)
            p_value = (result.get("difference") or {}).get(metric.name, {}).get("p_value")
            shown = "-" if p_value is None else f"{p_value:.2g}"
            table.add_row(f"  {metric.name}", *cells, shown)
            less |= {metric.name: None} if metric.better == "less" else {}
    parts: list[RenderableType] = [table]
    parts.append(Text(f"Less {' and '.join(less)} is better; more of the others."))
    for result in results:
        parts += _verdict(result, f"{one_line(result.get('suite') or '')}, " * (len(results) > 1))
    if results[-1].get("environment"):
        parts.append(Text(_machine(results[-1]["environment"]), style="dim"))
    return Group(*parts)


def _is_shown(metric: Metric, tuned: Values) -> bool:
    return metric.name in tuned and (metric.everywhere or tuned[metric.name]["n"] > 0)


def _verdict(result: Values, of: str = "") -> list[RenderableType]:
    verdict = result.get("verdict")
    if not verdict:
        return []
    style = {"more": "bold green", "same": "bold yellow", "less": "bold red"}[verdict["resists"]]
    lines: list[RenderableType] = [Text(of + one_line(verdict["text"]), style=style)]
    if result.get("likeness"):
        lines.append(Text(of + one_line(result["likeness"]["text"])))
    return lines


def _machine(environment: Values) -> str:
    """Says what the figures were measured on, and when."""
    versions = environment["packages"]
    shown = ", ".join(
        f"{name} {versions[name]}"
        for name in ("llmcausal", "torch", "transformers", "peft", "bitsandbytes")
    )
    hardware = environment["gpu"] or f"{environment['processor']}, {environment['threads']} threads"
    return one_line(f"{environment['date']}; {hardware}; {shown}")


def _metrics(tuned: Values, base: Values | None) -> Table:
    table = titled_table("Generated answers (95% intervals)")
    table.add_column("metric")
    table.add_column("better")
    _add_rate_columns(table, base)
    for metric in of("answers"):
        if _is_shown(metric, tuned):
            before = base.get(metric.name) if base else None
            rates = _rates(tuned[metric.name], before, base is not None)
            table.add_row(metric.name, metric.better, *rates)
    return table


def _changes(difference: Values) -> Table:
    table = titled_table("Change on the same prompts, in points (95% intervals)")
    table.add_column("metric")
    table.add_column("n", justify="right")
    table.add_column("tuned - base", justify="right", style="bold")
    table.add_column("McNemar p", justify="right")
    for name in (metric.name for metric in METRICS):
        change = difference.get(name)
        if not change or change["value"] is None:
            continue
        points = f"{100 * change['value']:+.1f} {_interval(change, '+.0f')}".rstrip()
        p_value = change.get("p_value")
        table.add_row(name, str(change["n"]), points, "-" if p_value is None else f"{p_value:.2g}")
    return table


def _by_group(group: str, tuned: Values, base: Values | None) -> Table:
    table = titled_table(f"By {group}: {', '.join(metric.name for metric in GROUPED)}")
    table.add_column(group, overflow="fold")
    table.add_column("n", justify="right")
    if base is not None:
        table.add_column(f"{GROUPED[0].short} base", justify="right")
    for metric in GROUPED:
        table.add_column(f"{metric.short} tuned", justify="right", style="bold")
    for name, metrics in tuned.items():
        before = base.get(name) if base else None
        asr = GROUPED[0].name
        cells = [str(metrics[asr]["n"])]
        if base is not None:
            cells.append(_rate(before[asr] if before else None))
        cells += [_rate(metrics[metric.name]) for metric in GROUPED]
        table.add_row(Text(one_line(name, 40)), *cells)
    return table


def _read(tuned: Values, base: Values | None) -> Table:
    table = titled_table("Right answers and representations (95% intervals)")
    for column in ("metric", "better"):
        table.add_column(column)
    _add_rate_columns(table, base)
    after = {**tuned, **tuned["causal"]}
    before = {**base, **base["causal"]} if base else None
    for metric in (*of("perplexity"), *of("causal")):
        name = metric.name
        if name in after:
            counts = _counts(after[name], before.get(name) if before else None)
            sides = [before.get(name)] if before is not None else []
            numbers = (_number(side) for side in [*sides, after[name]])
            table.add_row(name, metric.better, counts, *numbers)
    read = [one_line(side["representation"]) for side in (before, after) if side]
    table.add_row("read from", "", "", *read)
    return table


def _adaptive(adaptive: Values) -> Table:
    title = f"Adaptive attack: {adaptive['steps']} steps of {adaptive['candidates']} suffixes"
    table = titled_table(f"{title} on each prompt (95% intervals)")
    for column in ("metric", "better"):
        table.add_column(column)
    tuned, base = adaptive["tuned"], adaptive.get("base")
    _add_rate_columns(table, base)
    for metric in (GROUPED[0], BEFORE_SEARCH, GROUPED[1]):
        name = "same prompts, no suffix" if metric is BEFORE_SEARCH else metric.name
        before = base[metric.name] if base else None
        rates = _rates(tuned[metric.name], before, base is not None)
        table.add_row(name, metric.better, *rates)
    return table


def titled_table(title: str) -> Table:
    """Returns an empty table in this program's look."""
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )


def _add_rate_columns(table: Table, base: Values | None) -> None:
    table.add_column("n", justify="right")
    if base is not None:
        table.add_column("base", justify="right")
    table.add_column("tuned", justify="right", style="bold")


def _rates(tuned: Values, base: Values | None, compared: bool) -> list[str]:
    return [_counts(tuned, base), *([_rate(base)] if compared else []), _rate(tuned)]


def _counts(tuned: Values, base: Values | None) -> str:
    differ = base and base["n"] != tuned["n"]
    return f"{base['n']}/{tuned['n']}" if base and differ else str(tuned["n"])


def _rate(rate: Values | None) -> str:
    if not rate or rate["value"] is None:
        return "-"
    return f"{rate['value']:.1%} {_interval(rate, '.0f')}".rstrip()


def _interval(rate: Values, form: str) -> str:
    if rate.get("low") is None or rate.get("high") is None:
        return ""
    return f"[{100 * rate['low']:{form}}, {100 * rate['high']:{form}}]"


def _number(figure: Values | None) -> str:
    if not figure or figure["value"] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.2f}, {figure['high']:.2f}]"
