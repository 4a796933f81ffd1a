"""`eval`: a checkpoint against the untouched base, in generated text and in representations."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmcausal.assembly import run_directory
from llmcausal.assembly.prepare import fetch_model, load_template
from llmcausal.config import DataSection, EvaluationSection, RunConfig
from llmcausal.data.splits import BUILTIN
from llmcausal.data.template import ChatTemplate
from llmcausal.data.tokenization import TripletEncoder
from llmcausal.data.triplet import Triplet
from llmcausal.errors import CheckpointError, UsageError
from llmcausal.evaluation.adaptive import AdaptiveRequest
from llmcausal.evaluation.adaptive.attack import attack_adaptively, choose_aims, names_witness
from llmcausal.evaluation.adaptive.gcg import Subject
from llmcausal.evaluation.adaptive.slot import Earlier
from llmcausal.evaluation.answer_store import AnswerStore, weights_fingerprint
from llmcausal.evaluation.evaluate import Weights, evaluate, measure_scales
from llmcausal.evaluation.forward import (
    causal_figures,
    encode,
    map_points,
    perplexity_figures,
    read,
)
from llmcausal.evaluation.generation import Answering, Progress, evaluation_mode, without_adapter
from llmcausal.evaluation.results import write_results
from llmcausal.evaluation.suites import SUITES
from llmcausal.evaluation.summary import is_headline
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.device import choose_device, out_of_memory_explained
from llmcausal.model.factory import load_model
from llmcausal.profile import config_differences, load_config
from llmcausal.train.build import build_adapters, build_step
from llmcausal.train.checkpoint import CONFIG, EXPORTED, has_projection, restore_weights, verify
from llmcausal.train.interrupt import stopping_explained
from llmcausal.train.processes import SINGLE, Processes, process_group
from llmcausal.train.step import TripletStep
from llmcausal.ui.console import ProgressLine, status
from llmcausal.ui.report import REPORT, write_run_report

ADAPTIVE_LOG = "adaptive.jsonl"
_ADAPTER_SETTINGS = (
    "model.name",
    "model.revision",
    "model.quantization",
    "model.double_quantization",
    "lora.rank",
    "lora.alpha",
    "lora.target_modules",
)
_PROJECTION_SETTINGS = ("loss.projection_", "loss.layer", "loss.pooling")


@dataclass(frozen=True, kw_only=True)
class AnyEvaluation:
    """The options that both kinds of evaluation have.

    Attributes:
        data: What the suite reads: a file, a folder or `builtin`; None takes the run's `data.test`.
        suite: Name of a suite; None takes the run's `evaluation.suite`.
        baseline: Also evaluate what the model is compared with.
        settings: Replacements for the run's `evaluation` settings, and `attacks` for
            `data.test_attacks`; None keeps the run's.
        trust_remote_code: Run code that comes with the model, whatever the checkpoint says.
        progress: Called with (done, total) over the answers; None shows them on stderr.
        out: Folder for the result; None chooses one.
    """

    data: str | None = None
    suite: str | None = None
    baseline: bool = True
    settings: Mapping[str, int | None] = field(default_factory=dict)
    trust_remote_code: bool = False
    progress: Progress | None = None
    out: Path | None = None

    def applied_to(self, config: RunConfig) -> RunConfig:
        given = {key: value for key, value in self.settings.items() if value is not None}
        read = {"test": self.data, "test_attacks": given.pop("attacks", None)}
        read = {key: value for key, value in read.items() if value is not None}
        update: dict[str, Any] = {
            "evaluation": config.evaluation.model_copy(update=given),
            "data": config.data.model_copy(update=read),
        }
        return config.model_copy(update=update)

    def folder_name(self, *names: str, suite: str) -> str:
        """Names a folder; each suite and each `--data` has its own, so none replaces another's."""
        read = "" if self.data is None or self.data == BUILTIN else Path(self.data).stem
        parts = ["" if suite == BUILTIN else suite, read]
        return "-".join([*names, *(plain_name(part) for part in parts if part)])


@dataclass(frozen=True)
class EvaluationRequest(AnyEvaluation):
    """The options of `eval` for a checkpoint."""

    checkpoint: Path
    reads: bool = True  # also measure perplexity and representations
    against: Path | None = None
    adaptive: AdaptiveRequest | None = None
    scales: Sequence[float] = ()  # also measure answers with the adapter scaled by these


