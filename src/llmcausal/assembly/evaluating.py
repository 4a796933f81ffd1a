"""`eval`: a checkpoint against the untouched base, in generated text and in representations."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmcausal.assembly import run_directory
from llmcausal.assembly.adaptive import Parts, add_adaptive_attack, check_searchable
from llmcausal.assembly.comparison import check_alike, other_checkpoint
from llmcausal.assembly.fetching import fetch_model
from llmcausal.assembly.prepare import load_template
from llmcausal.config import DataSection, EvaluationSection, RunConfig
from llmcausal.data.splits import BUILTIN
from llmcausal.data.template import ChatTemplate
from llmcausal.data.tokenization import TripletEncoder
from llmcausal.data.triplet import Triplet
from llmcausal.errors import CheckpointError, UsageError
from llmcausal.evaluation.adaptive import AdaptiveRequest
from llmcausal.evaluation.answer_store import AnswerStore
from llmcausal.evaluation.evaluate import evaluate
from llmcausal.evaluation.forward import (
    Readable,
    causal_figures,
    encode,
    map_points,
    perplexity_figures,
    read,
)
from llmcausal.evaluation.generation import Answering, evaluation_mode, without_adapter
from llmcausal.evaluation.results import write_results
from llmcausal.evaluation.suites import SUITES
from llmcausal.evaluation.summary import is_headline
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.device import choose_device
from llmcausal.model.factory import load_model
from llmcausal.profile import load_config
from llmcausal.train.build import build_adapters, build_step
from llmcausal.train.checkpoint import CONFIG, has_projection, restore_weights, verify
from llmcausal.train.interrupt import stopping_explained
from llmcausal.train.processes import SINGLE, Processes, process_group
from llmcausal.train.step import TripletStep
from llmcausal.ui.console import ProgressLine, status, stderr_progress
from llmcausal.ui.report import REPORT, write_run_report

Progress = Callable[[int, int], None]
_AGAIN = "Answers so far are kept: run the same command again to continue."
_LOST = "No answers are kept, since evaluation.cache is off."


@dataclass(frozen=True)
class EvaluationRequest:
    """What `eval` is asked for.

    Attributes:
        checkpoint: Checkpoint folder.
        data: What the suite reads: a file, a folder or `builtin`; None takes the run's `data.test`.
        suite: Name of a suite; None takes `evaluation.suite` of the run.
        baseline: Also evaluate the untouched base, on the same prompts.
        reads: Also measure perplexity and representations.
        trust_remote_code: Run code that comes with the model; the checkpoint's own word for it
            does not count.
        progress: Told (done, total) over the generated answers; None shows them on stderr.
        against: Another checkpoint, to compare with in place of the untouched base.
        settings: Of `evaluation`, and `attacks` of `data.test_attacks`, in place of the run's;
            None keeps the run's.
        adaptive: Also search attacks against each model: what the attacker may do.
        out: Folder for the result; None: next to the checkpoint.
    """

    checkpoint: Path
    data: str | None = None
    suite: str | None = None
    baseline: bool = True
    reads: bool = True
    trust_remote_code: bool = False
    progress: Progress | None = None
    against: Path | None = None
    settings: Mapping[str, int | None] = field(default_factory=dict)
    adaptive: AdaptiveRequest | None = None
    out: Path | None = None


def evaluate_checkpoint(request: EvaluationRequest) -> dict[str, Any]:
    """Evaluates a verified checkpoint and writes the result.

    Raises:
        CheckpointError: If the checkpoint is damaged, or its template is not the one at hand.
        UsageError: If what is asked for contradicts itself.
        Interrupted: On Ctrl-C or SIGTERM.
    """
    checkpoint, against = request.checkpoint, request.against
    manifest = verify(checkpoint)
    own = without_code(load_config(checkpoint / CONFIG), request.trust_remote_code)
    config = with_settings(own, request.data, request.settings)
    if against is not None:
        check_alike(config, manifest, against, request.baseline)
    name, notes = suite_name(config.data, config.evaluation, request.suite), list[str]()
    folder = request.out or _folder_beside(checkpoint, name, request.data)
    triplets = choose_triplets(config.data, name, notes)[: config.evaluation.max_samples]
    if request.adaptive is not None:
        check_searchable(triplets, name, request.adaptive)
    asked = Asked(name, request.baseline, request.reads, notes, request.progress)
    with (
        process_group(choose_device(config.model.device)) as processes,
        stopping_explained(_AGAIN if config.evaluation.cache else _LOST),
    ):
        processes.on_main(lambda: fetch_model(config.model))
        parts = load_parts(config, manifest, checkpoint, against)
        result = evaluate_model(config, parts, triplets, asked, processes)
        if not processes.is_main:
            return result
        if request.adaptive is not None:
            add_adaptive_attack(config, parts, triplets, result, request.adaptive, folder)
    return _written(result, checkpoint, folder)


def load_parts(
    config: RunConfig, manifest: dict[str, Any], checkpoint: Path, against: Path | None
) -> Parts:
    """Loads a checkpoint's model, and what it is compared with, if anything.

    Raises:
        CheckpointError: If it does not fit, or its template is not the one at hand.
    """
    with status("Loading the model"):
        loaded = load_model(config.model, config.memory)
    template = load_template(config.model, loaded.tokenizer)
    check_template(manifest, template, checkpoint)
    model = build_adapters(config, loaded)
    step = build_step(config, loaded, model, trained=False)
    if not has_projection(checkpoint):
        step.objective = replace(step.objective, projection=None)
    other = other_checkpoint(config, model, step, against, checkpoint) if against else None
    restore_weights(checkpoint, model, step.objective.projection)
    return Parts(model, template, step, other)


def _written(result: dict[str, Any], checkpoint: Path, folder: Path) -> dict[str, Any]:
    result["checkpoint"] = str(checkpoint)
    write_results(result, folder)
    report = write_run_report(checkpoint.resolve().parent, folder / REPORT, evaluation=folder)
    return {**result, "written": str(folder), "report": str(report)}


def with_settings(
    config: RunConfig, data: str | None, settings: Mapping[str, int | None]
) -> RunConfig:
    """Returns the config with what the command line says in place of what the run says."""
    given = {key: value for key, value in settings.items() if value is not None}
    read = {"test": data, "test_attacks": given.pop("attacks", None)}
    read = {key: value for key, value in read.items() if value is not None}
    update: dict[str, Any] = {
        "evaluation": config.evaluation.model_copy(update=given),
        "data": config.data.model_copy(update=read),
    }
    return config.model_copy(update=update)


def _folder_beside(checkpoint: Path, suite: str, data: str | None) -> Path:
    """Each suite and each `--data` has a folder of its own, so that none replaces another's."""
    checkpoint = checkpoint.resolve()
    read = "" if data is None or data == BUILTIN else Path(data).stem
    parts = ["" if suite == BUILTIN else suite, read]
    named = [re.sub(r"[^A-Za-z0-9_]+", "-", part) for part in parts if part]
    return checkpoint.parent / "-".join(["evaluation", checkpoint.name, *named])


