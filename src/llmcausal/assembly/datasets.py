"""`data build`, `data validate` and `data stats`: triplet files made, checked and described."""

from __future__ import annotations

import hashlib
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
from llmcausal.data.quality import Finding, Lines, duplicates, examine, leaks
from llmcausal.data.sources import SOURCES
from llmcausal.data.sources.builder import BuildOptions, TripletBuilder
from llmcausal.data.sources.counterfactual import CounterfactualKind
from llmcausal.data.sources.example import LeftOut, SourceRequest
from llmcausal.data.sources.reading import hash_of, read_examples, read_goals
from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError, StorageError, UsageError
from llmcausal.profile import load_config
from llmcausal.registry import nearest
from llmcausal.storage import replace_file

BUILTIN_PREFIX = "builtin:"
BUILTIN_COUNT = 2000
"""Triplets of a built-in split that files are compared with: enough to show every phrasing."""

Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much of it is done, and how much there is."""
Told = Callable[[int, int], None] | None


@dataclass(frozen=True)
class BuildRequest:
    """What `data build` is asked for.

    Attributes:
        out: New JSONL file.
        options: How triplets are made.
        source: Name of the data source; "" is the built-in generator.
        path: File or folder of the source.
        columns: Column of each field, for tables.
        system: System prompt, instead of the source's own.
        attacks: File of goals, instead of the built-in ones.
        model: Profile whose model makes the counterfactuals and answers.
        answers: `given`, or `model`: the model's own answers where no check verifies them.
    """

    out: Path
    options: BuildOptions
    source: str = ""
    path: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    system: str = ""
    attacks: Path | None = None
    model: str = ""
    answers: str = "given"

    @property
    def recipe(self) -> Path:
        """File that records how `out` was made."""
        return self.out.with_suffix(".recipe.json")


def parse_options(
    split: str, seed: int, count: int | None, families: str, positions: str, counterfactual: str
) -> BuildOptions:
    """Reads a command line's options; raises `UsageError` at an unknown choice."""
    placed = _listed(positions)
    _check_choice("--split", [split], Split)
    _check_choice("--positions", placed, Position)
    _check_choice("--counterfactual", [counterfactual], CounterfactualKind)
    return BuildOptions(
        split=cast("Split", split),
        seed=seed,
        count=count,
        families=_listed(families),
        positions=cast("tuple[Position, ...]", placed),
        counterfactual=cast("CounterfactualKind", counterfactual),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check_choice(option: str, given: Sequence[str], choices: object) -> None:
    known = get_args(choices)
    for value in given:
        if value not in known:
            raise UsageError(
                f"{option}: unknown {option[2:].rstrip('s')} {value!r}{nearest(value, known)} "
                f"(known: {', '.join(known)})"
            )


def build(request: BuildRequest, progress: Progress | None = None) -> list[str]:
    """Writes triplets as canonical JSONL, and the recipe that makes them again.

    Returns:
        Lines for people: what was left out and why, and what was written.

    Raises:
        UsageError: If a choice is unknown or choices contradict, or `out` exists or is no `.jsonl`.
        DataError: If the source cannot be read or gives no triplet.
        StorageError: If `out` cannot be written.
    """
    _check_choice("--answers", [request.answers], Literal["given", "model"])
    _check_model(request)
    out, options = request.out, request.options
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
    total, first = left_out.total, left_out.first
    recipe |= {
        "triplets": len(triplets),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "left_out": {"total": total, "reasons": dict(left_out.reasons), "first": first},
    }
    text = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
    try:
        replace_file(request.recipe, [text.encode("utf-8", "backslashreplace")])
    except OSError as error:
        raise StorageError(f"{request.recipe}: cannot be written: {error.strerror}") from error
    lines = [f"left out: {number} for {why}" for why, number in left_out.reasons.items()]
    lines += [f"  {named}" for named in first]
    if total > len(first):
        lines.append(f"  and {total - len(first)} more")
    lines.append(f"{out}: {len(triplets)} triplets of the {options.split} split")
    return [*lines, f"{request.recipe}: how they were made"]


def _check_model(request: BuildRequest) -> None:
    model, counterfactual = request.model, request.options.counterfactual
    asked = "model" in (counterfactual, request.answers)
    if asked and not model:
        asking = "--counterfactual" if counterfactual == "model" else "--answers"
        raise UsageError(f"{asking} model: name the profile of the model with --model")
    if model and not asked:
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
    request: BuildRequest, left_out: LeftOut, progress: Progress | None
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
        from llmcausal.assembly.prepare import fetch_model, load_template

        config = load_config(request.model)
        recipe["model"] = config.model.model_dump(mode="json")
        fetch_model(config.model)
        template = load_template(config.model)
        told = _named(progress, "rewritings")
        rewritings = rewritten_examples(config, template, examples, options, left_out, told)
        examples = [example for example in examples if example.id in rewritings]
    builder = TripletBuilder(examples, options, goals, rewritings)
    triplets = builder.build(left_out, _named(progress, "triplets"))
    if not triplets:
        raise DataError(left_out.first, f"{request.path}: no triplet can be made from it")
    return triplets, recipe


def _answered(
    request: BuildRequest,
    triplets: Sequence[Triplet],
    left_out: LeftOut,
    progress: Progress | None,
) -> list[Triplet]:
    """Lets the model answer where no check verifies the answer, and obey each attack."""
    from llmcausal.assembly.answering import answered
    from llmcausal.assembly.prepare import fetch_model, load_template

    config = load_config(request.model)
    fetch_model(config.model)
    bare = [triplet if triplet.check else replace(triplet, response="") for triplet in triplets]
    told = _named(progress, "answers of the model")
    made, _ = answered(config, bare, load_template(config.model), swapped=True, progress=told)
    for triplet, answer in zip(triplets, made, strict=True):
        if answer is None:
            left_out.add(triplet.id, "the model's own answer is unusable")
    kept = [answer for answer in made if answer is not None]
    if not kept:
        raise DataError(left_out.first, f"{config.model.name}: none of its answers is usable")
    return kept


def _named(progress: Progress | None, what: str) -> Told:
    return partial(progress, what) if progress else None


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
    """Returns the command that makes the same again."""
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
    """What `data validate` found: sound triplets and, for a given model, lengths by file."""

    counts: dict[str, int]
    findings: list[Finding]
    lengths: dict[str, Any]

    @property
    def has_errors(self) -> bool:
        """Whether anything found makes the files unfit for use."""
        return any(finding.level == "error" for finding in self.findings)

    def length_lines(self) -> list[str]:
        """Returns lines for people about what does not fit the model."""
        lines = []
        for file, ledger in self.lengths.items():
            fits = f"every triplet fits into {ledger.max_length} tokens per member"
            lines += [f"{file}: {line}" for line in ledger.summary() or [fits]]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "ok": not self.has_errors,
            "files": self.counts,
            "findings": [asdict(finding) for finding in self.findings],
            "lengths": {file: ledger.as_dict() for file, ledger in self.lengths.items()},
        }


