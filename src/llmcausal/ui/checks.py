"""The screens of `doctor` and of an export's check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from llmcausal.ui.console import clean, console, err_console, one_line, status

if TYPE_CHECKING:
    from llmcausal.diagnostics.check import DoctorCheck

COLORS = {"pass": "green", "warning": "yellow", "fail": "bold red"}
_ANSWER_SHOWN = 90


def watcher() -> Callable[[str], AbstractContextManager[None]]:
    """Returns a context that shows the current check by a spinner, if stderr is a terminal."""
    return status if err_console().is_terminal else lambda _what: nullcontext()


def show_checks(checks: Iterable[DoctorCheck]) -> list[DoctorCheck]:
    """Prints each check when it is done, in columns or (in a file) on one line; returns all."""
    shown = []
    for check in checks:
        shown.append(check)
        if console().is_terminal:
            console().print(_row(check))
        else:
            fix = f" -> {one_line(check.fix)}" if check.fix else ""
            head = f"{check.status:<8}{check.name:<14} "
            console().print(f"{head}{one_line(check.detail)}{fix}", soft_wrap=True)
    return shown


def _row(check: DoctorCheck) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=7)
    table.add_column(width=14)
    table.add_column(ratio=1, overflow="fold")
    found = Text(one_line(check.detail))
    if check.fix:
        found.append(f"\n-> {one_line(check.fix)}", "cyan")
    table.add_row(Text(check.status, COLORS[check.status]), Text(check.name), found)
    return table


def render_export(report: Mapping[str, Any]) -> Text:
    """Returns a report by `make_artifact` as lines."""
    lines = [f"written: {report['written']} ({report['format']})"]
    if "base_weights" in report:
        lines.append(f"base weights: {report['base_weights']}, not the model's 16-bit original")
    lines += _checked(report) if report["checked"] else ["not checked (--no-check)"]
    lines += [
        f"{name}: {report[name]}" for name in ("detector", "command", "uploaded") if name in report
    ]
    return Text("\n".join(map(clean, lines)))


def _checked(report: Mapping[str, Any]) -> list[str]:
    limit = report["tolerance"]
    within = "no limit for this quantization" if limit is None else f"at most {limit:.2g}"
    lines = [
        f"loaded back by {' and '.join(report['loaded_by'])}, {report['weights']} weights",
        f"logits differ by {report['max_abs_logit_difference']:.2g} ({within})",
        f"answers: {report['answers_stopped']} of {report['prompts']} end by themselves "
        f"(trained model: {report['reference_answers_stopped']}), "
        + ("all the same" if report["same_answers"] else "not all the same"),
        *(f"  {one_line(answer, _ANSWER_SHOWN)}" for answer in report["answers"]),
    ]
    if attacks := report["attacks"]:
        lines.append(
            f"{attacks['prompts']} attacked prompts: {attacks['same_answers']} answers the same"
        )
        for name, figure in attacks["trained"].items():
            exported = _share(attacks["exported"][name])
            lines.append(f"  {name}: {exported}, trained model {_share(figure)}")
    return lines


def _share(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    return f"{figure['value']:.0%} ({figure['low']:.0%} to {figure['high']:.0%})"