def suite_name(data: DataSection, evaluation: EvaluationSection, suite: str | None = None) -> str:
    """Returns the suite to use; a file in `data.test` asks for the suite `file`.

    Raises:
        UsageError: If the built-in suite is asked for with a file.
    """
    on_file = data.test != BUILTIN
    if suite == BUILTIN and on_file:
        raise UsageError(
            f"suite 'builtin' does not read {data.test}: leave out --suite, or give --data builtin"
        )
    configured = evaluation.suite
    return suite or ("file" if on_file and configured == BUILTIN else configured)


def choose_triplets(data: DataSection, suite: str, notes: list[str] | None = None) -> list[Triplet]:
    """Returns the test triplets of a suite, and adds to `notes` what is left out of it.

    Raises:
        DataError: If the data cannot be used.
    """
    triplets: list[Triplet] = SUITES.load(suite)(data, [] if notes is None else notes)
    return triplets


def check_template(manifest: dict[str, Any], template: ChatTemplate, checkpoint: Path) -> None:
    """Refuses to use a checkpoint with another prompt rendering than it was trained with.

    Raises:
        CheckpointError: If chat template or tokenizer differ.
    """
    if manifest["template"] != template.fingerprint:
        raise CheckpointError(
            f"{checkpoint}: its chat template or tokenizer differs from training's, so the "
            "defence would not hold; restore model.chat_template or model.revision"
        )


