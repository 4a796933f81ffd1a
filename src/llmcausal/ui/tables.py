"""The tables of an evaluation and an ablation, and answers before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llmcausal.metrics import (
    BEFORE_SEARCH,
    CORE,
    GROUPED,
    METRICS,
    Metric,
    counts,
    number,
    of,
    points,
    share,
)
from llmcausal.ui.console import one_line

SKIPPED_SHOWN = 10

Values = Mapping[str, Any]


def render_evaluation(result: Values) -> RenderableType:
    """Returns tables of metrics, groups of attacks and causal metrics.

    `result` is as in `llmcausal.evaluation.results`; absent parts and metrics are left out.
    """
    tuned, base = result["tuned"], result.get("base")
    parts: list[RenderableType] = []
    if base and base.get("name"):
        parts.append(Text(f"base here is {one_line(base['name'])}"))
    answers = [
        (metric.name, metric)
        for metric in of("answers")
        if metric.name in tuned and (metric.everywhere or tuned[metric.name]["n"] > 0)
    ]
    parts.append(_sides("Generated answers", answers, tuned, base))
    if result.get("difference"):
        parts.append(_changes(result["difference"]))
    for group, members in (tuned.get("groups") or {}).items():
        if len(members) > 1 or (members and group == "family"):
            parts.append(_by_group(group, members, base["groups"][group] if base else None))
    parts += _verdict(result)
    if result.get("scales"):
        parts.append(_scales(result["scales"]))
    if tuned.get("causal"):
        parts.append(_read(tuned, base))
    if adaptive := result.get("adaptive"):
        search = f"{adaptive['steps']} steps of {adaptive['candidates']} texts on each prompt"
        attacked, right = ((metric.name, metric) for metric in GROUPED)
        rows = [attacked, ("same prompts, no search", BEFORE_SEARCH), right]
        sides = adaptive["tuned"], adaptive.get("base")
        parts.append(_sides(f"Adaptive attack: {search}", rows, *sides))
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
    table = titled_table("Generated answers (95% intervals)", "suite, metric")
    _add_side_columns(table, compared)
    table.add_column("McNemar p", justify="right")
    less: dict[str, None] = {}
    for result in results:
        tuned, base = result["tuned"], result.get("base") or {}
        table.add_row(Text(one_line(result.get("suite") or ""), style="bold"))
        for metric in METRICS:
            if not metric.headline or not tuned.get(metric.name, {}).get("n"):
                continue
            cells = _cells(tuned[metric.name], base.get(metric.name), compared, share)
            change = (result.get("difference") or {}).get(metric.name, {})
            table.add_row(f"  {metric.name}", *cells, _p_value(change))
            less |= {metric.name: None} if metric.better == "less" else {}
    parts: list[RenderableType] = [table]
    parts.append(Text(f"Less {' and '.join(less)} is better; more of the others."))
    for result in results:
        parts += _verdict(result, f"{one_line(result.get('suite') or '')}, " * (len(results) > 1))
    if results[-1].get("environment"):
        parts.append(Text(_machine(results[-1]["environment"]), style="dim"))
    return Group(*parts)


def titled_table(title: str, *columns: str) -> Table:
    """Returns an empty table in this program's look; `columns` are its first ones, of text."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in columns:
        table.add_column(column)
    return table


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


def _sides(
    title: str,
    rows: Iterable[tuple[str, Metric]],
    tuned: Values,
    base: Values | None,
    write: Callable[[Any], str] = share,
) -> Table:
    """Returns a row for each metric under its name there, with both sides' figures."""
    table = titled_table(f"{title} (95% intervals)", "metric", "better")
    _add_side_columns(table, base is not None)
    for name, metric in rows:
        before = base.get(metric.name) if base else None
        cells = _cells(tuned[metric.name], before, base is not None, write)
        table.add_row(name, metric.better, *cells)
    return table


def _add_side_columns(table: Table, compared: bool) -> None:
    table.add_column("n", justify="right")
    if compared:
        table.add_column("base", justify="right")
    table.add_column("tuned", justify="right", style="bold")


def _cells(
    tuned: Values, base: Values | None, compared: bool, write: Callable[[Any], str]
) -> list[str]:
    return [counts(tuned, base), *([write(base)] if compared else []), write(tuned)]


def _changes(difference: Values) -> Table:
    table = titled_table("Change on the same prompts, in points (95% intervals)", "metric")
    table.add_column("n", justify="right")
    table.add_column("tuned - base", justify="right", style="bold")
    table.add_column("McNemar p", justify="right")
    for metric in METRICS:
        change = difference.get(metric.name)
        if change and change["value"] is not None:
            table.add_row(metric.name, str(change["n"]), points(change), _p_value(change))
    return table


