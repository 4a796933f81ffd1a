"""`data build` and `data validate`: makes and checks triplet files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import llmcausal
from llmcausal.attacks.base import Goal, Position, Split
from llmcausal.config import RunConfig
from llmcausal.data.builtin import generate
from llmcausal.data.formats import read_numbered
from llmcausal.data.formats.jsonl import write_triplets
from llmcausal.data.quality import Finding, Lines, Progress, duplicates, examine, leaks
from llmcausal.data.sources import SOURCES
from llmcausal.data.sources.builder import BuildOptions, TripletBuilder
from llmcausal.data.sources.counterfactual import CounterfactualKind
from llmcausal.data.sources.example import LeftOut, SourceRequest
from llmcausal.data.sources.reading import hash_of, read_examples, read_goals
from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError, UsageError, writing
from llmcausal.profile import load_config
from llmcausal.registry import nearest
from llmcausal.storage import replace_file

BUILTIN_PREFIX = "builtin:"
BUILTIN_COUNT = 2000
"""Number of triplets that stand for a built-in split: enough to contain every phrasing."""

StepProgress = Callable[[str, int, int], None]
"""Called with a step's name, the amount done, and the total."""


@dataclass(frozen=True)
class BuildRequest:
    out: Path
    options: BuildOptions
    source: str = ""  # "" is the built-in generator
    path: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)  # each field's column, for tables
    system: str = ""
    attacks: Path | None = None
    model: str = ""  # profile of the model for counterfactuals and answers
    answers: str = "given"

    @property
    def recipe(self) -> Path:
        """File that records how `out` was made."""
        return self.out.with_suffix(".recipe.json")


def parse_options(
    split: str, seed: int, count: int | None, families: str, positions: str, counterfactual: str
) -> BuildOptions:
    """Reads a command line's options; raises `UsageError` at an unknown choice."""
    listed, placed = (
        tuple(part.strip() for part in text.split(",") if part.strip())
        for text in (families, positions)
    )
    _check_choice("--split", [split], Split)
    _check_choice("--positions", placed, Position)
    _check_choice("--counterfactual", [counterfactual], CounterfactualKind)
    return BuildOptions(
        split=cast("Split", split),
        seed=seed,
        count=count,
        families=listed,
        positions=cast("tuple[Position, ...]", placed),
        counterfactual=cast("CounterfactualKind", counterfactual),
    )


def _check_choice(option: str, given: Sequence[str], choices: object) -> None:
    known = get_args(choices)
    for value in given:
        if value not in known:
            raise UsageError(
                f"{option}: unknown {option[2:].rstrip('s')} {value!r}{nearest(value, known)} "
                f"(known: {', '.join(known)})"
            )


def build(request: BuildRequest, progress: StepProgress) -> list[str]:
    """Writes triplets as canonical JSONL, and the recipe that makes them again.

    Returns:
        Lines for the user: what was left out and why, and what was written.

    Raises:
        UsageError: If choices are unknown or contradict each other, or `out` exists or is not
            `.jsonl`.
        DataError: If the source cannot be read or gives no triplet.
        StorageError: If `out` cannot be written.
    """
    out, options = request.out, request.options
    _check_choice("--answers", [request.answers], Literal["given", "model"])
    _check_model(request.model, options.counterfactual, request.answers)
    if out.suffix != ".jsonl":
        raise UsageError(f"{out}: the output is JSONL; name the file {out.stem}.jsonl")
    for path in (out, request.recipe):
        if path.exists():
            raise UsageError(f"{path} exists: choose another name, or delete it first")
    left_out = LeftOut()
    if request.source:
        triplets, recipe = _from_source(request, left_out, progress)
    else:
        triplets, recipe = _from_generator(request), _recipe(request)
    if request.answers == "model":
        triplets = _answered(request, triplets, left_out, progress)
        recipe["model"] = load_config(request.model).model.model_dump(mode="json")
    write_triplets(out, triplets)
    total, reasons, first = left_out.total, left_out.reasons, left_out.first
    recipe |= {
        "triplets": len(triplets),
        "sha256": hash_of(out),
        "left_out": {"total": total, "reasons": dict(reasons), "first": first},
    }
    text = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
    with writing(request.recipe):
        replace_file(request.recipe, [text.encode("utf-8", "backslashreplace")])
    lines = [f"left out: {number} for {why}" for why, number in reasons.items()]
    lines += [f"  {named}" for named in first]
    if total > len(first):
        lines.append(f"  and {total - len(first)} more")
    lines.append(f"{out}: {len(triplets)} triplets of the {options.split} split")
    return [*lines, f"{request.recipe}: how they were made"]


