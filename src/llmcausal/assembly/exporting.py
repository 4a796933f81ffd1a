"""`export`: a checkpoint in a deployable format, and its upload to the hub."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers import PreTrainedModel

from llmcausal.assembly.evaluating import check_template, choose_suite, read_checkpoint
from llmcausal.assembly.prepare import fetch_model, load_template
from llmcausal.config import DataSection, EvaluationSection, ModelSection, RunConfig
from llmcausal.data.splits import BUILTIN
from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import Triplet
from llmcausal.errors import CheckpointError, DataError, UsageError, first_line
from llmcausal.evaluation.detection import CALIBRATION, calibration_of
from llmcausal.evaluation.probe import choose_triplets_to_probe
from llmcausal.evaluation.results import RESULTS
from llmcausal.evaluation.scoring import obeyed, right
from llmcausal.evaluation.statistics import proportion
from llmcausal.export import EXPORTERS
from llmcausal.export.artifact import HUB_ID, ExportOptions
from llmcausal.export.source import (
    AttackSuite,
    CheckpointParts,
    ExportSource,
    Figures,
    TrainingFacts,
)
from llmcausal.metrics import METRICS
from llmcausal.model.device import choose_device, choose_dtype
from llmcausal.model.factory import load_model, quiet_libraries, resolve_source
from llmcausal.model.lora import write_scaled
from llmcausal.profile import dump_config
from llmcausal.train.checkpoint import BEST, CONFIG, EXPORTED, PROJECTION, has_projection
from llmcausal.ui.console import status

ATTACKED_PROMPTS = 12
"""Number of attacked prompts that the trained and the exported model answer in the check."""

TEMPLATE = "training_template.jinja"
"""The file of `model.chat_template` in an exported folder."""

_log = logging.getLogger(__name__)
_FIGURES = tuple(metric.name for metric in METRICS if metric.everywhere)


@dataclass(frozen=True)
class ExportRequest:
    checkpoint: Path
    target: str
    out: Path
    options: ExportOptions = field(default_factory=ExportOptions)
    push_to: str | None = None  # repository on the hub, as OWNER/NAME
    trust_remote_code: bool = False
    scale: float = 1.0  # factor of the adapter's update


def export_checkpoint(request: ExportRequest) -> dict[str, Any]:
    """Exports a verified checkpoint and returns the report of the artifact's own check.

    Raises:
        CheckpointError: If the checkpoint is damaged or an export, or its template differs from
            this machine's.
        ConfigError: If there is no such target.
        UsageError: If `out` is not empty, a program is missing, or the hub refuses.
    """
    checkpoint, out, push_to = request.checkpoint, request.out, request.push_to
    exporter = EXPORTERS.load(request.target)
    if push_to is not None and not HUB_ID.fullmatch(push_to):
        raise UsageError(f"--push-to-hub {push_to}: give it as OWNER/NAME")
    if not math.isfinite(request.scale):
        raise UsageError(f"--lora-scale {request.scale}: give a number")
    config, manifest = read_checkpoint(checkpoint, request.trust_remote_code)
    if (exported := manifest.get(EXPORTED)) is not None:
        raise CheckpointError(
            f"{checkpoint}: an exported adapter has no facts of the training; export the run's own "
            f"checkpoint: {exported['run']}/{exported['checkpoint']}"
        )
    template = load_template(config.model)
    check_template(manifest, template, checkpoint)
    evaluations = _evaluations(checkpoint)
    for name, result in evaluations.items():
        with suppress(KeyError, TypeError):  # no verdict
            verdict = result["verdict"]
            if verdict["resists"] == "less":
                text = f"{verdict['text']} [{name}]"
                _log.warning("%s: by its own evaluation it %s", checkpoint, text)
    fetch_model(config.model)
    with (
        status(f"Exporting {checkpoint} as {request.target}"),
        quiet_libraries(),
        tempfile.TemporaryDirectory(prefix="llmcausal-") as scaled,
    ):
        facts = _training_facts(config, checkpoint, evaluations)
        if request.scale != 1:
            write_scaled(checkpoint, Path(scaled), request.scale)
            note = f"{request.scale:g} of the trained one, which all figures here are of"
            facts = replace(facts, settings={**facts.settings, "scale of the update": note})
        adapter = checkpoint if request.scale == 1 else Path(scaled)
        spans = manifest.get("spans") is True
        source = replace(
            _source(config, adapter, template, facts, spans=spans),
            parts=_parts(config, manifest, checkpoint, request.scale),
        )
        report: dict[str, Any] = exporter(source, out, request.options)
    report = {"written": str(out), "lora_scale": request.scale, **report}
    if push_to is not None:
        if request.target == "adapter" and Path(source.base_name).expanduser().is_dir():
            _log.warning(
                "%s: its files name the base model by this machine's folder %s, so nobody else can "
                "load it; train from a hub id, or export merged weights",
                out,
                source.base_for_consumers(),
            )
        with status(f"Uploading {out} to {push_to}"):
            report["uploaded"] = push_to_hub(out, push_to)
    return report


def push_to_hub(folder: Path, repository: str) -> str:
    """Uploads a folder and returns its address; a new repository is private."""
    api = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Export by llmcausal"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = first_line(error)
        raise UsageError(
            f"{repository}: cannot be uploaded: {reason}\n{folder} is complete. Log in with "
            f"`hf auth login`, then: hf upload {repository} {folder}"
        ) from error
    return str(address)


def _source(
    config: RunConfig, adapter: Path, template: ChatTemplate, facts: TrainingFacts, *, spans: bool
) -> ExportSource:
    # Merging and checking start from the weights as stored, mostly in 16 bits: 4-bit merges drift.
    # They run in host memory: a card that trained the model in 4 bits cannot hold it whole.
    section = config.model.model_copy(
        update={"device": "cpu", "precision": _precision(config.model)}
    )

    def load_base() -> PreTrainedModel:
        kept = "none" if source.nf4 is None else "nf4"
        return load_model(section.model_copy(update={"quantization": kept})).model

    source = ExportSource(
        adapter_dir=adapter,
        load_base=load_base,
        template=template,
        base_name=resolve_source(config.model),
        dtype=choose_dtype(section.precision, choose_device("cpu")),
        base_revision=config.model.revision,
        trust_remote_code=config.model.trust_remote_code,
        attacks=_attacks(config.data, config.evaluation, template),
        training=facts,
        spans=spans,
    )
    return source


def _parts(
    config: RunConfig, manifest: Mapping[str, Any], checkpoint: Path, scale: float
) -> CheckpointParts:
    """Returns the settings that a use of the model needs, without paths of data, and the detector.

    The chat template is among the files; `read_checkpoint` finds it there.

    The detector knows the states of the model that it was trained on: with another scale of the
    adapter's update there is none.
    """
    section = config.model
    folder, files = Path(section.name).expanduser(), dict[str, bytes]()
    if folder.is_dir():
        section = section.model_copy(update={"name": str(folder.resolve())})
    if section.chat_template is not None:
        files[TEMPLATE] = section.chat_template.expanduser().read_bytes()
        section = section.model_copy(update={"chat_template": Path(TEMPLATE)})
    needed = RunConfig(
        name=config.name,
        model=section,
        memory=config.memory,
        lora=config.lora,
        data=config.data.model_copy(
            update={"train": BUILTIN, "validation": "auto", "test": BUILTIN}
        ),
        loss=config.loss,
        validation=config.validation,
        evaluation=config.evaluation,
    )
    files[CONFIG] = dump_config(needed).encode()
    if not has_projection(checkpoint):
        detector = "none: the checkpoint has none"
    elif scale != 1:
        detector = "none: it was measured on the adapter's update at scale 1"
    else:
        found = calibration_of(checkpoint, config)
        detector = f"off: {found}" if isinstance(found, str) else "on"
        for name in (PROJECTION, CALIBRATION):
            if (checkpoint / name).is_file():
                files[name] = (checkpoint / name).read_bytes()
    facts = {name: fact for name, fact in manifest.items() if name != "files"}
    facts["config"] = hashlib.sha256(files[CONFIG]).hexdigest()
    facts[EXPORTED] = {
        "run": checkpoint.resolve().parent.name,
        "checkpoint": checkpoint.resolve().name,
        "lora_scale": scale,
        "own_test": config.data.test != BUILTIN,
    }
    return CheckpointParts(files, facts, detector)


def _precision(section: ModelSection) -> str:
    """Returns the run's precision, as bf16 instead of fp16: CPUs cannot compute in fp16."""
    precision = section.precision
    if precision == "auto":
        return "fp32" if choose_device(section.device).type == "cpu" else "bf16"
    return "bf16" if precision == "fp16" else precision


