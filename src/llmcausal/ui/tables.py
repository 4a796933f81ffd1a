"""Tables of an evaluation and an ablation, and answers before and after training."""

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

    `result` is as in `llmcausal.evaluation.results`; its parts and metrics may be absent.
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
        title = "Change on the same prompts, in points (95% intervals)"
        table = titled_table(title, "metric", figures=["n", "tuned - base", "McNemar p"])
        for metric in METRICS:
            change = result["difference"].get(metric.name)
            if change and change["value"] is not None:
                table.add_row(metric.name, str(change["n"]), points(change), _p_value(change))
        parts.append(table)
    for group, members in (tuned.get("groups") or {}).items():
        if len(members) > 1 or (members and group == "family"):
            parts.append(_by_group(group, members, base["groups"][group] if base else None))
    parts += _verdict(result)
    if result.get("scales"):
        parts.append(_scales(result["scales"]))
    if tuned.get("causal"):
        after = {**tuned, **tuned["causal"]}
        before = {**base, **base["causal"]} if base else None
        rows = [(m.name, m) for m in (*of("perplexity"), *of("causal")) if m.name in after]
        table = _sides("Right answers and representations", rows, after, before, number)
        read = [one_line(side["representation"]) for side in (before, after) if side]
        table.add_row("read from", "", "", *read)
        parts.append(table)
    if adaptive := result.get("adaptive"):
        search = f"{adaptive['steps']} steps of {adaptive['candidates']} texts on each prompt"
        attacked, right = ((metric.name, metric) for metric in GROUPED)
        rows = [attacked, ("same prompts, no search", BEFORE_SEARCH), right]
        sides = adaptive["tuned"], adaptive.get("base")
        parts.append(_sides(f"Adaptive attack: {search}", rows, *sides))
    if result.get("environment"):
        parts.append(Text(_machine(result["environment"]), style="dim"))
    parts.extend(Text(f"note: {one_line(note)}") for note in result.get("notes", ()))
    if skipped := result.get("skipped"):
        parts.append(Text(f"{len(skipped)} triplets left out:", style="yellow"))
        parts.extend(
            Text(f"  {one_line(item['id'], 40)}: {one_line(item['reason'])}")
            for item in skipped[:SKIPPED_SHOWN]
        )
        if len(skipped) > SKIPPED_SHOWN:
            parts.append(Text(f"  and {len(skipped) - SKIPPED_SHOWN} more, named in the report"))
    return Group(*parts)


def render_summary(results: Sequence[Values]) -> RenderableType:
    """Returns one small table of generated answers, and a verdict for each result.

    Args:
        results: Several suites' results on one machine; all or none have a baseline.
    """
    compared = results[-1].get("base") is not None
    title, figures = "Generated answers (95% intervals)", _side_columns(compared)
    table = titled_table(title, "suite, metric", figures=[*figures, "McNemar p"])
    less: dict[str, None] = {}
    verdicts: list[Text] = []
    for result in results:
        tuned, base = result["tuned"], result.get("base") or {}
        suite = one_line(result.get("suite") or "")
        table.add_row(Text(suite, style="bold"))
        for metric in METRICS:
            if not metric.headline or not tuned.get(metric.name, {}).get("n"):
                continue
            cells = _cells(tuned[metric.name], base.get(metric.name), compared, share)
            change = (result.get("difference") or {}).get(metric.name, {})
            table.add_row(f"  {metric.name}", *cells, _p_value(change))
            less |= {metric.name: None} if metric.better == "less" else {}
        verdicts += _verdict(result, f"{suite}, " if len(results) > 1 else "")
    parts: list[RenderableType] = [table]
    parts.append(Text(f"Less {' and '.join(less)} is better; more of the others."))
    parts += verdicts
    if results[-1].get("environment"):
        parts.append(Text(_machine(results[-1]["environment"]), style="dim"))
    return Group(*parts)