@dataclass(frozen=True)
class Suite:
    """Test triplets, and notes on what the suite leaves out."""

    name: str
    triplets: list[Triplet]
    notes: list[str]


@dataclass(frozen=True)
class Other:
    """A checkpoint that replaces the untouched base as the model to compare with."""

    name: str
    weights: Weights
    projected: bool  # whether it has a projection head that fits


@dataclass(frozen=True)
class Parts:
    """What an evaluation works with; without `other` it compares with the untouched base."""

    model: Any
    template: ChatTemplate
    step: TripletStep
    other: Other | None = None
    processes: Processes = SINGLE


@out_of_memory_explained("in the evaluation")
def evaluate_checkpoint(request: EvaluationRequest) -> dict[str, Any]:
    """Evaluates a verified checkpoint and writes the result.

    Raises:
        CheckpointError: If the checkpoint is damaged, or its template differs from this machine's.
        UsageError: If the request contradicts itself.
        Interrupted: On Ctrl-C or SIGTERM.
    """
    checkpoint, against, adaptive = request.checkpoint, request.against, request.adaptive
    own, manifest = read_checkpoint(checkpoint, request.trust_remote_code)
    config = request.applied_to(own)
    if against is not None:
        if not request.baseline:
            raise UsageError("--against and --no-baseline exclude one another: leave one out")
        _check_alike(config, manifest, against)
    suite = choose_suite(config.data, config.evaluation, request.suite)
    suite.notes.extend(tested_elsewhere(manifest, suite, request.data))
    run_dir, name = checkpoint.resolve().parent, checkpoint.resolve().name
    folder = request.out or run_dir / request.folder_name("evaluation", name, suite=suite.name)
    # Before anything is computed: a search of no use is refused.
    earlier = _check_searchable(suite, adaptive) if adaptive else Earlier()
    with (
        process_group(choose_device(config.model.device)) as processes,
        answers_kept(config.evaluation),
    ):
        processes.on_main(lambda: fetch_model(config.model))
        parts = load_parts(config, manifest, checkpoint, against)
        parts = replace(parts, processes=processes)
        result = evaluate_model(
            config,
            parts,
            suite,
            baseline=request.baseline,
            reads=request.reads,
            progress=request.progress,
        )
        if request.scales:
            known = {1.0: result["tuned"], 0.0: None if against else result["base"]}
            result["scales"] = measure_scales(
                answering_of(config.evaluation, parts),
                suite.triplets,
                request.scales,
                known,
                ProgressLine("answers, other scales"),
            )
        if not processes.is_main:
            return result
        if adaptive is not None:
            attacked = _usable(suite.triplets, result)
            search = _Search(adaptive, earlier, folder / ADAPTIVE_LOG)
            _add_adaptive_attack(config.evaluation, parts, attacked, result, search)
    result["checkpoint"] = str(checkpoint)
    write_results(result, folder)
    report = write_run_report(run_dir, folder / REPORT, evaluation=folder)
    return {**result, "written": str(folder), "report": str(report)}


def answers_kept(section: EvaluationSection) -> AbstractContextManager[None]:
    """Turns an interruption inside into an error that says whether answers are kept."""
    return stopping_explained(
        "Answers so far are kept: run the same command again to continue."
        if section.cache
        else "No answers are kept, since evaluation.cache is off."
    )


def read_checkpoint(checkpoint: Path, trust_remote_code: bool) -> tuple[RunConfig, dict[str, Any]]:
    """Verifies a checkpoint; returns its settings, with the user's decision, and its manifest.

    A relative `model.chat_template` is in the checkpoint, as in an exported adapter.
    """
    manifest = verify(checkpoint)
    config = load_config(checkpoint / CONFIG)
    update: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if (path := config.model.chat_template) is not None:
        update["chat_template"] = checkpoint.resolve() / path.expanduser()
    model = config.model.model_copy(update=update)
    return config.model_copy(update={"model": model}), manifest


