"""An evaluation as Markdown: tables, the exact command, the environment and the caveats."""

from __future__ import annotations

import functools
import re
import shlex
import unicodedata
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from llmcausal.evaluation.summary import caveats
from llmcausal.metrics import BEFORE_SEARCH, GROUPED, counts, number, of, points, share

MAX_EXAMPLES = 5
MAX_CHARACTERS = 400

Values = Mapping[str, Any]

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_SPECIAL = re.compile(r"([\\`*_{}\[\]|~$@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""Signs with a meaning inside a line; some renderers also link bare addresses."""
_LEADING = re.compile(r"^(\d+)([.)])(?=\s|$)|^()([#+\-=:!])")


def to_markdown(result: Values) -> str:
    """Renders a result as `evaluate_model` returns it; its texts may be hostile and stay text."""
    tuned, base = result["tuned"], result.get("base")
    difference = result.get("difference") or {}
    answers = of("answers")
    page: str = _template().render(
        result=result,
        tuned={"groups": {}, **tuned},
        base=base,
        name=(base or {}).get("name") or "base",
        answers=[metric for metric in answers if tuned.get(metric.name, {}).get("n")],
        changes=[
            (metric.name, difference[metric.name])
            for metric in answers
            if difference.get(metric.name, {}).get("value") is not None
        ],
        grouped=GROUPED,
        perplexities=[metric for metric in of("perplexity") if metric.name in tuned],
        causal=of("causal"),
        scales=result.get("scales") or (),
        adaptive=result.get("adaptive"),
        searched=(GROUPED[0], BEFORE_SEARCH, GROUPED[1]),
        caveats=caveats(result),
        obeyed=[row for row in result.get("generations", ()) if row["obeyed"]][:MAX_EXAMPLES],
        command=_code(shlex.join(map(str, result.get("command") or ()))),
        environment=_flat(result.get("environment") or {}),
    )
    return page.rstrip("\n") + "\n"


def escape(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Returns text as one line that Markdown shows literally."""
    visible = "".join(
        " " if char in "\n\r\t" else char
        for char in text
        if char in "\n\r\t" or unicodedata.category(char) not in _HIDDEN
    )
    line = " ".join(visible.split())
    if len(line) > limit:
        line = f"{line[: limit - 3]}..."
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LEADING.sub(r"\1\3\\\2\4", _SPECIAL.sub(r"\\\1", line))


@functools.cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("llmcausal.evaluation"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(escape(str(value))),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cut"] = lambda text, limit: Markup(escape(text, limit))
    environment.globals |= {
        "counts": counts,
        "number": functools.partial(number, form=".4g", ends=".4g"),
        "points": functools.partial(points, digits=1),
        "share": functools.partial(share, digits=1),
    }
    return environment.get_template("report.md.jinja")


def _code(text: str) -> Markup:
    """Fences a line with more backticks than it holds; users copy it, so it is not cut."""
    line = "".join(char for char in text if unicodedata.category(char) not in _HIDDEN)
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}\n{line}\n{fence}" if line else "")


def _flat(values: Values, prefix: str = "") -> list[tuple[str, str]]:
    facts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            facts += _flat(value, f"{prefix}{key} ")
        elif key != "command":
            facts.append((f"{prefix}{key}", str(value)))
    return facts
