"""A memory report in the terminal, and a drawing of its timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcausal.ui.console import one_line
from llmcausal.ui.drawings import drawing, picture, save_plot
from llmcausal.ui.figures import BLOCKS, duration, gibibytes
from llmcausal.ui.tables import titled_table

WIDTH = 64
HEIGHT = 8
GIB = 2**30
ROWS = {
    "base_model": "base model",
    "adapters": "LoRA adapters",
    "optimizer": "optimizer state",
    "gradients": "gradients",
    "activations": "activations",
    "logits": "logits",
    "dequantization": "dequantization",
    "misc": "misc",
}
"""A prediction's components, and their names for people."""
PEAK_TENSORS_SHOWN = 5
TIGHT_SHARE = 0.05
"""A margin below this share of the budget is tight: the prediction's worst error."""
_COLORS = ("#4c6a92", "#7f9cc4", "#b6a16b", "#c97b5a", "#5a9e8f", "#a05c8a", "#8c8c8c", "#c9c9c9")
PLOT_SUFFIXES = (".svg", ".png")

Values = Mapping[str, Any]
"""A report from `memory.report`, or a part of it."""


def timeline_text(timeline: Sequence[Values]) -> Text:
    """Draws the allocated memory over the step, from 0, with the phases under it."""
    if not timeline:
        return Text("")
    width = min(WIDTH, len(timeline))
    totals = [sum(moment["allocated_bytes"].values()) for moment in timeline]
    starts = [index * len(timeline) // width for index in range(width)]
    ends = [*starts[1:], len(timeline)]
    # Each column shows its maximum.
    shown = [
        max(range(start, end), key=totals.__getitem__)
        for start, end in zip(starts, ends, strict=True)
    ]
    top = max(totals) or 1
    lines = [f"allocated over the step, peak {gibibytes(top)}"]
    for row in range(HEIGHT, 0, -1):
        cells = [_cell(totals[index] / top * HEIGHT - (row - 1)) for index in shown]
        lines.append("".join(cells).rstrip())
    lines.append(_phases([timeline[index]["phase"] for index in shown]))
    return Text("\n".join(lines))


def _cell(filled: float) -> str:
    if filled <= 0:
        return " "
    return BLOCKS[min(len(BLOCKS) - 1, int(filled * len(BLOCKS)))]


def _phases(phases: Sequence[str]) -> str:
    line = ""
    runs = [(phase, len(list(group))) for phase, group in groupby(phases)]
    for index, (phase, width) in enumerate(runs):
        # A phase too short for its name gets a mark without a name.
        named = len(phase) < width or index == len(runs) - 1
        line += f"|{phase if named else '':<{width - 1}}"
    return line.rstrip()


def plot_timeline(result: Values, path: Path) -> None:
    """Draws the step's memory by component, and the budget, to a file; replaces the file.

    Args:
        result: The whole report.
        path: Checked by `check_plot_path`.

    Raises:
        StorageError: If it cannot be written.
    """
    save_plot(path, _picture(result, path.suffix.lower().removeprefix(".")))


def _picture(result: Values, form: str) -> bytes:
    prediction = result["prediction"]
    with drawing(720, 360, font=9, layout="constrained") as figure:
        axis = figure.subplots()
        _stack(axis, prediction["timeline"])
        available = result["budget"]["bytes"] - prediction["context_bytes"]
        axis.axhline(available / GIB, color="#b00020", linestyle="--", linewidth=1.2)
        axis.text(0, available / GIB, " budget less CUDA context", va="bottom", color="#b00020")
        axis.set_ylabel("GiB allocated")
        title = f"{result['model']}: predicted memory of a step, strategy {prediction['strategy']}"
        axis.set_title(title, parse_math=False)
        axis.legend(loc="lower right", ncols=2)
        return picture(figure, form)


def _stack(axis: Any, timeline: Sequence[Values]) -> None:
    places = range(len(timeline))
    layers = [[moment["allocated_bytes"][name] / GIB for moment in timeline] for name in ROWS]
    labels = [name.replace("_", " ") for name in ROWS]
    axis.stackplot(places, *layers, labels=labels, colors=_COLORS)
    phases = [moment["phase"] for moment in timeline]
    starts = [i for i in places if i == 0 or phases[i] != phases[i - 1]]
    axis.set_xticks(starts, [phases[i] for i in starts], rotation=30, ha="right")
    axis.set_xlim(0, max(len(timeline) - 1, 1))


def render_memory(result: Values) -> RenderableType:
    parts: list[RenderableType] = [*_heading(result), _components(result)]
    if result["naive"]:
        parts.append(_exit_status(result))
    parts.extend(_peak(result["prediction"]))
    parts.append(timeline_text(result["prediction"]["timeline"]))
    parts.append(_strategy(result["strategy"]))
    if result["advice"]:
        parts.append(_advice(result["advice"]))
    if result["sweep"]:
        parts.append(_sweep(result["sweep"]))
    parts.append(_costs(result["costs"]))
    parts.extend(_time(result["time"]))
    if result["measured"]:
        parts.append(_measured(result["measured"]))
    return Group(*parts)


def _heading(result: Values) -> list[Text]:
    load = result["workload"]
    budget = result["budget"]
    size = f"{load['member_tokens']} tokens per member, {load['shared_tokens']} of them shared"
    return [
        Text(f"{one_line(result['model'])} on {result['device']}: predicted, not measured"),
        Text(
            f"micro-batch: {load['triplets']} triplet(s), {size}, {load['response_tokens']} scored"
        ),
        Text(f"  from: {one_line(load['source'])}"),
        Text(f"budget: {gibibytes(budget['bytes'])}, {one_line(budget['source'])}"),
        *map(Text, result["notes"]),
    ]


def _table(title: str, *columns: str, left: Sequence[str] = ("",)) -> Table:
    """Returns an empty table; columns align right, except those in `left`."""
    table = titled_table(title)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _components(result: Values) -> Table:
    shown = {"predicted": result["prediction"]}
    if result["naive"]:
        shown["usual recipe"] = result["naive"]
    predictions = list(shown.values())
    budget, on_cuda = result["budget"]["bytes"], result["device"] == "cuda"
    table = _table("Device memory at the peak", "", *shown)

    def row(name: str, values: Sequence[str], **style: Any) -> None:
        table.add_row(name, *values, **style)

    for component, name in ROWS.items():
        row(name, [gibibytes(each["components"][component]) for each in predictions])
    if on_cuda:
        row("allocator's share", [gibibytes(_slack(each)) for each in predictions])
        row("CUDA context", [gibibytes(each["context_bytes"]) for each in predictions])
    table.add_section()
    row("total", [gibibytes(each["total_bytes"]) for each in predictions], style="bold")
    row("budget", [gibibytes(budget) for _ in predictions])
    row("fits", [_yes(each["fits"]) for each in predictions], style="bold")
    row("safety margin", [_margin(each["margin_bytes"], budget) for each in predictions])
    if on_cuda:
        row("host memory", [gibibytes(each["host_bytes"]) for each in predictions])
    table.add_section()
    row("longest members that fit", [_limit(result["limits"], "max_length", "token")])
    row("largest micro-batch", [_limit(result["limits"], "batch_size", "triplet")])
    return table


def _slack(prediction: Values) -> int:
    """Returns the allocator's memory beyond the tensors at the peak."""
    return int(
        prediction["total_bytes"] - prediction["context_bytes"] - prediction["allocated_bytes"]
    )


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def _margin(margin: int, budget: int) -> str:
    tight = 0 <= margin < TIGHT_SHARE * budget
    return gibibytes(margin) + (" (tight)" if tight else "")


def _limit(limits: Values, name: str, unit: str) -> str:
    found = limits[name]
    if not found:
        return "none"
    if found >= limits[f"{name}_searched"]:
        return f"{found} {unit}s or more"
    return f"{found} {unit if found == 1 else unit + 's'}"


def _exit_status(result: Values) -> Text:
    fits = result["fits"]
    return Text(
        f"exit code {0 if fits else 3}: it describes the requested strategy, the usual recipe, "
        f"which {'fits' if fits else 'does not fit'}; {result['prediction']['strategy']} "
        f"{'fits' if result['prediction']['fits'] else 'does not fit either'}"
    )


def _peak(prediction: Values) -> list[Text]:
    lines = [Text(f"the peak is in the {prediction['peak_phase']} pass; it consists of:")]
    for held in prediction["peak_tensors"][:PEAK_TENSORS_SHOWN]:
        what = f"{held['count']} x {one_line(held['what'])} ({ROWS[held['component']]})"
        lines.append(Text(f"  {gibibytes(held['bytes']):>9}  {what}"))
    return lines


def _strategy(strategy: Values) -> RenderableType:
    heading = Text(f"strategy: {strategy['name']}", style="bold")
    columns = ("strategy", "needs", "host", "fits")
    tried = _table("Strategies predicted, fastest first", *columns, left=["strategy"])
    for attempt in strategy["tried"]:
        tried.add_row(
            attempt["name"],
            gibibytes(attempt["needed_bytes"]),
            gibibytes(attempt["host_bytes"]),
            _yes(attempt["fits"]),
        )
    switches = ", ".join(f"{key} = {value}" for key, value in strategy["switches"].items())
    return Group(heading, Text(f"  {strategy['reason']}"), Text(f"  {switches}"), tried)


def _advice(advice: Sequence[Values]) -> Table:
    columns = ("change", "predicted", "fits")
    table = _table("What would help, cheapest first", *columns, left=["change"])
    for entry in advice:
        change = f"{one_line(entry['change'])}\n{one_line(entry['arguments'])}"
        table.add_row(Text(change), gibibytes(entry["predicted_bytes"]), _yes(entry["fits"]))
    return table


def _sweep(rows: Sequence[Values]) -> Table:
    columns = ("tokens per member", "triplets", "strategy", "predicted", "host", "fits")
    table = _table("Other lengths and micro-batches, planned", *columns, left=["strategy"])
    for row in rows:
        table.add_row(
            str(row["member_tokens"]),
            str(row["triplets"]),
            row["strategy"],
            gibibytes(row["predicted_bytes"]),
            gibibytes(row["host_bytes"]),
            _yes(row["fits"]),
        )
    return table


def _costs(costs: Sequence[Values]) -> Table:
    columns = ("strategy", "FLOPs", "moved per triplet", "adds")
    title = "Each strategy's work and transfers, counted"
    table = _table(title, *columns, left=["strategy", "adds"])
    for row in costs:
        moved = row["moved_bytes_per_triplet"]
        table.add_row(
            row["strategy"],
            f"x{row['flops_ratio']:.2f}",
            gibibytes(moved) if moved else "-",
            row["costs"],
        )
    return table


def _time(time: Values) -> list[RenderableType]:
    work = time["flops_per_triplet"] / 1e12
    per_triplet = f"{work:,.0f} TFLOP" if work >= 100 else f"{work:.3g} TFLOP"
    tokens = f"{time['tokens_per_triplet']:,.0f} tokens"
    lines: list[RenderableType] = [
        Text(f"a triplet: {tokens} computed, {per_triplet} (counted on {time['source']})")
    ]
    if time["predicted"]:
        lines += _predicted_time(time["predicted"])
    if time["flops_per_second"] is None:
        lines.append(Text("no time measured: the training device is not here"))
        return lines
    rate = f"{time['flops_per_second'] / 1e9:,.0f} GFLOP/s"
    floor = time["flops_per_triplet"] / time["flops_per_second"]
    text = f"floor here: {floor:.3g} s per triplet, at the {rate} that a matrix product reaches"
    if time["triplets"]:
        text += f"; {duration(time['floor_seconds'])} for the run's {time['triplets']} triplets"
    lines.append(Text(text))
    if time["estimate_seconds"] is not None:
        estimate = duration(time["estimate_seconds"])
        lines.append(Text(f"at the pace of the measured steps the run takes {estimate}"))
    return lines


def _predicted_time(predicted: Values) -> list[RenderableType]:
    columns = ("card", "optimizer step", "the run")
    table = _table("Predicted time, measured by nobody", *columns, left=["card"])
    for row in predicted["cards"]:
        low, high = row["step_seconds"]
        run = " to ".join(map(duration, row["run_seconds"])) if row["run_seconds"] else "-"
        table.add_row(row["card"], f"{low:.3g} to {high:.3g} s", run)
    load = predicted["workload"]
    return [
        table,
        Text(
            f"  {predicted['kernels_per_step']:,} kernels in an optimizer step, 4-bit weights read "
            f"{predicted['weight_reads_per_step']:,} times, at {load['member_tokens']} tokens per "
            "member; from the card's peak rates to half of them"
        ),
    ]


def _measured(measured: Values) -> Table:
    load = measured["workload"]
    size = f"{load['triplets']} triplet(s), {load['member_tokens']} tokens per member"
    title = f"Real steps of {size}, on {measured['device']}"
    table = _table(title, "", "predicted", "measured")
    table.add_row(
        "allocated at the peak",
        f"{gibibytes(measured['predicted_allocated_bytes'])} ({measured['error']:+.1%})",
        gibibytes(measured["allocated_peak_bytes"]),
    )
    if measured["reserved_peak_bytes"] is not None:
        table.add_row(
            "reserved at the peak",
            gibibytes(measured["predicted_reserved_bytes"]),
            gibibytes(measured["reserved_peak_bytes"]),
        )
    table.add_row("an optimizer step", "-", f"{measured['step_seconds']:.3g} s")
    if measured["snapshot"]:
        table.add_row("for pytorch.org/memory_viz", "-", one_line(str(measured["snapshot"])))
    return table