def _p_value(change: Values) -> str:
    return "-" if change.get("p_value") is None else f"{change['p_value']:.2g}"


def _scales(measured: Sequence[Values]) -> Table:
    table = titled_table("The adapter's update at other scales (95% intervals)", "scale")
    shown = [m for m in METRICS if m.headline and any(p.get(m.name, {}).get("n") for p in measured)]
    for metric in shown:
        table.add_column(metric.short, justify="right")
    for point in measured:
        table.add_row(f"{point['scale']:g}", *(share(point.get(metric.name)) for metric in shown))
    return table


def _by_group(group: str, tuned: Values, base: Values | None) -> Table:
    table = titled_table(f"By {group}: {', '.join(metric.name for metric in GROUPED)}")
    table.add_column(group, overflow="fold")
    table.add_column("n", justify="right")
    if base is not None:
        table.add_column(f"{GROUPED[0].short} base", justify="right")
    for metric in GROUPED:
        table.add_column(f"{metric.short} tuned", justify="right", style="bold")
    first = GROUPED[0].name
    for name, metrics in tuned.items():
        before = [share((base.get(name) or {}).get(first))] if base is not None else []
        after = (share(metrics[metric.name]) for metric in GROUPED)
        table.add_row(Text(one_line(name, 40)), str(metrics[first]["n"]), *before, *after)
    return table


def _read(tuned: Values, base: Values | None) -> Table:
    after = {**tuned, **tuned["causal"]}
    before = {**base, **base["causal"]} if base else None
    rows = [(m.name, m) for m in (*of("perplexity"), *of("causal")) if m.name in after]
    table = _sides("Right answers and representations", rows, after, before, number)
    read = [one_line(side["representation"]) for side in (before, after) if side]
    table.add_row("read from", "", "", *read)
    return table


PROMPT_CHARACTERS = 240
ANSWER_CHARACTERS = 160
_ROWS_AFTER = 4
"""Rows of a terminal that `train` needs below the tables: its last lines and the next prompt."""

Row = Mapping[str, Any]


class OneScreen:
    """An attack that training cured and one that still works, above the small table of all.

    Without either it is the first attacked prompt. A terminal gets the examples that it has room
    for, a file all of them.

    Args:
        results: As in `render_summary`, the one with the examples last. Texts in it may be
            anyone's, and stay text.
    """

    def __init__(self, results: Sequence[Values]) -> None:
        self._examples = _examples(results[-1]["generations"])
        self._summary = render_summary(results)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        taken = len(console.render_lines(self._summary, options)) + _ROWS_AFTER
        for example in self._examples:
            rows = len(console.render_lines(example, options))
            if taken + rows <= console.height or not console.is_terminal:
                taken += rows
                yield example
        yield self._summary


def _examples(rows: Sequence[Row]) -> list[Panel]:
    attacked = [row for row in rows if row["member"] == "injection"]
    cured = [row for row in attacked if row["base_obeyed"] and row["obeyed"] is False]
    works = [row for row in attacked if row["obeyed"]]
    shown = []
    if cured:
        shown.append(_panel(cured[0], f"obeyed before, resisted after: 1 of {len(cured)}"))
    if works:
        shown.append(_panel(works[0], f"obeyed after training: 1 of {len(works)}"))
    if not shown and attacked:
        shown.append(_panel(attacked[0], "an attacked prompt"))
    return shown


def _panel(row: Row, title: str) -> Panel:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("prompt", Text(_middle_cut(row["prompt"], PROMPT_CHARACTERS)))
    if row["expected"]:
        grid.add_row("right answer", Text(one_line(row["expected"], ANSWER_CHARACTERS)))
    if row["base_answer"] is not None:
        before = _answer(row["base_answer"], row["base_obeyed"], row["base_right"])
        grid.add_row("before", before)
    grid.add_row("after", _answer(row["answer"], row["obeyed"], row["right"]))
    named = f"{title} ({one_line(row['family'], 30)})" if row["family"] else title
    return Panel(grid, title=Text(named), title_align="left", border_style="bright_black")


def _answer(text: str, obeyed: bool | None, right: bool | None) -> Text:
    verdicts = []
    if obeyed is not None:
        verdicts.append(("obeyed the attack", "bold red") if obeyed else ("resisted", "green"))
    if right is not None:
        verdicts.append(("right", "green") if right else ("wrong", "yellow"))
    answer = Text(one_line(text, ANSWER_CHARACTERS) or "(empty)")
    if verdicts:
        answer.append(" [")
        answer.append_text(Text(", ").join(Text(*verdict) for verdict in verdicts))
        answer.append("]")
    return answer


def _middle_cut(text: str, limit: int) -> str:
    """Shortens from the middle: an injection usually stands at one end."""
    line = one_line(text)
    half = (limit - 5) // 2
    return line if len(line) <= limit else f"{line[:half]} ... {line[-half:]}"


