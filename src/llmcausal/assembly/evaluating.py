"""`eval`: a checkpoint against the untouched base, in generated text and in representations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmcausal.assembly import run_directory
from llmcausal.assembly.build import build_step, load_template
from llmcausal.config import RunConfig, load_config
from llmcausal.data.template import ChatTemplate
from llmcausal.data.tokenization import TripletEncoder
from llmcausal.data.triplet import Triplet
from llmcausal.evaluation.causal import causal_evaluation
from llmcausal.evaluation.evaluate import evaluate
from llmcausal.evaluation.generation import without_adapter
from llmcausal.evaluation.results import write_results
from llmcausal.evaluation.suites import SUITES
from llmcausal.model.factory import load_model
from llmcausal.model.lora import add_lora
from llmcausal.train.checkpoint import verify
from llmcausal.train.snapshot import CONFIG, restore_weights
from llmcausal.train.step import TripletStep
from llmcausal.ui.console import stderr_progress
from llmcausal.ui.status import status

Progress = Callable[[int, int], None]


def evaluate_checkpoint(
    checkpoint: Path,
    *,
    data: str | None,
    suite: str | None,
    baseline: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """Evaluates a verified checkpoint and writes the result to `evaluation/` inside it.

    Args:
        checkpoint: Checkpoint folder.
        data: A triplet file, or `builtin`; None takes `data.test` of the run.
        suite: Name of a suite; None takes `evaluation.suite` of the run.
        baseline: Also evaluate the untouched base, on the same prompts.
        progress: Told (done, total) over the generated answers.

    Raises:
        CheckpointError: If the checkpoint is damaged.
    """
    verify(checkpoint)
    config = load_config(checkpoint / CONFIG)
    if data is not None:
        section = config.data.model_copy(update={"test": data})
        config = config.model_copy(update={"data": section})
    name = suite or (config.evaluation.suite if config.data.test == "builtin" else "file")
    triplets: list[Triplet] = SUITES.load(name)(config.data)
    with status("Loading the model"):
        loaded = load_model(config.model)
        model = add_lora(loaded.model, config.lora, config.train.seed)
        step, _ = build_step(config, loaded, model)
        restore_weights(checkpoint, model, step.objective.projection)
        template = load_template(config, loaded.tokenizer)
    result = evaluate_model(
        config, model, template, triplets, step=step, baseline=baseline, progress=progress
    )
    result["checkpoint"] = str(checkpoint)
    write_results(result, checkpoint.parent / f"evaluation-{checkpoint.name}")
    return result


def evaluate_model(
    config: RunConfig,
    model: Any,
    template: ChatTemplate,
    triplets: Sequence[Triplet],
    *,
    step: TripletStep,
    baseline: bool,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates a model in memory: generated answers, then causal metrics."""
    if config.evaluation.max_samples is not None:
        triplets = triplets[: config.evaluation.max_samples]
    section = config.evaluation
    result = evaluate(
        model,
        template,
        triplets,
        max_new_tokens=section.max_new_tokens,
        batch_size=section.batch_size,
        baseline=baseline,
        progress=progress or stderr_progress,
    )
    encoder = TripletEncoder(template, config.data.max_length)
    encoded = [triplet for t in triplets if (triplet := encoder.encode(t)) is not None]
    model.eval()

    def causal(projected: bool) -> dict[str, Any]:
        return causal_evaluation(
            step,
            encoded,
            pooling=config.loss.pooling,
            batch_size=config.validation.batch_size,
            projected=projected,
        )

    result["tuned"]["causal"] = causal(step.objective.projection is not None)
    if result["base"] is not None:
        with without_adapter(model):
            result["base"]["causal"] = causal(False)
    result["environment"] = run_directory.environment()
    return result
