"""The README.md of an exported model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from llmcausal import __version__
from llmcausal.export.source import ExportSource

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_model_card(folder: Path, source: ExportSource, report: Mapping[str, Any]) -> None:
    templates = Environment(
        loader=PackageLoader("llmcausal.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"json": json.dumps, "code": _code}
    base = source.base_for_consumers()
    if report["format"] != "adapter" and not HUB_ID.fullmatch(base):
        base = Path(base).name  # these formats need no folder of this machine
    card = templates.get_template("model_card.md.jinja").render(
        kind=report["format"],
        version=__version__,
        base=base,
        on_hub=HUB_ID.fullmatch(base),
        revision=source.base_revision,
        folds_system=source.template.folds_system,
        training=source.training,
        spans=source.spans and report["format"] != "ollama",  # its Modelfile renders one turn
        report=report,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _code(text: str) -> str:
    """Keeps a value inside its code span and table cell."""
    return " ".join(text.replace("`", "").replace("|", "/").split())