_ABLATION_NOTE = (
    "Mean over seeds with its 95% interval (bootstrap over prompts of each prompt's mean over "
    "seeds; Wilson's for one seed or where all answers agree), then each seed's value. Causal "
    "metrics, detection AUROC and perplexity are means over seeds; causal metrics of a projection "
    "and of a hidden state are not comparable."
)


def render_ablation(result: Values) -> RenderableType:
    """Returns the table, its note and, after a search, what was found.

    `result` has `rows` and `search` as `assembly.ablation` returns them.
    """
    table = titled_table("Ablation")
    table.padding, table.show_edge = (0, 1, 0, 0), False
    # The widths fit 80 columns: three intervals of 9, and what it takes to tell settings apart.
    longest = max(len(line) for row in result["rows"] for line in _label_lines(row))
    table.add_column("combination", overflow="fold", min_width=min(longest, 20))
    for metric in CORE:
        table.add_column(metric.short.replace(" ", "\n"), justify="right", min_width=9)
    table.add_column("prompts'\nvectors", justify="right", min_width=12)
    perplexities = "\n".join(metric.short for metric in of("perplexity"))
    table.add_column(perplexities, justify="right", min_width=10)
    for row in result["rows"]:
        causal = row["causal"]
        vectors = [
            f"{metric.brief or metric.short} {_mean(causal[metric.name], 3)}"
            for metric in of("causal")
            if causal.get(metric.name) is not None
        ]
        cells = [
            [*_label_lines(row), *_remarks(row)],
            *(_share_over_seeds(row, metric.name, 0) for metric in CORE),
            [*vectors, _measured_on(row)] if vectors else ["-"],
            [_mean(row[metric.name]) for metric in of("perplexity")],
        ]
        table.add_row(*(Text("\n".join(cell)) for cell in cells), end_section=True)
    parts: list[RenderableType] = [table, Text(_ablation_note(result["rows"]), style="dim")]
    parts += [Text(line) for line in _search_lines(result)]
    return Group(*parts)


def ablation_markdown(result: Values) -> str:
    """Returns the same table as Markdown, one row a combination."""
    titles = [
        "combination",
        *(metric.label for metric in (*CORE, *of("causal"))),
        "measured on",
        *(metric.name.replace("_", " ") for metric in of("perplexity")),
        "val task loss",
    ]
    lines = [_markdown_line(titles), _markdown_line(["---", *["---:"] * (len(titles) - 1)])]
    for row in result["rows"]:
        cells = [
            "; ".join([one_line(row["label"]), *_remarks(row)]),
            *(" ".join(_share_over_seeds(row, metric.name, 1)) for metric in CORE),
            *(_mean(row["causal"].get(metric.name), 3) for metric in of("causal")),
            _measured_on(row) or "-",
            *(_mean(row[metric.name]) for metric in of("perplexity")),
            _mean(_mean_validation(row, "val_task_loss"), 3),
        ]
        lines.append(_markdown_line(cells))
    parts = ["\n".join(lines), _ablation_note(result["rows"]), *_search_lines(result)]
    return "\n\n".join(parts) + "\n"


def _label_lines(row: Values) -> list[str]:
    return one_line(row["label"]).split(", ")


def _share_over_seeds(row: Values, name: str, digits: int) -> list[str]:
    """Returns value, interval and, of several seeds, each one's value, all in percent."""
    parts = share(row[name], digits).split(" ", 1)
    seeds = [seed[name] for seed in row["seeds"] if seed[name] is not None]
    if len(seeds) > 1:
        parts.append(f"({' '.join(f'{100 * value:.0f}' for value in seeds)})")
    return parts


def _remarks(row: Values) -> list[str]:
    return [f"seed {failed['seed']} failed: loss not finite" for failed in row["failed"]]


def _measured_on(row: Values) -> str:
    return str(row["causal"].get("representation") or "")


def _mean_validation(row: Values, name: str) -> float | None:
    values = [seed.get("validation", {}).get(name) for seed in row["seeds"]]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _ablation_note(rows: Sequence[Values]) -> str:
    prompts = sorted({row[each.name]["n"] for row in rows for each in CORE if row[each.name]["n"]})
    ends = dict.fromkeys([*prompts[:1], *prompts[-1:]])
    counted = f"n = {' to '.join(map(str, ends))} prompts. " if ends else ""
    return counted + _ABLATION_NOTE


def _search_lines(result: Values) -> list[str]:
    search = result["search"]
    if not search:
        return []
    return [
        f"Search: {len(search['trials'])} trials, minimizing {search['objective']}. "
        f"Best: {one_line(search['best'])}"
    ]


def _mean(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
