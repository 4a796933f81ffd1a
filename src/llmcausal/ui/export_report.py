"""What an export's check found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from llmcausal.ui.console import clean, one_line

_ANSWER_SHOWN = 90


def render_export(report: Mapping[str, Any]) -> Text:
    """Returns lines about an export's report, as `make_artifact` makes it."""
    lines = [f"written: {report['written']} ({report['format']})"]
    lines += _checked(report) if report["checked"] else ["not checked (--no-check)"]
    lines += [f"{name}: {report[name]}" for name in ("command", "uploaded") if name in report]
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
        lines += [
            f"{attacks['prompts']} attacked prompts: {attacks['same_answers']} answers the same",
            *(
                f"  {name}: {_share(attacks['exported'][name])}, trained model {_share(figure)}"
                for name, figure in attacks["trained"].items()
            ),
        ]
    return lines


def _share(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "-"
    return f"{figure['value']:.0%} ({figure['low']:.0%} to {figure['high']:.0%})"
