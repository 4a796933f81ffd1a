"""`export`: a checkpoint as what people deploy."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from llmcausal.assembly.evaluating import (
    check_template,
    choose_triplets,
    suite_name,
    without_code,
)
from llmcausal.assembly.fetching import fetch_model
from llmcausal.assembly.prepare import load_template
from llmcausal.config import DataSection, EvaluationSection, ModelSection, RunConfig
from llmcausal.data.splits import BUILTIN
from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import Triplet
from llmcausal.errors import DataError, UsageError
from llmcausal.evaluation.probe import choose_triplets_to_probe
from llmcausal.evaluation.results import RESULTS
from llmcausal.evaluation.scoring import obeyed, right
from llmcausal.evaluation.statistics import proportion
from llmcausal.export import EXPORTERS
from llmcausal.export.artifact import ExportOptions
from llmcausal.export.hub import check_repository, push_to_hub
from llmcausal.export.source import AttackSuite, ExportSource, Figures, TrainingFacts
from llmcausal.metrics import METRICS
from llmcausal.model.device import choose_device, choose_dtype
from llmcausal.model.factory import load_model, quiet_libraries, resolve_source
from llmcausal.profile import load_config
from llmcausal.train.checkpoint import CONFIG, verify
from llmcausal.ui.console import status

ATTACKED_PROMPTS = 12
"""Attacked prompts that the trained and the exported model answer in the check."""

_log = logging.getLogger(__name__)
_FIGURES = tuple(metric.name for metric in METRICS if metric.everywhere)


def export_checkpoint(
    checkpoint: Path,
    *,
    target: str,
    out: Path,
    trust_remote_code: bool,
    options: ExportOptions,
    push_to: str | None = None,
) -> dict[str, Any]:
    """Exports a verified checkpoint and returns the report of the artifact's own check.

    Args:
        checkpoint: Checkpoint folder.
        target: Name of an exporter.
        out: New folder for the artifact.
        trust_remote_code: Run code that comes with the model.
        options: What the exporter is asked for.
        push_to: Repository on the hub (OWNER/NAME) to upload the result to.

    Raises:
        CheckpointError: If the checkpoint is damaged, or its template is not the one at hand.
        ConfigError: If there is no such target.
        UsageError: If `out` is not empty, a program is missing, or the hub refuses.
    """
    exporter = EXPORTERS.load(target)
    if push_to is not None:
        check_repository(push_to)
    manifest = verify(checkpoint)
    config = without_code(load_config(checkpoint / CONFIG), trust_remote_code)
    template = load_template(config.model)
    check_template(manifest, template, checkpoint)
    for text in _failed_verdicts(checkpoint):
        _log.warning("%s: by its own evaluation it %s", checkpoint, text)
    fetch_model(config.model)
    with status(f"Exporting {checkpoint} as {target}"), quiet_libraries():
        source = _source(config, checkpoint, template)
        report: dict[str, Any] = exporter(source, out, options)
    report = {"written": str(out), **report}
    if push_to is not None:
        with status(f"Uploading {out} to {push_to}"):
            report["uploaded"] = push_to_hub(out, push_to)
    return report


def _failed_verdicts(checkpoint: Path) -> list[str]:
    """Returns what evaluations beside a checkpoint say, where they say that it resists less."""
    found = []
    for path in sorted(checkpoint.resolve().parent.glob(f"evaluation*/{RESULTS}")):
        try:
            verdict = json.loads(path.read_text(encoding="utf-8"))["verdict"]
            if verdict["resists"] == "less":
                found.append(f"{verdict['text']} [{path.parent.name}]")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no verdict; a damaged result is the report's concern
    return found


def _source(config: RunConfig, checkpoint: Path, template: ChatTemplate) -> ExportSource:
    # Merging and checking start from the 16-bit or 32-bit weights, since 4-bit merges drift, and
    # in host memory: on the card that trained it in 4 bit the whole model does not fit.
    section = config.model.model_copy(
        update={"quantization": "none", "device": "cpu", "precision": _precision(config.model)}
    )

    def load_base() -> PreTrainedModel:
        return load_model(section).model

    return ExportSource(
        adapter_dir=checkpoint,
        load_base=load_base,
        template=template,
        base_name=resolve_source(config.model),
        dtype=choose_dtype(section.precision, choose_device("cpu")),
        base_revision=config.model.revision,
        trust_remote_code=config.model.trust_remote_code,
        attacks=_attacks(config.data, config.evaluation, template),
        training=_training_facts(config, checkpoint),
    )


def _precision(section: ModelSection) -> str:
    """Half precision in host memory is bf16: CPUs compute no fp16."""
    precision = section.precision
    if precision == "auto":
        return "fp32" if choose_device(section.device).type == "cpu" else "bf16"
    return "bf16" if precision == "fp16" else precision


def _attacks(
    data: DataSection, evaluation: EvaluationSection, template: ChatTemplate
) -> AttackSuite | None:
    """Chooses attacked prompts of the run's test data; built-in ones where it cannot be read."""
    try:
        triplets = choose_triplets(data, suite_name(data, evaluation))
    except (DataError, UsageError):
        triplets = choose_triplets(data.model_copy(update={"test": BUILTIN}), BUILTIN)

    def fits(triplet: Triplet) -> bool:
        prompt = template.encode_prompt(triplet.system, triplet.user_text("injection"))
        return len(prompt) <= data.max_length

    tried = triplets[: evaluation.max_samples]
    attacked = [triplet for triplet in tried if obeyed(triplet, "") is not None]
    chosen = choose_triplets_to_probe(attacked, ATTACKED_PROMPTS, fits)
    if not chosen:
        return None

    def score(answers: Sequence[str]) -> Figures:
        pairs = list(zip(chosen, answers, strict=True))
        return {
            "attack_success_rate": proportion([obeyed(t, answer) for t, answer in pairs]),
            "utility_under_attack": proportion([right(t, answer) for t, answer in pairs]),
        }

    prompts = [(triplet.system, triplet.user_text("injection")) for triplet in chosen]
    return AttackSuite(prompts, evaluation.max_new_tokens, score)


def _training_facts(config: RunConfig, checkpoint: Path) -> TrainingFacts:
    settings = {
        "training data": config.data.train,
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
    run = checkpoint.resolve().parent
    for name in (f"evaluation-{checkpoint.name}", "evaluation"):
        try:
            result = json.loads((run / name / RESULTS).read_text(encoding="utf-8"))
            sides = {side: _figures(result[side]) for side in ("base", "tuned")}
            return TrainingFacts(settings, str(result["suite"]), **sides)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no evaluation there; a damaged one is the report's concern
    return TrainingFacts(settings)


def _figures(side: dict[str, Any] | None) -> Figures | None:
    return None if side is None else {name: side[name] for name in _FIGURES}
