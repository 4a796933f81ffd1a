"""The memory of a step over its course: in the terminal, and as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from llmcausal.errors import StorageError, UsageError
from llmcausal.storage import replace_file
from llmcausal.ui.figures import BLOCKS, gibibytes

WIDTH = 64
HEIGHT = 8
GIB = 2**30
_COLORS = ("#4c6a92", "#7f9cc4", "#b6a16b", "#c97b5a", "#5a9e8f", "#a05c8a", "#8c8c8c", "#c9c9c9")
_SUFFIXES = (".svg", ".png")

Moments = Sequence[Mapping[str, Any]]


def timeline_text(timeline: Moments, components: Sequence[str]) -> Text:
    """Draws the allocated memory over the step, from 0, with the phases under it.

    Args:
        timeline: Moments as plain values.
        components: Names of the parts of each moment's `allocated_bytes`.
    """
    if not timeline:
        return Text("")
    columns = _columns(timeline, components, min(WIDTH, len(timeline)))
    top = max(height for height, _ in columns) or 1
    lines = [f"allocated over the step, peak {gibibytes(top)}"]
    for row in range(HEIGHT, 0, -1):
        cells = [_cell(height / top * HEIGHT - (row - 1)) for height, _ in columns]
        lines.append("".join(cells).rstrip())
    lines.append(_phases([phase for _, phase in columns]))
    return Text("\n".join(lines))


def _columns(timeline: Moments, components: Sequence[str], width: int) -> list[tuple[int, str]]:
    """Cuts the timeline into columns; each shows the most that was held within it."""
    columns = []
    for index in range(width):
        start = index * len(timeline) // width
        end = max(start + 1, (index + 1) * len(timeline) // width)
        largest = max(timeline[start:end], key=lambda moment: _total(moment, components))
        columns.append((_total(largest, components), str(largest["phase"])))
    return columns


def _total(moment: Mapping[str, Any], components: Sequence[str]) -> int:
    return sum(int(moment["allocated_bytes"].get(name, 0)) for name in components)


def _cell(filled: float) -> str:
    if filled <= 0:
        return " "
    return BLOCKS[min(len(BLOCKS) - 1, int(filled * len(BLOCKS)))]


def _phases(phases: Sequence[str]) -> str:
    line = ""
    for index, phase in enumerate(phases):
        if index == 0 or phase != phases[index - 1]:
            width = next((i for i, each in enumerate(phases[index:]) if each != phase), None)
            # A phase too short for its name is marked and not named.
            name = phase if width is None or len(phase) < width else ""
            line = f"{line:<{index}}|{name}"
    return line


def check_plot_path(path: Path) -> None:
    """Refuses a file that cannot be drawn to, before anything is computed.

    Raises:
        UsageError: If its suffix is neither `.svg` nor `.png`.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--plot {path}: name it {path.stem}.svg or {path.stem}.png")


def plot_timeline(result: Mapping[str, Any], path: Path) -> None:
    """Draws the step's memory by component, and the budget, to a file.

    Args:
        result: As in `assembly.memory_report`.
        path: `.svg` or `.png`; an existing file is replaced.

    Raises:
        UsageError: If the suffix is another.
        StorageError: If it cannot be written.
    """
    check_plot_path(path)
    picture = _picture(result, path.suffix.lower().removeprefix("."))
    try:
        replace_file(path, [picture])
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _picture(result: Mapping[str, Any], form: str) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    prediction = result["prediction"]
    out = io.BytesIO()
    # Fixed ids and no date, so that the same prediction gives the same picture.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "llmcausal", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(10, 5), layout="constrained")
        axis = figure.subplots()
        _stack(axis, prediction["timeline"])
        available = result["budget"]["bytes"] - prediction["context_bytes"]
        axis.axhline(available / GIB, color="#b00020", linestyle="--", linewidth=1.2)
        axis.text(0, available / GIB, " budget less CUDA context", va="bottom", color="#b00020")
        axis.set_ylabel("GiB allocated")
        title = f"{result['model']}: predicted memory of a step, strategy {prediction['strategy']}"
        axis.set_title(title, parse_math=False)
        axis.legend(loc="lower right", ncols=2)
        figure.savefig(out, format=form, metadata={"Date": None} if form == "svg" else None)
    return out.getvalue()


def _stack(axis: Any, timeline: Moments) -> None:
    names = list(timeline[0]["allocated_bytes"]) if timeline else []
    places = range(len(timeline))
    layers = [[moment["allocated_bytes"][name] / GIB for moment in timeline] for name in names]
    labels = [name.replace("_", " ") for name in names]
    axis.stackplot(places, *layers, labels=labels, colors=_COLORS[: len(names)])
    phases = [str(moment["phase"]) for moment in timeline]
    starts = [i for i in places if i == 0 or phases[i] != phases[i - 1]]
    axis.set_xticks(starts, [phases[i] for i in starts], rotation=30, ha="right")
    axis.set_xlim(0, max(len(timeline) - 1, 1))
