"""A memory report in the terminal, and a plot of its timeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcausal.errors import writing
from llmcausal.storage import replace_file
from llmcausal.ui.console import one_line
from llmcausal.ui.drawings import drawing, picture
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
"""A prediction's components, and their names on the screen."""
PEAK_TENSORS_SHOWN = 5
TIGHT_SHARE = 0.05
"""A margin below this share of the budget counts as tight: the prediction's worst error."""
_COLORS = ("#4c6a92", "#7f9cc4", "#b6a16b", "#c97b5a", "#5a9e8f", "#a05c8a", "#8c8c8c", "#c9c9c9")
PLOT_SUFFIXES = (".svg", ".png")

Values = Mapping[str, Any]
"""A report by `memory.report`, or a part of it."""


def timeline_text(timeline: Sequence[Values]) -> Text:
    """Draws the allocated memory over the step, with the phases below."""
    if not timeline:
        return Text("")
    width = min(WIDTH, len(timeline))
    totals = [sum(moment["allocated_bytes"].values()) for moment in timeline]
    starts = [index * len(timeline) // width for index in range(width)]
    ends = [*starts[1:], len(timeline)]
    # Each column shows its highest moment.
    shown = [
        max(range(start, end), key=totals.__getitem__)
        for start, end in zip(starts, ends, strict=True)
    ]
    top = max(totals) or 1
    lines = [f"allocated over the step, peak {gibibytes(top)}"]
    for row in range(HEIGHT, 0, -1):
        filled = [totals[index] / top * HEIGHT - (row - 1) for index in shown]
        eighths = [min(len(BLOCKS) - 1, int(part * len(BLOCKS))) for part in filled]
        cells = [BLOCKS[n] if part > 0 else " " for n, part in zip(eighths, filled, strict=True)]
        lines.append("".join(cells).rstrip())
    runs = [
        (phase, len(list(group)))
        for phase, group in groupby(timeline[index]["phase"] for index in shown)
    ]
    phases = ""
    for index, (phase, width) in enumerate(runs):
        # A phase that is too short for its name gets a mark only.
        named = len(phase) < width or index == len(runs) - 1
        phases += f"|{phase if named else '':<{width - 1}}"
    return Text("\n".join([*lines, phases.rstrip()]))


def plot_timeline(result: Values, path: Path) -> None:
    """Draws a report's memory over the step, by component, and the budget.

    Raises:
        StorageError: If the file cannot be written.
    """
    prediction = result["prediction"]
    timeline = prediction["timeline"]
    with drawing(720, 360, font=9, layout="constrained") as figure:
        axis = figure.subplots()
        places = range(len(timeline))
        layers = [[moment["allocated_bytes"][name] / GIB for moment in timeline] for name in ROWS]
        labels = [name.replace("_", " ") for name in ROWS]
        axis.stackplot(places, *layers, labels=labels, colors=_COLORS)
        phases = [moment["phase"] for moment in timeline]
        starts = [i for i in places if i == 0 or phases[i] != phases[i - 1]]
        axis.set_xticks(starts, [phases[i] for i in starts], rotation=30, ha="right")
        axis.set_xlim(0, max(len(timeline) - 1, 1))
        available = (result["budget"]["bytes"] - prediction["context_bytes"]) / GIB
        axis.axhline(available, color="#b00020", linestyle="--", linewidth=1.2)
        axis.text(0, available, " budget less CUDA context", va="bottom", color="#b00020")
        axis.set_ylabel("GiB allocated")
        title = f"{result['model']}: predicted memory of a step, strategy {prediction['strategy']}"
        axis.set_title(title, parse_math=False)
        axis.legend(loc="lower right", ncols=2)
        content = picture(figure, path.suffix.lower().removeprefix("."))
    with writing(path):
        replace_file(path, [content])


def render_memory(result: Values) -> RenderableType:
    load = result["workload"]
    size = f"{load['member_tokens']} tokens per member, {load['shared_tokens']} of them shared"
    limits = [
        ("longest members that fit", _limit(result["limits"], "max_length", "token")),
        ("largest micro-batch", _limit(result["limits"], "batch_size", "triplet")),
    ]
    parts: list[RenderableType] = [
        Text(f"{one_line(result['model'])} on {result['device']}: predicted, not measured"),
        Text(
            f"micro-batch: {load['triplets']} triplet(s), {size}, {load['response_tokens']} scored"
        ),
        *_origin(result),
        _components(result, limits),
    ]
    if result["naive"]:
        parts.append(_exit_status(result))
    parts.extend(_peak(result["prediction"]))
    parts.append(timeline_text(result["prediction"]["timeline"]))
    parts.extend(_strategy(result["strategy"]))
    parts.extend(_advice(result["advice"]))
    if result["sweep"]:
        parts.append(_sweep(result["sweep"]))
    parts.append(_costs(result["costs"]))
    parts.extend(_time(result["time"]))
    if result["measured"]:
        parts.append(_measured(result["measured"]))
    return Group(*parts)


def render_evaluation(result: Values) -> RenderableType:
    """Renders a report by `memory.evaluation`."""
    answers, reading = result["workload"]["answers"], result["workload"]["reading"]
    size = f"{answers['prompt_tokens']} tokens each, {answers['shared_tokens']} of them shared"
    limits = [("largest batch of prompts", _limit(result["limits"], "batch_size", "prompt"))]
    strategy = result["strategy"]
    fits = "" if strategy["training_fits"] else ", which does not fit"
    rows = [
        (name, gibibytes(part["needed_bytes"]), _yes(part["fits"]))
        for name, part in result["parts"].items()
    ]
    return Group(
        Text(f"evaluation of {one_line(result['model'])} on {result['device']}: predicted"),
        Text(
            f"answers: {answers['prompts']} prompts together, {size}, {answers['new_tokens']} new"
        ),
        Text(
            f"reading: {reading['triplets']} triplet(s) of {reading['member_tokens']} tokens per "
            "member"
            if reading
            else "reading: nothing"
        ),
        *_origin(result),
        Text(f"strategy: {strategy['name']}, as in training{fits}"),
        _table("Each part's need", ("", "predicted", "fits"), rows),
        _components(result, limits),
        *_peak(result["prediction"]),
        timeline_text(result["prediction"]["timeline"]),
        *_advice(result["advice"]),
        *_answer_time(result["time"]),
    )


def _advice(advice: Sequence[Values]) -> list[RenderableType]:
    rows = [
        (
            f"{one_line(each['change'])}\n{one_line(each['arguments'])}",
            gibibytes(each["predicted_bytes"]),
            _yes(each["fits"]),
        )
        for each in advice
    ]
    columns = ("change", "predicted", "fits")
    return [_table("What would help, cheapest first", columns, rows)] if rows else []


def _answer_time(time: Values | None) -> list[RenderableType]:
    if time is None:
        return []
    rows = []
    for row in time["cards"]:
        seconds = " to ".join(f"{each:.3g}" for each in row["batch_seconds"])
        rate = " to ".join(f"{each:,.0f}" for each in row["tokens_per_second"])
        rows.append((row["card"], f"{seconds} s", rate))
    columns = ("card", "a batch", "new tokens a second")
    moved = gibibytes(time["moved_bytes_per_batch"])
    return [
        _table("Predicted time, measured by nobody", columns, rows),
        Text(
            f"  {time['kernels_per_batch']:,} kernels and {moved} over PCIe for a batch of "
            f"{time['prompts_per_batch']} prompts, {time['new_tokens_per_batch']:,} new tokens if "
            "no answer ends early; from half of the card's peak rates to all of them"
        ),
    ]


def _origin(result: Values) -> list[Text]:
    budget = result["budget"]
    return [
        Text(f"  from: {one_line(result['workload']['source'])}"),
        Text(f"budget: {gibibytes(budget['bytes'])}, {one_line(budget['source'])}"),
        *map(Text, result["notes"]),
    ]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]] = ()) -> Table:
    table = titled_table(title)
    for column in columns:
        words = column in ("", "strategy", "change", "adds", "card")
        table.add_column(column, justify="left" if words else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _components(result: Values, limits: Iterable[tuple[str, str]]) -> Table:
    shown = {"predicted": result["prediction"]}
    if result.get("naive"):
        shown["usual recipe"] = result["naive"]
    predictions = list(shown.values())
    budget, on_cuda = result["budget"]["bytes"], result["device"] == "cuda"
    table = _table("Device memory at the peak", ["", *shown])
    for component, name in ROWS.items():
        table.add_row(name, *(gibibytes(each["components"][component]) for each in predictions))
    if on_cuda:
        slack = [
            each["total_bytes"] - each["context_bytes"] - each["allocated_bytes"]
            for each in predictions
        ]
        table.add_row("allocator's share", *map(gibibytes, slack))
        table.add_row("CUDA context", *(gibibytes(each["context_bytes"]) for each in predictions))
    table.add_section()
    table.add_row("total", *(gibibytes(each["total_bytes"]) for each in predictions), style="bold")
    table.add_row("budget", *(gibibytes(budget) for _ in predictions))
    table.add_row("fits", *(_yes(each["fits"]) for each in predictions), style="bold")
    table.add_row("safety margin", *(_margin(each["margin_bytes"], budget) for each in predictions))
    if on_cuda:
        table.add_row("host memory", *(gibibytes(each["host_bytes"]) for each in predictions))
    table.add_section()
    for name, limit in limits:
        table.add_row(name, limit)
    return table


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def _margin(margin: int, budget: int) -> str:
    tight = 0 <= margin < TIGHT_SHARE * budget
    return gibibytes(margin) + (" (tight)" if tight else "")


def _limit(limits: Values, name: str, unit: str) -> str:
    """Returns the most that fits, with the workload otherwise as in the heading."""
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


def _strategy(strategy: Values) -> list[RenderableType]:
    switches = ", ".join(f"{key} = {value}" for key, value in strategy["switches"].items())
    rows = [
        (
            each["name"],
            gibibytes(each["needed_bytes"]),
            gibibytes(each["host_bytes"]),
            _yes(each["fits"]),
        )
        for each in strategy["tried"]
    ]
    columns = ("strategy", "needs", "host", "fits")
    return [
        Text(f"strategy: {strategy['name']}", style="bold"),
        Text(f"  {strategy['reason']}"),
        Text(f"  {switches}"),
        _table("Strategies predicted, fastest first", columns, rows),
    ]


def _sweep(planned: Sequence[Values]) -> Table:
    rows = [
        (
            str(each["member_tokens"]),
            str(each["triplets"]),
            each["strategy"],
            gibibytes(each["predicted_bytes"]),
            gibibytes(each["host_bytes"]),
            _yes(each["fits"]),
        )
        for each in planned
    ]
    columns = ("tokens per member", "triplets", "strategy", "predicted", "host", "fits")
    return _table("Other lengths and micro-batches, planned", columns, rows)


def _costs(costs: Sequence[Values]) -> Table:
    rows = []
    for each in costs:
        moved = each["moved_bytes_per_triplet"]
        flops = f"x{each['flops_ratio']:.2f}"
        rows.append((each["strategy"], flops, gibibytes(moved) if moved else "-", each["costs"]))
    columns = ("strategy", "FLOPs", "moved per triplet", "adds")
    return _table("Each strategy's work and transfers, counted", columns, rows)


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
    rows = []
    for row in predicted["cards"]:
        low, high = row["step_seconds"]
        run = " to ".join(map(duration, row["run_seconds"])) if row["run_seconds"] else "-"
        rows.append((row["card"], f"{low:.3g} to {high:.3g} s", run))
    load = predicted["workload"]
    return [
        _table("Predicted time, measured by nobody", ("card", "optimizer step", "the run"), rows),
        Text(
            f"  {predicted['kernels_per_step']:,} kernels in an optimizer step, 4-bit weights read "
            f"{predicted['weight_reads_per_step']:,} times, at {load['member_tokens']} tokens per "
            "member; from the card's peak rates to half of them"
        ),
    ]


def _measured(measured: Values) -> Table:
    load = measured["workload"]
    size = f"{load['triplets']} triplet(s), {load['member_tokens']} tokens per member"
    allocated = gibibytes(measured["allocated_peak_bytes"])
    predicted = f"{gibibytes(measured['predicted_allocated_bytes'])} ({measured['error']:+.1%})"
    rows = [("allocated at the peak", predicted, allocated)]
    if measured["reserved_peak_bytes"] is not None:
        predicted = gibibytes(measured["predicted_reserved_bytes"])
        rows.append(("reserved at the peak", predicted, gibibytes(measured["reserved_peak_bytes"])))
    rows.append(("an optimizer step", "-", f"{measured['step_seconds']:.3g} s"))
    if measured["snapshot"]:
        rows.append(("for pytorch.org/memory_viz", "-", one_line(str(measured["snapshot"]))))
    title = f"Real steps of {size}, on {measured['device']}"
    return _table(title, ("", "predicted", "measured"), rows)