def _check_model(model: str, counterfactual: str, answers: str) -> None:
    needed = "model" in (counterfactual, answers)
    if needed and not model:
        option = "--counterfactual" if counterfactual == "model" else "--answers"
        raise UsageError(f"{option} model: name the profile of the model with --model")
    if model and not needed:
        raise UsageError("--model: only with --counterfactual model or --answers model")


def _from_generator(request: BuildRequest) -> list[Triplet]:
    options = request.options
    if request.path is not None:
        raise UsageError(
            f"{request.path}: name its kind with --from ({', '.join(SOURCES.entries)})"
        )
    used = {
        "--families": options.families,
        "--positions": options.positions,
        "--counterfactual": options.counterfactual != BuildOptions.counterfactual,
        "--map": request.columns,
        "--system": request.system,
        "--attacks": request.attacks,
        "--model": request.model and request.answers != "model",
    }
    if given := [name for name, value in used.items() if value]:
        raise UsageError(f"{', '.join(given)}: only with --from; the built-in data are fixed")
    if options.count is None:
        raise UsageError("--count: give the number of triplets that the built-in generator makes")
    return generate(options.split, options.count, options.seed)


def _from_source(
    request: BuildRequest, left_out: LeftOut, progress: StepProgress
) -> tuple[list[Triplet], dict[str, Any]]:
    options = request.options
    if request.path is None:
        raise UsageError(f"--from {request.source}: name the file or folder to read")
    goals: list[Goal] = []
    if request.attacks is not None:
        goals, refused = read_goals(request.attacks)
        left_out.reasons += refused.reasons
        left_out.first += refused.first
    examples = read_examples(
        request.source,
        request.path,
        SourceRequest(options.split, request.columns, request.answers == "model"),
        left_out,
        request.system,
    )
    recipe = _recipe(request) | {"examples": len(examples)}
    rewritings = None
    if options.counterfactual == "model":
        from llmcausal.assembly.answering import rewritten_examples

        config, template = _read_model(request.model)
        recipe["model"] = config.model.model_dump(mode="json")
        rewritings = rewritten_examples(
            config, template, examples, options, left_out, partial(progress, "rewritings")
        )
        examples = [example for example in examples if example.id in rewritings]
    builder = TripletBuilder(examples, options, goals, rewritings)
    triplets = builder.build(left_out, partial(progress, "triplets"))
    if not triplets:
        raise DataError(left_out.first, f"{request.path}: no triplet can be made from it")
    return triplets, recipe


def _answered(
    request: BuildRequest,
    triplets: Sequence[Triplet],
    left_out: LeftOut,
    progress: StepProgress,
) -> list[Triplet]:
    """Lets the model answer where no check verifies the answer, and obey each attack."""
    from llmcausal.assembly.answering import answered

    config, template = _read_model(request.model)
    bare = [triplet if triplet.check else replace(triplet, response="") for triplet in triplets]
    shown = partial(progress, "answers of the model")
    made, _ = answered(config, bare, template, swapped=True, progress=shown)
    for triplet, answer in zip(triplets, made, strict=True):
        if answer is None:
            left_out.add(triplet.id, "the model's own answer is unusable")
    kept = [answer for answer in made if answer is not None]
    if not kept:
        raise DataError(left_out.first, f"{config.model.name}: none of its answers is usable")
    return kept


def _read_model(profile: str) -> tuple[RunConfig, Any]:
    """Reads a profile, fetches its model, and returns the settings and the chat template."""
    from llmcausal.assembly.prepare import fetch_model, load_template

    config = load_config(profile)
    fetch_model(config.model)
    return config, load_template(config.model)


def _recipe(request: BuildRequest) -> dict[str, Any]:
    options = request.options
    source: dict[str, Any] = {"name": request.source or "builtin"}
    if request.path is not None:
        source |= {"path": str(request.path), "sha256": hash_of(request.path)}
    attacks = request.attacks
    return {
        "llmcausal": llmcausal.__version__,
        "command": _command(request),
        "source": source,
        "attacks": attacks and {"path": str(attacks), "sha256": hash_of(attacks)},
        "options": {**asdict(options), "columns": request.columns, "system": request.system},
    }


