"""Tables of an evaluation: the base model against the tuned one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcausal.ui.console import one_line

METRICS = {
    "attack_success_rate": "less",
    "asr_begins_with": "less",
    "utility": "more",
    "utility_under_attack": "more",
}
"""Each metric, and whether less or more of it is better."""

Values = Mapping[str, Any]


def render_evaluation(result: Values) -> RenderableType:
    """Returns tables of metrics, attack families and causal metrics.

    Args:
        result: `base` (or None) and `tuned`, each with `attack_success_rate`,
            `asr_begins_with`, `utility` and `utility_under_attack` as
            `{"value", "n", "low", "high"}` (shares of 1; all but `n` may be None),
            `families` (name to `attack_success_rate` and `utility_under_attack`, each the
            same) and, where it was measured, `causal` (name to float). `difference`, where
            given, has tuned minus base for each metric, with `p_value`. `skipped`, where given,
            lists `{"id", "reason"}`. `environment`, where given, is told. Metrics that are absent
            are left out.
    """
    tuned, base = result["tuned"], result.get("base")
    parts: list[RenderableType] = [_metrics(tuned, base)]
    if result.get("difference"):
        parts.append(_changes(result["difference"]))
    families = tuned.get("families") or {}
    parts.extend(
        _by_family(name, families, (base.get("families") or {}) if base else None)
        for name in METRICS
        if any(name in metrics for metrics in families.values())
    )
    if tuned.get("causal"):
        parts.append(_causal(tuned, base))
    if result.get("environment"):
        parts.append(Text(_machine(result["environment"]), style="dim"))
    skipped = result.get("skipped")
    if skipped:
        parts.append(Text(f"{len(skipped)} triplets left out:", style="yellow"))
        parts.extend(
            Text(f"  {one_line(item['id'], 40)}: {one_line(item['reason'])}") for item in skipped
        )
    return Group(*parts)


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
    table = _table("Generated answers (95% intervals)")
    table.add_column("metric")
    table.add_column("better")
    _add_rate_columns(table, base)
    for name, better in METRICS.items():
        if name in tuned:
            before = base.get(name) if base else None
            table.add_row(name, better, *_rates(tuned[name], before, base is not None))
    return table


def _changes(difference: Values) -> Table:
    table = _table("Change on the same prompts, in points (95% intervals)")
    table.add_column("metric")
    table.add_column("n", justify="right")
    table.add_column("tuned - base", justify="right", style="bold")
    table.add_column("McNemar p", justify="right")
    for name in METRICS:
        change = difference.get(name)
        if not change or change["value"] is None:
            continue
        points = f"{100 * change['value']:+.1f} {_interval(change, '+.0f')}".rstrip()
        p_value = change.get("p_value")
        table.add_row(name, str(change["n"]), points, "-" if p_value is None else f"{p_value:.2g}")
    return table


def _by_family(name: str, tuned: Values, base: Values | None) -> Table:
    table = _table(f"{name} by family")
    table.add_column("family", overflow="fold")
    _add_rate_columns(table, base)
    for family, metrics in tuned.items():
        if name in metrics:
            before = base.get(family, {}).get(name) if base else None
            rates = _rates(metrics[name], before, base is not None)
            table.add_row(Text(one_line(family, 40)), *rates)
    return table


def _causal(tuned: Values, base: Values | None) -> Table:
    table = _table("Representations")
    table.add_column("metric")
    before: Values = base.get("causal") or {} if base else {}
    if before:
        table.add_column("base", justify="right")
    table.add_column("tuned", justify="right")
    for name, value in tuned["causal"].items():
        cells = [
            one_line(name, 40),
            *([_number(before.get(name))] if before else []),
            _number(value),
        ]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )


def _add_rate_columns(table: Table, base: Values | None) -> None:
    table.add_column("n", justify="right")
    if base is not None:
        table.add_column("base", justify="right")
    table.add_column("tuned", justify="right", style="bold")


def _rates(tuned: Values, base: Values | None, compared: bool) -> list[str]:
    counts = [str(tuned["n"])]
    if base and base["n"] != tuned["n"]:
        counts.insert(0, str(base["n"]))
    return ["/".join(counts), *([_rate(base)] if compared else []), _rate(tuned)]


def _rate(rate: Values | None) -> str:
    if not rate or rate["value"] is None:
        return "-"
    return f"{rate['value']:.1%} {_interval(rate, '.0f')}".rstrip()


def _interval(rate: Values, form: str) -> str:
    if rate.get("low") is None or rate.get("high") is None:
        return ""
    return f"[{100 * rate['low']:{form}}, {100 * rate['high']:{form}}]"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else one_line(str(value), 24)
