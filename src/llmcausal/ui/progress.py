"""A run's pace and time left, and its progress: a live screen, or plain lines for logs."""

from __future__ import annotations

import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llmcausal.train.callback import Callback, FitContext, Record
from llmcausal.train.callbacks.metrics_log import FILE_NAME, read_rows
from llmcausal.train.callbacks.monitors import MemoryMonitor
from llmcausal.ui.console import clean, one_line
from llmcausal.ui.figures import (
    CAUSAL_METRICS,
    LOSS_TERMS,
    PROBE_METRICS,
    duration,
    figure,
    gibibytes,
    memory_of_others,
    sparkline,
    step_time,
    tokens_per_second,
)

RECENT_STEPS = 20
FORECAST_AFTER = 5
"""Steps before a run's time is forecast; the first ones are slow."""
FORWARD_SHARE = 0.4
"""A generated token's time as a share of a trained one's: no backward pass, but small products."""


class Pace:
    """Measured times of this session's steps and validations."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)
        self._validation_seconds: float | None = None
        self._validation_began: float | None = None
        self._recorded_at = clock()

    @property
    def step_seconds(self) -> float | None:
        """The last 20 steps' mean time; None before the first."""
        return sum(self._steps) / len(self._steps) if self._steps else None

    def validation_started(self) -> None:
        self._validation_began = self._clock()

    def step_ended(self, record: Record) -> None:
        """Measures the step, and its validation if it had one."""
        self._recorded_at = self._clock()
        if self._validation_began is not None:
            self._validation_seconds = self._recorded_at - self._validation_began
            self._validation_began = None
        if "seconds" in record:
            self._steps.append(record["seconds"])

    def eta_seconds(self, context: FitContext) -> float | None:
        """Returns the time left, including validations; None before the first step."""
        step = self.step_seconds
        if step is None:
            return None
        done, total = context.state.step, context.total_steps
        left = (total - done) * step
        every = context.config.validation.every_steps or context.steps_per_epoch
        if self._validation_seconds is not None and every > 0:
            left += (total // every - done // every) * self._validation_seconds
        return max(0.0, left - (self._clock() - self._recorded_at))


class Forecast(Callback):
    """Adds a note after the first steps: the whole run's time by their pace.

    Args:
        answered_tokens: Tokens of the final evaluation's prompts and longest answers, of all sides.
        clock: Monotonic seconds.
    """

    def __init__(self, answered_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._answered = answered_tokens
        self._pace = Pace(clock)
        self._steps: list[tuple[float, int]] = []

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        self._pace.validation_started()

    def on_record(self, context: FitContext, record: Record) -> None:
        self._pace.step_ended(record)
        if "seconds" in record:
            self._steps.append((record["seconds"], record["tokens"]))
        if len(self._steps) != FORECAST_AFTER:
            return
        left = self._pace.eta_seconds(context) or 0.0
        seconds, tokens = map(sum, zip(*self._steps[1:], strict=True))
        evaluation = FORWARD_SHARE * seconds / tokens * self._answered
        parts = f"training {duration(left)}"
        if self._answered:
            parts += f", evaluation {duration(evaluation)}"
        context.notes.append(
            f"about {duration(left + evaluation)} more, by the pace of the first "
            f"{FORECAST_AFTER} steps: {parts}"
        )


QUIET_SECONDS = 15.0
"""Longest silence while batches are being done."""
LABELS = {
    **LOSS_TERMS,
    **CAUSAL_METRICS,
    **PROBE_METRICS,
    "learning_rate": "lr",
    "grad_norm": "grad",
}


class PlainLog(Callback):
    """Prints one line per step, validation, checkpoint and note; must come last.

    A long step or validation prints its batches, at most one line every 15 s.
    """

    def __init__(self, target: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = target
        self._clock = clock
        self._pace = Pace(clock)
        self._notes_printed = 0
        self._step_printed = -1
        self._checkpoints: list[str] = []
        self._validated, self._validation_batches = 0, 0
        self._printed_at = clock()

    def on_fit_start(self, context: FitContext) -> None:
        samples = ", ".join(f"{count} {name}" for name, count in context.samples.items())
        start = f"from step {context.state.step} " if context.state.step else ""
        self._print(
            f"{context.config.name}: {start}to step {context.total_steps} on {context.device}, "
            f"{samples} triplets"
        )
        self._print_notes(context)

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        self._pace.validation_started()
        self._validated, self._validation_batches = 0, batches
        self._print(f"{_position(context)} validating: {batches} batches")

    def on_validation_batch(self, context: FitContext) -> None:
        self._validated += 1
        self._print_seldom(
            f"{_position(context)} validating: batch {self._validated}/{self._validation_batches}"
        )

    def on_micro_batch(self, context: FitContext, done: int, of: int) -> None:
        if done < of:
            self._print_seldom(f"{_position(context)} micro-batch {done}/{of}")

    def on_record(self, context: FitContext, record: Record) -> None:
        self._pace.step_ended(record)
        if record["step"] > 0:
            self._print(f"{_position(context)} {self._step_figures(context, record)}")
        validated = _figures(record, "val_")
        if validated:
            self._print(f"{_position(context)} validation: {validated}")
        self._step_printed = context.state.step
        self._print_checkpoints()
        self._print_notes(context)

    def on_checkpoint(self, context: FitContext, path: Path, is_best: bool) -> None:
        metric, value = context.config.checkpoint.best_metric, context.state.best_value
        what = f"best {metric} {figure(metric, value)}" if is_best else "checkpoint"
        self._checkpoints.append(f"{_position(context)} {what}: {path}")
        if self._step_printed == context.state.step:  # otherwise its step's line comes first
            self._print_checkpoints()

    def on_fit_end(self, context: FitContext, outcome: str) -> None:
        self._print_checkpoints()
        self._print_notes(context)
        reason = f": {context.stop_reason}" if context.stop_reason else ""
        self._print(f"{_position(context)} {outcome}{reason}")

    def _step_figures(self, context: FitContext, record: Record) -> str:
        parts = [f"epoch {record['epoch']:.2f}", _figures(record)]
        speed = tokens_per_second(record.get("tokens"), record.get("seconds"))
        if speed is not None:
            parts.append(f"{figure('tokens_per_second', speed):>6} tokens/s")
        if "memory_bytes" in record:
            held = [record["memory_bytes"], *memory_of_others(record)]
            parts.append(" + ".join(map(gibibytes, held)))
        if "seconds" in record:
            parts.append(f"{step_time(record['seconds']):>11}")
        eta = self._pace.eta_seconds(context)
        if eta is not None:
            parts.append(f"ETA {duration(eta)}")
        return "  ".join(parts)

    def _print_checkpoints(self) -> None:
        for line in self._checkpoints:
            self._print(line)
        self._checkpoints.clear()

    def _print_notes(self, context: FitContext) -> None:
        for note in context.notes[self._notes_printed :]:
            self._print(f"note: {note}")
        self._notes_printed = len(context.notes)

    def _print_seldom(self, text: str) -> None:
        if self._clock() - self._printed_at >= QUIET_SECONDS:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(Text(clean(text).replace("\n", " ")), soft_wrap=True)
        self._printed_at = self._clock()


def _position(context: FitContext) -> str:
    total = str(context.total_steps)
    return f"step {context.state.step:>{len(total)}}/{total}"


def _figures(record: Record, prefix: str = "") -> str:
    return "  ".join(
        f"{label} {figure(name, record[prefix + name]):>7}"
        for name, label in LABELS.items()
        if prefix + name in record
    )


REFRESH_PER_SECOND = 4


class Dashboard(Callback):
    """Draws the run; its own thread redraws, also while a micro-batch computes.

    Must come last: it shows the other callbacks' figures. There is no lock: the training thread
    only appends to lists and replaces whole values, and a signal handler that prints could find a
    lock held.
    """

    def __init__(
        self,
        target: Console,
        memory: MemoryMonitor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = target
        self._context: FitContext | None = None
        self._live: Live | None = None
        self.memory = memory
        self.clock = clock  # monotonic seconds
        self.pace = Pace(clock)
        self.record: Record = {}  # the newest step's
        self.validation: Record = {}  # the newest with validation figures
        self.history: dict[str, list[float]] = {}  # by figure, oldest first
        self.micro_batches: tuple[int, int] | None = None  # done and all of the current step
        self.validation_batches: tuple[int, int] | None = None  # done and all
        self.checkpoint: tuple[Path, float] | None = None  # the newest, with its time by `clock`
        self.began = 0.0  # by `clock`, as if all sessions were one
        self.ended: float | None = None
        self.outcome: str | None = None  # how the run ended

    def on_fit_start(self, context: FitContext) -> None:
        self._context = context
        self.began = self.clock() - context.state.train_seconds
        if context.state.step > 0:
            for row in read_rows(context.run_dir / FILE_NAME):
                self._add(row)
        self._live = Live(
            get_renderable=self.render,
            console=self._console,
            refresh_per_second=REFRESH_PER_SECOND,
            vertical_overflow="crop",
            # On the screen stderr goes above the dashboard; in a file it stays.
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start(refresh=True)

    def render(self) -> RenderableType:
        if self._context is None:
            return Text()
        size = self._console.size
        painter = _Painter(self, self._context, size.width, self._console.options.ascii_only)
        return painter.whole(size.height)

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        self.pace.validation_started()
        self.validation_batches = (0, batches)

    def on_validation_batch(self, context: FitContext) -> None:
        if self.validation_batches:
            done, batches = self.validation_batches
            self.validation_batches = (done + 1, batches)

    def on_micro_batch(self, context: FitContext, done: int, of: int) -> None:
        self.micro_batches = (done, of)

    def on_record(self, context: FitContext, record: Record) -> None:
        self.pace.step_ended(record)
        self._add(record)

    def on_checkpoint(self, context: FitContext, path: Path, is_best: bool) -> None:
        self.checkpoint = (path, self.clock())

    def on_fit_end(self, context: FitContext, outcome: str) -> None:
        self.ended = self.clock()
        self.outcome = outcome
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _add(self, record: Record) -> None:
        if any(key.startswith("val_") for key in record):
            self.validation = record
        speed = tokens_per_second(record.get("tokens"), record.get("seconds"))
        figures = {**record, "tokens_per_second": speed}
        if record["step"] > 0:
            self.record = figures
        for name, value in figures.items():
            if isinstance(value, (int, float)):
                self.history.setdefault(name, []).append(float(value))
        self.micro_batches = self.validation_batches = None


TWO_COLUMNS = 72
FRAMED = 36
LABEL_WIDTH = 15
VALUE_WIDTH = 9
CROWDED = 0.9
"""From this share of the limit on, the memory figure is red."""

Lines = list[Text]


class _Painter:
    """Draws a dashboard's state; lines are cut to the width, never wrapped."""

    def __init__(self, view: Dashboard, context: FitContext, width: int, ascii_only: bool) -> None:
        self._view = view
        self._context = context
        self._width = width
        self._ascii = ascii_only
        self._dot = "-" if ascii_only else "·"

    def whole(self, height: int) -> RenderableType:
        """Draws everything in at most `height - 1` rows; in all rows after the run's end."""
        rows = height - 1 if self._view.outcome is None else sys.maxsize
        if self._width < FRAMED or rows < 5:
            lines = [self.position(), *self.losses(self._width), self.footer()]
            return Group(*lines[: max(rows, 1)])
        parts: list[RenderableType] = [self.header()]
        rows -= 4 + 1  # the header and the footer
        for taken, part in self.bodies():
            if rows >= taken:
                parts.append(part)
                rows -= taken
        notes = self.bottom(rows - 2)
        if notes:
            parts.append(_panel("run", notes))
        return Group(*parts, self.footer())

    def bodies(self) -> list[tuple[int, RenderableType]]:
        """Returns the panels with their heights, the most important first."""
        two = self._width >= TWO_COLUMNS
        inner = (self._width // 2 if two else self._width) - 4
        loss = ("loss", self.losses(inner))
        causal = ("representation", self.representation(inner))
        training = ("training", self.training(inner))
        step = self._view.validation.get("step")
        title = "validation" if step is None else f"validation {self._dot} step {step}"
        validation = (title, self.validation(inner))
        if two:
            return [_side_by_side(loss, causal), _side_by_side(training, validation)]
        return [_side_by_side(body) for body in (loss, validation, training, causal)]

    def header(self) -> Panel:
        """Returns the frame with the progress bar; 4 rows high."""
        view, context = self._view, self._context
        epochs = context.total_steps / max(context.steps_per_epoch, 1)
        parts = [f"epoch {view.record.get('epoch', context.state.epoch):.2f}/{epochs:.4g}"]
        # Each is read once: the training thread may set it to None at any moment.
        if validating := view.validation_batches:
            parts.append("validating {}/{}".format(*validating))
        elif micro := view.micro_batches:
            parts.append("micro-batch {}/{}".format(*micro))
        now = view.clock() if view.ended is None else view.ended
        parts.append(f"elapsed {duration(now - view.began)}")
        if (seconds := view.pace.step_seconds) is not None:
            parts.append(step_time(seconds))
        samples = ", ".join(f"{count} {one_line(name)}" for name, count in context.samples.items())
        return _panel(
            f"llmcausal {self._dot} {one_line(context.config.name)}",
            [self.position(self._width - 4), _line("   ".join(parts), "dim")],
            subtitle=one_line(f"{context.device} {self._dot} {samples} triplets"),
        )

    def position(self, width: int = 0) -> Text:
        view, context = self._view, self._context
        done, of = view.micro_batches or (0, 1)
        share = min((context.state.step + done / max(of, 1)) / max(context.total_steps, 1), 1.0)
        eta = view.pace.eta_seconds(context) if view.outcome is None else None
        start = f"step {context.state.step}/{context.total_steps} "
        end = f" {share:4.0%}" + (f"  ETA {duration(eta)}" if eta is not None else "")
        bar = max(width - len(start) - len(end), 0)
        filled = round(bar * share)
        full, empty = ("=", "-") if self._ascii else ("━", "━")
        return Text.assemble(
            (start, "bold"),
            (full * filled, "green"),
            (empty * (bar - filled), "bright_black"),
            (end, "bold"),
            no_wrap=True,
            overflow="ellipsis",
        )

    def losses(self, inner: int) -> Lines:
        record = self._view.record
        shown = [name for name in LOSS_TERMS if name in record] or ["loss"]
        return [self._row(LOSS_TERMS[name], name, inner) for name in shown]

    def representation(self, inner: int) -> Lines:
        """Returns the causal metrics, as running means if the record has them."""
        record = self._view.record
        names = [name for name in CAUSAL_METRICS if name in record]
        if not names:
            return [_line("not measured" if record else "-", "dim")]
        means = [name for name in names if f"{name}_mean" in record]
        lines = [
            self._row(CAUSAL_METRICS[name], f"{name}_mean" if name in means else name, inner)
            for name in names
        ]
        return [*lines, _line("running means", "dim")] if means else lines

    def training(self, inner: int) -> Lines:
        return [
            self._row("learning rate", "learning_rate", inner),
            self._row("gradient norm", "grad_norm", inner),
            self._row("tokens/s", "tokens_per_second", inner),
            self._memory(),
        ]

    def validation(self, inner: int) -> Lines:
        record, context = self._view.validation, self._context
        if not record:
            return [_line("none yet", "dim")]
        metric, state = context.config.checkpoint.best_metric, context.state
        labels = {"val_loss": "loss", metric: one_line(metric).removeprefix("val_")}
        others = {**PROBE_METRICS, **CAUSAL_METRICS}
        labels |= {f"val_{name}": label for name, label in others.items()}
        shown = [name for name in labels if name in record][:3]
        lines = [self._row(labels[name], name, inner, record) for name in shown]
        if state.best_value is not None:
            best = f"best {one_line(metric)} {figure(metric, state.best_value)}"
            lines.append(_line(f"{best} (step {state.best_step})", "green"))
        return lines

    def bottom(self, rows: int) -> Lines:
        """Returns the checkpoint and the newest notes, in at most `rows` lines."""
        lines: Lines = []
        if self._view.checkpoint:
            path, when = self._view.checkpoint
            ago = duration(self._view.clock() - when)
            room = max(self._width - 4 - len(f"checkpoint  ({ago} ago)"), 8)
            name = one_line(str(path))
            name = name if len(name) <= room else f"...{name[3 - room :]}"
            lines.append(_line(f"checkpoint {name} ({ago} ago)", "cyan"))
        notes: Lines = []
        for note in reversed(self._context.notes):
            wrapped = textwrap.wrap(one_line(note), self._width - 4, subsequent_indent="  ")
            if len(lines) + len(notes) + len(wrapped) > rows:
                break
            notes = [*(_line(text) for text in wrapped), *notes]
        return [*lines, *notes][: max(rows, 0)]

    def footer(self) -> Text:
        context = self._context
        reason = f": {one_line(context.stop_reason)}" if context.stop_reason else ""
        if self._view.outcome:
            bad = self._view.outcome == "failed"
            return _line(f" {self._view.outcome}{reason}", "bold red" if bad else "bold green")
        if reason:
            return _line(f" stopping after this step{reason}", "bold yellow")
        return _line(" Ctrl-C saves and stops", "dim")

    def _row(self, label: str, name: str, inner: int, record: Record | None = None) -> Text:
        history = self._view.history.get(name, [])
        written = figure(name, (self._view.record if record is None else record).get(name))
        room = inner - LABEL_WIDTH - VALUE_WIDTH - 1
        return Text.assemble(
            f"{label:<{LABEL_WIDTH}}",
            (f"{written:>{VALUE_WIDTH}} ", "bold"),
            (sparkline(history, room, self._ascii), "cyan"),
            no_wrap=True,
            overflow="ellipsis",
        )

    def _memory(self) -> Text:
        usage, limit = self._view.memory.usage, self._view.memory.limit_bytes
        if usage is None or not limit:  # the run has not started
            return _line(f"{'memory':<{LABEL_WIDTH}}{'-':>{VALUE_WIDTH}}")
        used = usage.used_bytes
        share = used / limit
        line = _line(f"{'memory':<{LABEL_WIDTH}}")
        line.append(f"{used / 2**30:.2f} of {gibibytes(limit)} ", "bold")
        line.append(f"{share:.0%}", "red" if share >= CROWDED else "green")
        if others := memory_of_others(self._view.record):
            line.append(f" +{', '.join(map(gibibytes, others))}")
        return line


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _panel(
    title: str, lines: Sequence[Text], subtitle: str | None = None, height: int | None = None
) -> Panel:
    return Panel(
        Group(*lines),
        height=height,
        title=Text(title, style="bold"),
        title_align="left",
        subtitle=Text(subtitle, style="dim") if subtitle else None,
        subtitle_align="right",
        border_style="bright_black",
    )


def _side_by_side(*bodies: tuple[str, Lines]) -> tuple[int, RenderableType]:
    height = max(len(lines) for _, lines in bodies) + 2
    grid = Table.grid(expand=True)
    for _ in bodies:
        grid.add_column(ratio=1)
    grid.add_row(*(_panel(title, lines, height=height) for title, lines in bodies))
    return height, grid