def _command(request: BuildRequest) -> list[str]:
    """Returns the command that makes the same triplets."""
    options = request.options
    command = ["llmcausal", "data", "build"]
    if request.source:
        command += ["--from", request.source, str(request.path)]
    command += ["--split", options.split, "--seed", str(options.seed)]
    given: list[tuple[str, object]] = [
        ("--count", options.count),
        ("--counterfactual", request.source and options.counterfactual),
        ("--model", request.model),
        ("--answers", request.answers != "given" and request.answers),
        ("--families", ",".join(options.families)),
        ("--positions", ",".join(options.positions)),
        *(("--map", "=".join(column)) for column in request.columns.items()),
        ("--system", request.system),
        ("--attacks", request.attacks),
        ("--out", request.out),
    ]
    return command + [part for name, value in given if value for part in (name, str(value))]


@dataclass(frozen=True)
class Validation:
    """The findings in files, and by file the sound triplets and their lengths for a model."""

    counts: dict[str, int]
    findings: list[Finding]
    lengths: dict[str, Any]

    @property
    def has_errors(self) -> bool:
        return any(finding.level == "error" for finding in self.findings)

    def length_lines(self) -> list[str]:
        """Returns lines for the user on what exceeds the model's maximum length."""
        lines = []
        for file, ledger in self.lengths.items():
            fits = f"every triplet fits into {ledger.max_length} tokens per member"
            lines += [f"{file}: {line}" for line in ledger.summary() or [fits]]
        return lines

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": not self.has_errors,
            "files": self.counts,
            "findings": [asdict(finding) for finding in self.findings],
            "lengths": {file: asdict(ledger) for file, ledger in self.lengths.items()},
        }


def validate(
    files: Sequence[Path],
    against: Sequence[str],
    config: RunConfig | None,
    progress: StepProgress,
) -> Validation:
    """Reads files completely and looks for defects in each and overlap between them.

    Args:
        against: Files and `builtin:SPLIT`s that must share nothing with the files.
        config: A profile for whose model the files are also encoded.

    Raises:
        DataError: If a file of `against` is unsound.
        UsageError: If `against` names one of the files or an unknown split.
    """
    others = [_other(name, files) for name in against]
    result = Validation({}, [], {})
    encode = _encoder(config) if config is not None else None
    for file in files:
        result.counts[str(file)] = 0
        try:
            lines = Lines(str(file), read_numbered(file))
        except DataError as error:  # nothing else is checked in a file with the wrong schema
            result.findings.extend(_defect(file, defect) for defect in error.defects)
            continue
        result.counts[str(file)] = len(lines.triplets)
        result.findings.extend(examine(lines))
        shown = partial(progress, f"{file}: texts compared")
        result.findings.extend(duplicates(lines, shown))
        for other in others:
            shown = partial(progress, f"{file}: texts compared with {other.name}")
            result.findings.extend(leaks(lines, other, shown))
        if encode is not None:
            ledger, refused = encode(lines, partial(progress, f"{file}: triplets encoded"))
            result.findings.extend(refused)
            result.lengths[str(file)] = ledger
    return result


def _defect(file: Path, defect: str) -> Finding:
    rest = defect.removeprefix(str(file))
    placed = re.match(r":(\d+): ([^:]*): (.*)", rest, re.DOTALL)
    line, name, reason = placed.groups() if placed else ("0", "file", rest.removeprefix(": "))
    return Finding("error", "schema", str(file), int(line), name, reason)


def _other(name: str, files: Sequence[Path]) -> Lines:
    if name.startswith(BUILTIN_PREFIX):
        split: Any = name.removeprefix(BUILTIN_PREFIX)  # generate() checks it
        return Lines(name, list(enumerate(generate(split, BUILTIN_COUNT, seed=0), 1)))
    path = Path(name)
    if any(path.resolve() == file.resolve() for file in files):
        raise UsageError(f"--against {name}: it is one of the files to validate")
    return Lines(name, read_numbered(path))


def _encoder(config: RunConfig) -> Callable[[Lines, Progress], tuple[Any, list[Finding]]]:
    from llmcausal.assembly.prepare import load_template
    from llmcausal.data.tokenization import TripletEncoder

    template = load_template(config.model)

    def encode(lines: Lines, progress: Progress) -> tuple[Any, list[Finding]]:
        encoder = TripletEncoder(template, config.data.max_length)
        refused: list[Finding] = []
        for done, (line, triplet) in enumerate(lines.triplets, 1):
            try:
                encoder.encode(triplet)
            except DataError as error:
                reason = " ".join(error.defects)
                refused.append(Finding("error", "encoding", lines.name, line, "text", reason))
            progress(done, len(lines.triplets))
        return encoder.ledger, refused

    return encode