def titled_table(title: str, *columns: str, figures: Iterable[str] = ()) -> Table:
    """Returns an empty table with columns of text, then of figures; the tuned model's are bold."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in columns:
        table.add_column(column)
    for column in figures:
        table.add_column(column, justify="right", style="bold" if "tuned" in column else "")
    return table


def _verdict(result: Values, of: str = "") -> list[Text]:
    verdict = result.get("verdict")
    if not verdict:
        return []
    style = {"more": "bold green", "same": "bold yellow", "less": "bold red"}[verdict["resists"]]
    lines = [Text(of + one_line(verdict["text"]), style=style)]
    if result.get("likeness"):
        lines.append(Text(of + one_line(result["likeness"]["text"])))
    return lines


def _machine(environment: Values) -> str:
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
    figures = _side_columns(base is not None)
    table = titled_table(f"{title} (95% intervals)", "metric", "better", figures=figures)
    for name, metric in rows:
        before = base.get(metric.name) if base else None
        cells = _cells(tuned[metric.name], before, base is not None, write)
        table.add_row(name, metric.better, *cells)
    return table


def _side_columns(compared: bool) -> list[str]:
    return ["n", "base", "tuned"] if compared else ["n", "tuned"]


def _cells(
    tuned: Values, base: Values | None, compared: bool, write: Callable[[Any], str]
) -> list[str]:
    return [counts(tuned, base), *([write(base)] if compared else []), write(tuned)]


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
    first = GROUPED[0].name
    figures = [] if base is None else [f"{GROUPED[0].short} base"]
    figures += [f"{metric.short} tuned" for metric in GROUPED]
    title = f"By {group}: {', '.join(metric.name for metric in GROUPED)}"
    table = titled_table(title, group, figures=["n", *figures])
    table.columns[0].overflow = "fold"
    for name, metrics in tuned.items():
        before = [share((base.get(name) or {}).get(first))] if base is not None else []
        after = (share(metrics[metric.name]) for metric in GROUPED)
        table.add_row(Text(one_line(name, 40)), str(metrics[first]["n"]), *before, *after)
    return table


PROMPT_CHARACTERS = 240
ANSWER_CHARACTERS = 160
_ROWS_AFTER = 4
"""Rows that `train` needs below the tables: its last lines and the next prompt."""

Row = Mapping[str, Any]


class OneScreen:
    """The small table, below an attack that training cured and one that still works.

    Without either, the first attacked prompt is shown. A terminal gets the examples that fit, a
    file all.

    Args:
        results: As in `render_summary`; the last has the examples.
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
    """Cuts out the middle: an injection is usually at one end."""
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
    """Returns a table, its note and a search's result, given `assembly.ablation`'s result."""
    table = titled_table("Ablation")
    table.padding, table.show_edge = (0, 1, 0, 0), False
    # The widths fit 80 columns: three intervals of 9, and enough to tell settings apart.
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
    note = Text(_ablation_note(result["rows"]), style="dim")
    return Group(table, note, *map(Text, _search_lines(result)))


def ablation_markdown(result: Values) -> str:
    """Returns the same table as Markdown, with one row for each combination."""
    titles = [
        "combination",
        *(metric.label for metric in (*CORE, *of("causal"))),
        "measured on",
        *(metric.name.replace("_", " ") for metric in of("perplexity")),
        "val task loss",
    ]
    table = [titles, ["---", *["---:"] * (len(titles) - 1)]]
    for row in result["rows"]:
        losses = [seed.get("validation", {}).get("val_task_loss") for seed in row["seeds"]]
        known = [loss for loss in losses if loss is not None]
        cells = [
            "; ".join([one_line(row["label"]), *_remarks(row)]),
            *(" ".join(_share_over_seeds(row, metric.name, 1)) for metric in CORE),
            *(_mean(row["causal"].get(metric.name), 3) for metric in of("causal")),
            _measured_on(row) or "-",
            *(_mean(row[metric.name]) for metric in of("perplexity")),
            _mean(sum(known) / len(known) if known else None, 3),
        ]
        table.append([cell.replace("|", "\\|") for cell in cells])
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    return "\n\n".join([lines, _ablation_note(result["rows"]), *_search_lines(result)]) + "\n"


def _label_lines(row: Values) -> list[str]:
    return one_line(row["label"]).split(", ")


def _share_over_seeds(row: Values, name: str, digits: int) -> list[str]:
    """Returns value, interval and, for several seeds, each one's value, all in percent."""
    parts = share(row[name], digits).split(" ", 1)
    seeds = [seed[name] for seed in row["seeds"] if seed[name] is not None]
    if len(seeds) > 1:
        parts.append(f"({' '.join(f'{100 * value:.0f}' for value in seeds)})")
    return parts


def _remarks(row: Values) -> list[str]:
    return [f"seed {failed['seed']} failed: loss not finite" for failed in row["failed"]]


def _measured_on(row: Values) -> str:
    return str(row["causal"].get("representation") or "")


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