def validate(
    files: Sequence[Path],
    against: Sequence[str] = (),
    config: RunConfig | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Reads files wholly and looks for what is wrong in and between them.

    Args:
        against: Files and `builtin:SPLIT`s that the files must share nothing with.
        config: A profile, for whose model the files are also encoded.

    Raises:
        DataError: If a file of `against` is unsound.
        UsageError: If `against` names one of the files or an unknown split.
    """
    others = [_other(name, files) for name in against]
    result = Validation({}, [], {})
    encode = _encoder(config) if config is not None else None
    for file in files:
        lines, defects = _read(file)
        result.findings.extend(defects)
        result.counts[str(file)] = len(lines.triplets)
        if not lines.triplets:
            continue
        result.findings.extend(examine(lines))
        told = _named(progress, f"{file}: texts compared")
        result.findings.extend(duplicates(lines, told))
        for other in others:
            told = _named(progress, f"{file}: texts compared with {other.name}")
            result.findings.extend(leaks(lines, other, told))
        if encode is not None:
            ledger, refused = encode(lines, _named(progress, f"{file}: triplets encoded"))
            result.findings.extend(refused)
            result.lengths[str(file)] = ledger
    return result


def _read(file: Path) -> tuple[Lines, list[Finding]]:
    """Reads a file; where its schema has defects, nothing else is looked for."""
    try:
        return Lines(str(file), read_numbered(file)), []
    except DataError as error:
        return Lines(str(file), []), [_defect(file, defect) for defect in error.defects]


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


def _encoder(config: RunConfig) -> Callable[[Lines, Told], tuple[Any, list[Finding]]]:
    from llmcausal.assembly.prepare import load_template
    from llmcausal.data.tokenization import TripletEncoder

    template = load_template(config.model)

    def encode(lines: Lines, told: Told) -> tuple[Any, list[Finding]]:
        encoder = TripletEncoder(template, config.data.max_length)
        refused: list[Finding] = []
        for done, (line, triplet) in enumerate(lines.triplets, 1):
            try:
                encoder.encode(triplet)
            except DataError as error:
                reason = " ".join(error.defects)
                refused.append(Finding("error", "encoding", lines.name, line, "text", reason))
            if told:
                told(done, len(lines.triplets))
        return encoder.ledger, refused

    return encode
