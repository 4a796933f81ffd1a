"""Writes the report: one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from llmcausal.errors import StorageError
from llmcausal.storage import replace_file
from llmcausal.ui.plots import spelled
from llmcausal.ui.report import sections, training
from llmcausal.ui.report.examples import ExampleGroup, choose_examples
from llmcausal.ui.report.hostile_text import Object, as_object, as_objects, as_texts, shown
from llmcausal.ui.report.run_files import RunFiles, read_run

REPORT = "report.html"
_SKIPPED_SHOWN = 100


def write_run_report(
    run_dir: Path, out: Path | None = None, evaluation: Path | None = None
) -> Path:
    """Writes the report of a run directory, to its `report.html` unless told otherwise.

    Args:
        run_dir: The run directory.
        out: The file to write.
        evaluation: As in `read_run`.

    Raises:
        UsageError: If nothing of a run is there.
        StorageError: If the disk refuses.
    """
    run = read_run(run_dir, evaluation)
    return write_report(run, out or run_dir / REPORT, title=run_dir.resolve().name)


def write_report(run: RunFiles, out: Path, *, title: str) -> Path:
    """Writes everything that is known of a run as one HTML file.

    The same input gives the same bytes. Text from data and models can only be read: it is
    escaped, the page has no script, and its policy forbids everything but its own style.

    Returns:
        `out`.

    Raises:
        StorageError: If the disk refuses; a report that was there before is intact.
    """
    result = run.result
    return save_page(
        "page.html.jinja",
        out,
        title=title,
        notes=_notes(result, run.notes),
        summary=_summary(result),
        evaluation=sections.evaluation(result) if result else None,
        training=training.charts(run.metrics_rows),
        groups=_examples(result),
        skipped=_skipped(result),
        reproduction=_reproduction(result, run.config_text, run.environment),
    )


def save_page(template: str, out: Path, **values: Any) -> Path:
    """Fills a template of this package and writes the page whole or not at all.

    Args:
        template: Name of its file.
        out: The file to write.
        values: What the template shows; all but `Markup` is escaped.

    Returns:
        `out`.

    Raises:
        StorageError: If the disk refuses; a page that was there before is intact.
    """
    page = _templates().get_template(template).render(**values)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, [page.encode("utf-8")])
    except OSError as error:
        raise StorageError(f"{out}: the report cannot be written: {error.strerror}") from error
    return out


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("llmcausal.ui.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_spelled_out,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _spelled_out(value: object) -> object:
    """Lets no text reach the page, an attribute or its title with characters that deceive."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else spelled(value)


def _summary(result: Object | None) -> dict[str, Any]:
    if result is None:
        sentence = "Nothing has been evaluated yet."
        return {"sentence": sentence, "details": [], "caveats": [], "facts": []}
    tuned, base = as_object(result.get("tuned")), as_object(result.get("base"))
    environment = as_object(result.get("environment"))
    facts = [
        ("Suite", result.get("suite")),
        ("Checkpoint", result.get("checkpoint")),
        ("Endpoint", as_object(result.get("endpoint")).get("url")),
        ("Evaluated", environment.get("date")),
        ("On", environment.get("gpu") or environment.get("processor")),
    ]
    return {
        "sentence": sections.reading(tuned, base),
        "details": sections.details(tuned, base, as_object(result.get("difference"))),
        "caveats": as_texts(result.get("caveats")),
        "facts": [(name, str(value)) for name, value in facts if value],
    }


def _notes(result: Object | None, notes: Sequence[str]) -> list[str]:
    own = result.get("notes") if result else None
    return [*notes, *(map(str, own) if isinstance(own, list) else ())]


def _examples(result: Object | None) -> list[ExampleGroup]:
    if result is None:
        return []
    other = sections.model_named(as_object(result.get("base")))
    return choose_examples(as_objects(result.get("generations")), other)


def _skipped(result: Object | None) -> dict[str, Any]:
    items = as_objects(result.get("skipped")) if result else []
    shown_items = [
        (str(item.get("id", "")), str(item.get("reason", ""))) for item in items[:_SKIPPED_SHOWN]
    ]
    return {"total": len(items), "shown": shown_items}


def _reproduction(
    result: Object | None, config_text: str, environment: Object | None
) -> dict[str, Any]:
    evaluated = as_object(result.get("environment")) if result else {}
    commands = [
        ("Training", (environment or {}).get("command")),
        ("Evaluation", (result.get("command") if result else None) or evaluated.get("command")),
    ]
    machines = [("Training", environment or {}), ("Evaluation", evaluated)]
    return {
        "commands": [(name, shown(_command(words))) for name, words in commands if words],
        "config": shown(config_text, whole=True) if config_text else None,
        "machines": [(name, _machine(facts)) for name, facts in machines if facts],
    }


def _command(words: object) -> str:
    listed = isinstance(words, Sequence) and not isinstance(words, str)
    return shlex.join(map(str, words)) if listed else str(words)  # type: ignore[call-overload]


def _machine(environment: Object) -> list[tuple[str, str]]:
    packages = environment.get("packages")
    facts = [
        (name.replace("_", " "), str(value))
        for name, value in environment.items()
        if name not in ("packages", "command") and value is not None
    ]
    versions = packages.items() if isinstance(packages, Mapping) else ()
    return [*facts, *((str(name), str(value)) for name, value in versions)]
