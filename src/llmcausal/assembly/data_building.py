"""What `llmcausal data build` does: write triplets, and the recipe that makes them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import llmcausal
from llmcausal.attacks.base import Position
from llmcausal.attacks.goal import Goal, Split
from llmcausal.data.builtin import generate
from llmcausal.data.formats.jsonl import write_triplets
from llmcausal.data.sources import SOURCES
from llmcausal.data.sources.builder import BuildOptions, TripletBuilder
from llmcausal.data.sources.counterfactual import CounterfactualKind
from llmcausal.data.sources.example import LeftOut, SourceRequest
from llmcausal.data.sources.goals import read_goals
from llmcausal.data.sources.reading import hash_of, read_examples
from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError, StorageError, UsageError
from llmcausal.profile import load_config
from llmcausal.registry import nearest
from llmcausal.storage import replace_file

Answers = Literal["given", "model"]
Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class BuildRequest:
    """What `data build` is asked for.

    Attributes:
        out: New JSONL file.
        options: How triplets are made.
        source: Name of the data source; "" is the built-in generator.
        path: File or folder of the source.
        columns: Column of each field, for tables.
        system: System prompt in place of the source's own.
        attacks: File of goals in place of the built-in ones.
        model: Profile whose model makes the counterfactuals and answers.
        answers: `given`, or `model`: answers that no check verifies are the model's own.
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


@dataclass(frozen=True)
class BuildReport:
    """What was written.

    Attributes:
        written: Triplets in the file.
        left_out: Examples that could not be used.
        request: What was asked for.
    """

    written: int
    left_out: LeftOut
    request: BuildRequest

    def lines(self) -> list[str]:
        """Returns lines for people: what was left out and why, and what was written."""
        total, first = self.left_out.total, self.left_out.first
        lines = [f"left out: {number} for {why}" for why, number in self.left_out.reasons.items()]
        lines += [f"  {named}" for named in first]
        if total > len(first):
            lines.append(f"  and {total - len(first)} more")
        out = self.request.out
        split = self.request.options.split
        lines.append(f"{out}: {self.written} triplets of the {split} split")
        return [*lines, f"{_recipe_path(out)}: how they were made"]


def parse_options(
    split: str, seed: int, count: int | None, families: str, positions: str, counterfactual: str
) -> BuildOptions:
    """Makes options of what a command line says; lists are separated by commas.

    Raises:
        UsageError: If a choice is unknown.
    """
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


def _check_choice(option: str, given: Sequence[str], choices: object) -> None:
    known = get_args(choices)
    for value in given:
        if value not in known:
            raise UsageError(
                f"{option}: unknown {option[2:].rstrip('s')} {value!r}{nearest(value, known)} "
                f"(known: {', '.join(known)})"
            )


def _check_model(request: BuildRequest) -> None:
    model, counterfactual = request.model, request.options.counterfactual
    asked = "model" in (counterfactual, request.answers)
    if asked and not model:
        asking = "--counterfactual" if counterfactual == "model" else "--answers"
        raise UsageError(f"{asking} model: name the profile of the model with --model")
    if model and not asked:
        raise UsageError("--model: only with --counterfactual model or --answers model")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def build(request: BuildRequest, progress: Progress | None = None) -> BuildReport:
    """Writes triplets as canonical JSONL, and beside them the recipe that makes them again.

    Raises:
        UsageError: If a choice is unknown or choices contradict, or `out` exists or is no `.jsonl`.
        DataError: If the source cannot be read or gives no triplet.
        StorageError: If `out` cannot be written.
    """
    _check_choice("--answers", [request.answers], Answers)
    _check_model(request)
    out, recipe_path = request.out, _recipe_path(request.out)
    if out.suffix != ".jsonl":
        raise UsageError(f"{out}: the output is JSONL; name the file {out.stem}.jsonl")
    for path in (out, recipe_path):
        if path.exists():
            raise UsageError(f"{path} exists: choose another name, or delete it first")
    left_out = LeftOut()
    if request.source:
        triplets, recipe = _from_source(request, left_out, progress)
    else:
        triplets, recipe = _from_generator(request)
    if request.answers == "model":
        triplets = _answered(request, triplets, left_out, progress)
        recipe["model"] = load_config(request.model).model.model_dump(mode="json")
    write_triplets(out, triplets)
    recipe |= {
        "triplets": len(triplets),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "left_out": {
            "total": left_out.total,
            "reasons": dict(left_out.reasons),
            "first": left_out.first,
        },
    }
    text = json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
    try:
        replace_file(recipe_path, [text.encode("utf-8", "backslashreplace")])
    except OSError as error:
        raise StorageError(f"{recipe_path}: cannot be written: {error.strerror}") from error
    return BuildReport(len(triplets), left_out, request)


def _answered(
    request: BuildRequest,
    triplets: Sequence[Triplet],
    left_out: LeftOut,
    progress: Progress | None,
) -> list[Triplet]:
    """Lets the model answer whatever no check verifies, and obey each attack."""
    from llmcausal.assembly.answering import answered
    from llmcausal.assembly.prepare import load_template

    config = load_config(request.model)
    bare = [triplet if triplet.check else replace(triplet, response="") for triplet in triplets]
    made, _ = answered(
        config,
        bare,
        load_template(config.model),
        swapped=True,
        progress=_named(progress, "answers of the model"),
    )
    for triplet, answer in zip(triplets, made, strict=True):
        if answer is None:
            left_out.add(triplet.id, "the model's own answer is unusable")
    kept = [answer for answer in made if answer is not None]
    if not kept:
        raise DataError(left_out.first, f"{config.model.name}: none of its answers is usable")
    return kept


def _from_generator(request: BuildRequest) -> tuple[list[Triplet], dict[str, Any]]:
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
    triplets = generate(options.split, options.count, options.seed)
    return triplets, _recipe(request)


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
        from llmcausal.assembly.rewriting import rewritten_examples

        config = load_config(request.model)
        recipe["model"] = config.model.model_dump(mode="json")
        rewritings = rewritten_examples(
            config, examples, options, left_out, _named(progress, "rewritings")
        )
        examples = [example for example in examples if example.id in rewritings]
    builder = TripletBuilder(examples, options, goals, rewritings)
    triplets = builder.build(left_out, _named(progress, "triplets"))
    if not triplets:
        raise DataError(left_out.first, f"{request.path}: no triplet can be made from it")
    return triplets, recipe


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return partial(progress, what) if progress else None


def _recipe_path(out: Path) -> Path:
    return out.with_suffix(".recipe.json")


def _recipe(request: BuildRequest) -> dict[str, Any]:
    options = request.options
    source: dict[str, Any] = {"name": request.source or "builtin"}
    if request.path is not None:
        source |= {"path": str(request.path), "sha256": hash_of(request.path)}
    attacks = request.attacks
    return {
        "llmcausal": llmcausal.__version__,
        "command": [*_command(request), "--out", str(request.out)],
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
    if options.count is not None:
        command += ["--count", str(options.count)]
    if request.source:
        command += ["--counterfactual", options.counterfactual]
    command += ["--model", request.model] if request.model else []
    command += ["--answers", request.answers] if request.answers != "given" else []
    for name, values in (("--families", options.families), ("--positions", options.positions)):
        command += [name, ",".join(values)] if values else []
    for column in request.columns.items():
        command += ["--map", "=".join(column)]
    command += ["--system", request.system] if request.system else []
    return [*command, "--attacks", str(request.attacks)] if request.attacks else command
