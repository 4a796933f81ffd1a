"""The memory of a training step as tables: what takes it, what fits, what each saving costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcausal.ui.console import one_line
from llmcausal.ui.figures import duration, gibibytes
from llmcausal.ui.memory_plot import timeline_text
from llmcausal.ui.tables import titled_table

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
"""Components of a prediction, as they are named to people."""
PEAK_TENSORS_SHOWN = 5
TIGHT_SHARE = 0.05
"""A margin smaller than this share of the budget is called tight: the prediction's worst error."""

Values = Mapping[str, Any]


def render_memory(result: Values) -> RenderableType:
    """Returns everything that `profile-memory` tells.

    Args:
        result: As in `assembly.memory_report`.
    """
    parts: list[RenderableType] = [*_heading(result), _components(result)]
    if result["naive"]:
        parts.append(_exit_status(result))
    parts.extend(_peak(result["prediction"]))
    parts.append(timeline_text(result["prediction"]["timeline"], list(ROWS)))
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
    ]


def _components(result: Values) -> Table:
    shown = [("predicted", result["prediction"])]
    if result["naive"]:
        shown.append(("usual recipe", result["naive"]))
    table = titled_table("Device memory at the peak")
    table.add_column("")
    for name, _ in shown:
        table.add_column(name, justify="right")
    predictions = [prediction for _, prediction in shown]

    def row(name: str, values: Sequence[str], **style: Any) -> None:
        table.add_row(name, *values, **style)

    for component, name in ROWS.items():
        row(name, [gibibytes(each["components"][component]) for each in predictions])
    if result["device"] == "cuda":
        row("allocator's share", [gibibytes(_slack(each)) for each in predictions])
        row("CUDA context", [gibibytes(each["context_bytes"]) for each in predictions])
    table.add_section()
    row("total", [gibibytes(each["total_bytes"]) for each in predictions], style="bold")
    row("budget", [gibibytes(result["budget"]["bytes"]) for _ in predictions])
    row("fits", [_yes(each["fits"]) for each in predictions], style="bold")
    row("safety margin", [_margin(each, result["budget"]["bytes"]) for each in predictions])
    if result["device"] == "cuda":
        row("host memory", [gibibytes(each["host_bytes"]) for each in predictions])
    table.add_section()
    others = [""] * (len(predictions) - 1)
    row("longest members that fit", [_limit(result, "max_length", "tokens"), *others])
    row("largest micro-batch", [_limit(result, "batch_size", "triplets"), *others])
    return table


def _limit(result: Values, name: str, unit: str) -> str:
    """Writes what fits at most, the rest being as the heading says."""
    limits = result["limits"]
    if not limits[name]:
        return "none"
    more = " or more" if limits[name] >= limits[f"{name}_searched"] else ""
    return f"{limits[name]} {unit[:-1] if limits[name] == 1 and not more else unit}{more}"


def _exit_status(result: Values) -> Text:
    fits = result["fits"]
    return Text(
        f"exit code {0 if fits else 3}: it describes the requested strategy, the usual recipe, "
        f"which {'fits' if fits else 'does not fit'}; {result['prediction']['strategy']} "
        f"{'fits' if result['prediction']['fits'] else 'does not fit either'}"
    )


def _slack(prediction: Values) -> int:
    """What the allocator holds beyond the tensors at the peak."""
    return int(
        prediction["total_bytes"] - prediction["context_bytes"] - prediction["allocated_bytes"]
    )


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"


def _margin(prediction: Values, budget: int) -> str:
    margin = prediction["margin_bytes"]
    tight = 0 <= margin < TIGHT_SHARE * budget
    return gibibytes(margin) + (" (tight)" if tight else "")


def _peak(prediction: Values) -> list[Text]:
    lines = [Text(f"the peak is in the {prediction['peak_phase']} pass; it is held by:")]
    for held in prediction["peak_tensors"][:PEAK_TENSORS_SHOWN]:
        what = f"{held['count']} x {one_line(held['what'])} ({ROWS[held['component']]})"
        lines.append(Text(f"  {gibibytes(held['bytes']):>9}  {what}"))
    return lines


def _strategy(strategy: Values) -> RenderableType:
    heading = Text(f"strategy: {strategy['name']}", style="bold")
    tried = titled_table("Strategies predicted, fastest first")
    for column in ("strategy", "needs", "host", "fits"):
        tried.add_column(column, justify="left" if column == "strategy" else "right")
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
    table = titled_table("What would help, cheapest first")
    for column in ("change", "predicted", "fits"):
        table.add_column(column, justify="left" if column == "change" else "right")
    for entry in advice:
        change = f"{one_line(entry['change'])}\n{one_line(entry['arguments'])}"
        table.add_row(Text(change), gibibytes(entry["predicted_bytes"]), _yes(entry["fits"]))
    return table


def _sweep(rows: Sequence[Values]) -> Table:
    table = titled_table("Other lengths and micro-batches, planned")
    for column in ("tokens per member", "triplets", "strategy", "predicted", "host", "fits"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
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
    table = titled_table("What each strategy computes and moves, counted")
    table.add_column("strategy")
    table.add_column("FLOPs", justify="right")
    table.add_column("moved per triplet", justify="right")
    table.add_column("adds")
    for row in costs:
        moved = row["moved_bytes_per_triplet"]
        table.add_row(
            row["strategy"],
            f"x{row['flops_ratio']:.2f}",
            gibibytes(moved) if moved else "-",
            row["costs"],
        )
    return table


def _time(time: Values) -> list[Text]:
    work = time["flops_per_triplet"] / 1e12
    per_triplet = f"{work:,.0f} TFLOP" if work >= 100 else f"{work:.3g} TFLOP"
    tokens = f"{time['tokens_per_triplet']:,.0f} tokens"
    lines = [Text(f"a triplet: {tokens} computed, {per_triplet} (counted on {time['source']})")]
    if time["flops_per_second"] is None:
        lines.append(Text("no time estimate: the training device is not here"))
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


def _measured(measured: Values) -> Table:
    load = measured["workload"]
    size = f"{load['triplets']} triplet(s), {load['member_tokens']} tokens per member"
    title = f"Real steps of {size}"
    table = titled_table(f"{title}, on {measured['device']}")
    for column in ("", "predicted", "measured"):
        table.add_column(column, justify="right" if column else "left")
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