def without_code(config: RunConfig, trust_remote_code: bool) -> RunConfig:
    """Returns the config with `trust_remote_code` as the user, not the file, says."""
    model = config.model.model_copy(update={"trust_remote_code": trust_remote_code})
    return config.model_copy(update={"model": model})


@dataclass(frozen=True)
class Asked:
    """What is measured of a model.

    Attributes:
        suite: Where the triplets are from.
        baseline: Also evaluate the base, or what `Parts.other` puts in its place.
        reads: Also measure perplexity and representations.
        notes: What the reader of the result should know.
        progress: Told (done, total) over the generated answers; None shows them on stderr.
    """

    suite: str
    baseline: bool = True
    reads: bool = True
    notes: Sequence[str] = ()
    progress: Progress | None = None


def evaluate_model(
    config: RunConfig,
    parts: Parts,
    triplets: Sequence[Triplet],
    asked: Asked,
    processes: Processes = SINGLE,
) -> dict[str, Any]:
    """Evaluates a model in memory: generated answers, then what it reads.

    Args:
        config: Settings.
        parts: The tuned model, and what goes with it.
        triplets: What it is tested on.
        asked: What is measured.
        processes: Those that share the prompts.

    Returns:
        The parts of an `EvaluationResult` that are known without its place on disk; without what
        is read on other processes than the first.
    """
    section, chosen = config.evaluation, triplets[: config.evaluation.max_samples]
    result: dict[str, Any] = {
        "suite": asked.suite,
        "command": command_line(),
        "notes": list(asked.notes),
    }
    with whole_layers(parts.model):
        result |= evaluate(
            Answering(
                parts.model,
                parts.template,
                section.max_new_tokens,
                section.batch_size,
                store=AnswerStore() if section.cache and not processes.sharded else None,
                processes=processes,
            ),
            chosen,
            baseline=asked.baseline,
            base_weights=parts.other.weights if parts.other else None,
            progress=asked.progress or stderr_progress,
        )
        if asked.reads and (processes.is_main or processes.sharded):
            _add_what_is_read(config, parts, chosen, result)
    if not processes.is_main:
        return result
    result["environment"] = run_directory.environment()
    return result


def _add_what_is_read(
    config: RunConfig, parts: Parts, triplets: Sequence[Triplet], result: dict[str, Any]
) -> None:
    """Adds perplexity, causal metrics and the map to the sides of a result."""
    step, other = parts.step, parts.other
    unusable = {item["id"] for item in result["skipped"]}
    readable, skipped = encode(
        TripletEncoder(parts.template, config.data.max_length),
        [t for t in triplets if is_headline(t) and t.id not in unusable],
    )
    result["skipped"] += skipped
    sides = _Sides(config, step, readable, result)
    with evaluation_mode(parts.model):
        sides.measure("tuned", nullcontext(), step.objective.projection is not None)
        if other and result["base"] is not None:
            result["base"]["name"] = other.name
            sides.measure("base", other.weights(), other.projected)
        elif result["base"] is not None:
            sides.measure("base", without_adapter(parts.model), False)
    result["representations"] = sides.points


@dataclass(frozen=True)
class _Sides:
    """Adds to each side of a result what is measured on given answers and representations."""

    config: RunConfig
    step: TripletStep
    readable: Sequence[Readable]
    result: dict[str, Any]
    points: dict[str, Any] = field(default_factory=dict)

    def measure(self, side: str, weights: AbstractContextManager[None], projected: bool) -> None:
        with weights:
            measured = read(
                self.step,
                self.readable,
                pooling=self.config.loss.pooling,
                batch_size=self.config.validation.batch_size,
                projected=projected,
                progress=ProgressLine(f"representations, {side}"),
            )
        self.result[side] |= perplexity_figures(measured)
        self.result[side]["causal"] = causal_figures(measured, projected=projected)
        self.points[side] = map_points(measured)


def command_line() -> list[str]:
    """Returns the command as one would type it."""
    program, *arguments = sys.argv
    started_by_name = Path(program).name in ("llmcausal", "__main__.py")
    return ["llmcausal" if started_by_name else program, *arguments]
