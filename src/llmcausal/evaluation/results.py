"""An evaluation's result: its content and its files, each written whole or not at all."""

from __future__ import annotations

import functools
import json
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, create_model

from llmcausal.errors import writing
from llmcausal.evaluation.summary import caveats
from llmcausal.metrics import (
    BEFORE_SEARCH,
    GROUPED,
    METRICS,
    Metric,
    counts,
    number,
    of,
    points,
    share,
)
from llmcausal.profile import flatten
from llmcausal.storage import replace_file

RESULTS = "results.json"
GENERATIONS = "generations.jsonl"
REPRESENTATIONS = "representations.json"
REPORT = "report.md"


class ResultPart(BaseModel):
    """A part of a result; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(ResultPart):
    """A share, mean or area: its value, over how many, and its 95% interval.

    Only `n` is always known. `k` is the number of attacks on a prompt, for the best of several.
    """

    value: float | None
    n: int
    low: float | None
    high: float | None
    k: int | None = None


class Change(Figure):
    """Tuned minus base on the same prompts, and McNemar's test with its discordant pairs."""

    p_value: float | None
    only_base: int
    only_tuned: int


class ResistanceVerdict(ResultPart):
    """Whether the tuned model resists more than the base, in words."""

    metric: str
    resists: Literal["more", "same", "less"]
    p_value: float
    text: str


class Likeness(Figure):
    """The share of words that clean answers have in common with the base's."""

    text: str


class SkippedTriplet(ResultPart):
    """A triplet that some or all figures leave out, and why."""

    id: str
    reason: str


class SearchedSide(BaseModel):
    """An adaptive attack against one side; `before_search` is for the same prompts without it."""

    attack_success_rate: Figure
    before_search: Figure
    utility_under_attack: Figure
    mean_queries: float | None
    examples: list[dict[str, Any]]


class Adaptive(ResultPart):
    """An adaptive attack: its budget, the same against both sides, and its outcome.

    `most_queries` bounds the texts scored for a prompt. `earlier_finds` counts the texts from
    another result with which a search may begin.
    """

    prompts: int
    steps: int
    candidates: int
    top_k: int
    search: str
    seed: int = 0
    samples: int = 0
    temperature: float | None = None
    most_queries: int | None = None
    earlier: str | None = None
    earlier_finds: int = 0
    tuned: SearchedSide
    base: SearchedSide | None = None


def _figures(title: str, metrics: Iterable[Metric], **others: Any) -> type[ResultPart]:
    fields: dict[str, Any] = {metric.name: (Figure | None, None) for metric in metrics}
    return create_model(title, __base__=ResultPart, **fields, **others)


Causal = _figures("Causal", of("causal"), representation=(str, ...), n=(int, ...))
Side = _figures(
    "Side",
    [metric for metric in METRICS if metric.part != "causal"],
    causal=(Causal | None, None),
    groups=(dict[str, dict[str, dict[str, Figure]]], ...),
    name=(str | None, None),
)
"""A model's figures; `name` if it is not the untouched base."""


ScalePoint = _figures("ScalePoint", of("answers"), scale=(float, ...))
"""Figures of answers with the adapter's update multiplied by `scale`."""


class EndpointFacts(ResultPart):
    """A deployed model, and the number of requests to it."""

    url: str
    model: str
    api: str
    requests: int
    retries: int
    kept: int


class EvaluationResult(ResultPart):
    """The content of results.json; generations.jsonl and representations.json are next to it.

    `endpoint` is the tuned side, and `baseline_endpoint` the base, if they are deployed models.
    """

    suite: str
    checkpoint: str | None = None
    command: list[str]
    notes: list[str]
    base: Side | None  # type: ignore[valid-type]
    tuned: Side  # type: ignore[valid-type]
    difference: dict[str, Change] | None
    verdict: ResistanceVerdict | None = None
    likeness: Likeness | None = None
    skipped: list[SkippedTriplet]
    caveats: list[str]
    adaptive: Adaptive | None = None
    scales: list[ScalePoint] | None = None  # type: ignore[valid-type]
    endpoint: EndpointFacts | None = None
    baseline_endpoint: EndpointFacts | None = None
    environment: dict[str, Any]


def write_results(result: Mapping[str, Any], folder: Path) -> Path:
    """Writes generations, representations and `report.md`, then `results.json` with the rest.

    Returns:
        Path of `results.json`.

    Raises:
        StorageError: If the disk refuses; earlier files are intact.
        ValueError: If a figure is NaN or infinite, or the result is not an `EvaluationResult`.
    """
    apart = ("generations", "representations")
    summary = {key: value for key, value in result.items() if key not in apart}
    summary["caveats"] = caveats(result)
    EvaluationResult.model_validate(summary)
    files = {
        GENERATIONS: "".join(map(_line, result["generations"])),
        REPRESENTATIONS: _line(result.get("representations", {})),
        RESULTS: json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=2) + "\n",
    }
    report = to_markdown(result)
    with writing(folder, "results "):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in {REPORT: report, **files}.items():
            # A lone surrogate in hostile data becomes its JSON escape instead of an error.
            replace_file(folder / name, [text.encode("utf-8", errors="backslashreplace")])
    return folder / RESULTS


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


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
        environment=[
            (name, str(value))
            for name, value in flatten(result.get("environment") or {}, " ").items()
            if name != "command"
        ],
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