def load_parts(
    config: RunConfig, manifest: dict[str, Any], checkpoint: Path, against: Path | None = None
) -> Parts:
    """Loads a checkpoint's model, and what it is compared with; raises `CheckpointError`."""
    with status("Loading the model"):
        loaded = load_model(config.model, config.memory)
    template = load_template(config.model, loaded.tokenizer)
    check_template(manifest, template, checkpoint)
    model = build_adapters(config, loaded)
    step = build_step(config, loaded, model, trained=False)
    if not has_projection(checkpoint):
        step.objective = replace(step.objective, projection=None)
    other = _other_checkpoint(config, model, step, against, checkpoint) if against else None
    restore_weights(checkpoint, model, step.objective.projection)
    return Parts(model, template, step, other)


def check_template(manifest: dict[str, Any], template: ChatTemplate, checkpoint: Path) -> None:
    """Raises a CheckpointError if prompts are rendered differently than in training."""
    if manifest["template"] != template.fingerprint:
        raise CheckpointError(
            f"{checkpoint}: its chat template or tokenizer differs from training's, so the "
            "defence would not hold; restore model.chat_template or model.revision"
        )


def _check_alike(config: RunConfig, manifest: Mapping[str, Any], against: Path) -> None:
    """Raises a CheckpointError if the weights of `against` do not fit into the model."""
    template = verify(against)["template"]
    changes = config_differences(load_config(against / CONFIG), config)
    unlike = [change for change in changes if change.startswith(_ADAPTER_SETTINGS)]
    if unlike:
        reason = f"its model or adapter differs: {'; '.join(unlike)}"
    elif template != manifest["template"]:
        reason = "it was trained with another chat template or tokenizer"
    else:
        return
    raise CheckpointError(
        f"{against}: cannot be compared in one run, since {reason}. Evaluate each by itself, and "
        "leave out --against."
    )


def _other_checkpoint(
    config: RunConfig, model: Any, step: TripletStep, against: Path, checkpoint: Path
) -> Other:
    """Returns `against` as the model to compare with; `checkpoint` is restored after each use."""
    changes = config_differences(load_config(against / CONFIG), config)
    own_head = not any(change.startswith(_PROJECTION_SETTINGS) for change in changes)
    projection = step.objective.projection if own_head and has_projection(against) else None

    @contextmanager
    def weights() -> Iterator[None]:
        restore_weights(against, model, projection)
        try:
            yield
        finally:
            restore_weights(checkpoint, model, projection)

    return Other(str(against), weights, projection is not None)


def choose_suite(
    data: DataSection, evaluation: EvaluationSection, name: str | None = None
) -> Suite:
    """Reads the first `evaluation.max_samples` triplets of a suite, by default the run's.

    Raises:
        UsageError: If the built-in suite is requested with a file in `data.test`.
    """
    on_file = data.test != BUILTIN
    if name == BUILTIN and on_file:
        raise UsageError(
            f"suite 'builtin' does not read {data.test}: leave out --suite, or give --data builtin"
        )
    if not name:
        name = "file" if on_file and evaluation.suite == BUILTIN else evaluation.suite
    notes: list[str] = []
    triplets: list[Triplet] = SUITES.load(name)(data, notes)
    return Suite(name, triplets[: evaluation.max_samples], notes)