def _attacks(
    data: DataSection, evaluation: EvaluationSection, template: ChatTemplate
) -> AttackSuite | None:
    """Chooses attacked prompts of the run's test data, or built-in ones if it is unreadable."""
    try:
        suite = choose_suite(data, evaluation)
    except (DataError, UsageError):
        suite = choose_suite(data.model_copy(update={"test": BUILTIN}), evaluation, BUILTIN)

    def fits(triplet: Triplet) -> bool:
        prompt = template.encode_prompt(*triplet.prompt("injection"))
        return len(prompt) <= data.max_length

    attacked = [triplet for triplet in suite.triplets if obeyed(triplet, "") is not None]
    chosen = choose_triplets_to_probe(attacked, ATTACKED_PROMPTS, fits)
    if not chosen:
        return None

    def score(answers: Sequence[str]) -> Figures:
        pairs = list(zip(chosen, answers, strict=True))
        return {
            "attack_success_rate": proportion([obeyed(t, answer) for t, answer in pairs]),
            "utility_under_attack": proportion([right(t, answer) for t, answer in pairs]),
        }

    prompts = [triplet.prompt("injection") for triplet in chosen]
    return AttackSuite(prompts, evaluation.max_new_tokens, score)


def _evaluations(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Returns the results of this checkpoint by their folders in its run directory.

    The run's own result names no checkpoint: it is of `best`, if there is one.
    """
    run, name, found = checkpoint.resolve().parent, checkpoint.resolve().name, {}
    final = BEST if (run / BEST).is_dir() else name
    for path in sorted(run.glob(f"evaluation*/{RESULTS}")):
        # The report names a damaged result.
        with suppress(OSError, ValueError, TypeError, AttributeError):
            result = json.loads(path.read_text(encoding="utf-8"))
            if Path(result.get("checkpoint") or final).name == name:
                found[path.parent.name] = result
    return found


def _training_facts(
    config: RunConfig, checkpoint: Path, evaluations: Mapping[str, Mapping[str, Any]]
) -> TrainingFacts:
    data = Path(config.data.train)
    settings = {
        "training data": data.name if data.is_absolute() else config.data.train,
        "objective": f"{config.loss.contrastive}, lambda_contrastive "
        f"{config.loss.lambda_contrastive:g}, lambda_task {config.loss.lambda_task:g}, "
        f"lambda_robust {config.loss.lambda_robust:g}",
        "adapter": f"LoRA rank {config.lora.rank}, alpha {config.lora.alpha:g}, on "
        + ", ".join(config.lora.target_modules),
        "base weights while training": config.model.quantization,
        "learning rate": f"{config.train.learning_rate:g}",
        "epochs": f"{config.train.epochs:g}",
        "batch": str(config.train.batch_size * config.train.accumulation_steps),
        "longest input, tokens": str(config.data.max_length),
        "seed": str(config.train.seed),
    }
    for name in (f"evaluation-{checkpoint.resolve().name}", "evaluation"):
        with suppress(KeyError, TypeError):  # no such evaluation
            result = evaluations[name]
            sides = {side: _figures(result[side]) for side in ("base", "tuned")}
            return TrainingFacts(settings, str(result["suite"]), **sides)
    return TrainingFacts(settings)


def _figures(side: dict[str, Any] | None) -> Figures | None:
    return None if side is None else {name: side[name] for name in _FIGURES}