def evaluate_model(
    config: RunConfig,
    parts: Parts,
    suite: Suite,
    *,
    baseline: bool = True,
    reads: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates a model in memory: generated answers, then perplexity and representations.

    Returns:
        The parts of an `EvaluationResult` that do not depend on its place on disk. The processes
        share the prompts; only the first one's result has what `reads` adds.
    """
    processes = parts.processes
    result: dict[str, Any] = {
        "suite": suite.name,
        "command": command_line(),
        "notes": list(suite.notes),
    }
    with whole_layers(parts.model, gradients=False):
        result |= evaluate(
            answering_of(config.evaluation, parts),
            suite.triplets,
            baseline=baseline,
            base_weights=parts.other.weights if parts.other else None,
            progress=progress or ProgressLine("answers"),
        )
        # Processes that share the layers must make the same passes; others leave it to the first.
        if reads and (processes.is_main or processes.sharded):
            _add_what_is_read(config, parts, suite.triplets, result)
    if processes.is_main:
        result["environment"] = run_directory.environment()
    return result


def answering_of(section: EvaluationSection, parts: Parts) -> Answering:
    return Answering(
        parts.model,
        parts.template,
        section.max_new_tokens,
        section.batch_size,
        store=AnswerStore() if section.cache and not parts.processes.sharded else None,
        processes=parts.processes,
    )


def _add_what_is_read(
    config: RunConfig, parts: Parts, triplets: Sequence[Triplet], result: dict[str, Any]
) -> None:
    """Adds perplexity, causal metrics and the map to the sides of a result."""
    step, other = parts.step, parts.other
    encoder = TripletEncoder(parts.template, config.data.max_length)
    readable, skipped = encode(encoder, _usable(triplets, result))
    result["skipped"] += skipped
    points: dict[str, Any] = {}

    def measure(side: str, weights: AbstractContextManager[None], projected: bool) -> None:
        with weights:
            measured = read(
                step,
                readable,
                pooling=config.loss.pooling,
                batch_size=config.validation.batch_size,
                projected=projected,
                progress=ProgressLine(f"representations, {side}"),
            )
        result[side] |= perplexity_figures(measured)
        result[side]["causal"] = causal_figures(measured, projected=projected)
        points[side] = map_points(measured)

    with evaluation_mode(parts.model):
        measure("tuned", nullcontext(), step.objective.projection is not None)
        if other and result["base"] is not None:
            result["base"]["name"] = other.name
            measure("base", other.weights(), other.projected)
        elif result["base"] is not None:
            measure("base", without_adapter(parts.model), False)
    result["representations"] = points


def _usable(triplets: Sequence[Triplet], result: dict[str, Any]) -> list[Triplet]:
    """Returns the answered triplets that count in the headline figures."""
    unusable = {item["id"] for item in result["skipped"]}
    return [t for t in triplets if is_headline(t) and t.id not in unusable]


def _check_searchable(suite: Suite, request: AdaptiveRequest) -> Earlier:
    earlier = Earlier.read(request.earlier) if request.earlier else Earlier()
    if not any(is_headline(t) and names_witness(t) for t in suite.triplets):
        raise UsageError(
            "--adaptive searches for a witness text, and no attack in the suite "
            f"{suite.name!r} names one: drop --adaptive, or choose a suite that names them, "
            "such as builtin"
        )
    return earlier


@dataclass(frozen=True)
class _Search:
    request: AdaptiveRequest
    earlier: Earlier
    log: Path


def _add_adaptive_attack(
    section: EvaluationSection,
    parts: Parts,
    triplets: Sequence[Triplet],
    result: dict[str, Any],
    search: _Search,
) -> None:
    """Searches attacks against each side of a result, and adds them as `adaptive`.

    The log keeps found texts, so an interrupted search continues.
    """
    request, earlier = search.request, search.earlier
    aims = choose_aims(parts.template, triplets, request, earlier)
    if not aims:  # the evaluation is still worth keeping
        result["notes"].append("No adaptive attack: no usable prompt has room for a text.")
        return
    adaptive: dict[str, Any] = {
        **request.budget,
        "prompts": len(aims),
        "earlier": str(request.earlier) if request.earlier else None,
        "earlier_finds": len(earlier.finds),
    }
    answering = Answering(parts.model, parts.template, section.max_new_tokens, section.batch_size)

    def attack(side: str, weights: AbstractContextManager[None], adapter: bool) -> None:
        with weights:
            fingerprint = weights_fingerprint(parts.model, adapter=adapter)
            subject = Subject(parts.step, answering, adapter, fingerprint)
            progress = ProgressLine(f"adaptive attack, {side}")
            adaptive[side] = attack_adaptively(subject, aims, request, search.log, progress)

    attack("tuned", nullcontext(), True)
    if result["base"] is not None:
        other = parts.other
        attack("base", other.weights() if other else nullcontext(), other is not None)
    result["adaptive"] = adaptive


def plain_name(text: str) -> str:
    """Returns the text as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text)


def tested_elsewhere(manifest: Mapping[str, Any], suite: Suite, given: str | None) -> list[str]:
    """Returns a note if an exported adapter's run read a file of tests, which it does not have."""
    if not manifest.get(EXPORTED, {}).get("own_test") or suite.name != BUILTIN or given:
        return []
    return [
        "The run's data.test is a file, which an exported adapter does not have: this evaluation "
        "is on built-in data. Give --data FILE to ask what the run's evaluation asked."
    ]


def command_line() -> list[str]:
    """Returns the command as a user would type it."""
    program, *arguments = sys.argv
    started_by_name = Path(program).name in ("llmcausal", "__main__.py")
    return ["llmcausal" if started_by_name else program, *arguments]
