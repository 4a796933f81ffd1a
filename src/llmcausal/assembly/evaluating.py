"""`eval`: a checkpoint against the untouched base, in generated text and in representations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmcausal.assembly import run_directory
from llmcausal.assembly.build import build_step
from llmcausal.assembly.prepare import load_template
from llmcausal.config import RunConfig
from llmcausal.data.splits import BUILTIN
from llmcausal.data.template import ChatTemplate
from llmcausal.data.tokenization import TripletEncoder
from llmcausal.data.triplet import Triplet
from llmcausal.errors import CheckpointError, UsageError
from llmcausal.evaluation.causal import causal_evaluation
from llmcausal.evaluation.evaluate import evaluate
from llmcausal.evaluation.generation import without_adapter
from llmcausal.evaluation.results import write_results
from llmcausal.evaluation.suites import SUITES
from llmcausal.model.factory import load_model
from llmcausal.model.lora import add_lora
from llmcausal.profile import load_config
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
    trust_remote_code: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """Evaluates a verified checkpoint and writes the result beside it, to `evaluation-<name>`.

    Args:
        checkpoint: Checkpoint folder.
        data: A triplet file, or `builtin`; None takes `data.test` of the run.
        suite: Name of a suite; None takes `evaluation.suite` of the run.
        baseline: Also evaluate the untouched base, on the same prompts.
        trust_remote_code: Run code that comes with the model; the checkpoint's own word for it
            does not count.
        progress: Told (done, total) over the generated answers.

    Raises:
        CheckpointError: If the checkpoint is damaged, or its template is not the one at hand.
        UsageError: If `data` and `suite` contradict one another.
    """
    manifest = verify(checkpoint)
    config = load_config(checkpoint / CONFIG)
    config = without_code(config, trust_remote_code)
    if data is not None:
        section = config.data.model_copy(update={"test": data})
        config = config.model_copy(update={"data": section})
    triplets = choose_triplets(config, suite)
    with status("Loading the model"):
        loaded = load_model(config.model)
        template = load_template(config, loaded.tokenizer)
        check_template(manifest, template, checkpoint)
        model = add_lora(loaded.model, config.lora, config.train.seed)
        step = build_step(config, loaded, model, trained=False)
        restore_weights(checkpoint, model, step.objective.projection)
    result = evaluate_model(
        config, model, template, triplets, step=step, baseline=baseline, progress=progress
    )
    result["checkpoint"] = str(checkpoint)
    folder = checkpoint.resolve().parent / f"evaluation-{checkpoint.resolve().name}"
    write_results(result, folder)
    result["written"] = str(folder)
    return result


def choose_triplets(config: RunConfig, suite: str | None = None) -> list[Triplet]:
    """Returns the test triplets of a suite; a file in `data.test` asks for the suite `file`.

    Raises:
        UsageError: If the built-in suite is asked for beside a file.
    """
    on_file = config.data.test != BUILTIN
    if suite == BUILTIN and on_file:
        raise UsageError(
            f"suite 'builtin' does not read {config.data.test}: leave out --suite, or give "
            "--data builtin"
        )
    configured = config.evaluation.suite
    name = suite or ("file" if on_file and configured == BUILTIN else configured)
    triplets: list[Triplet] = SUITES.load(name)(config.data)
    return triplets


def check_template(manifest: dict[str, Any], template: ChatTemplate, checkpoint: Path) -> None:
    """Refuses to use a checkpoint with another prompt rendering than it was trained with.

    Raises:
        CheckpointError: If chat template or tokenizer differ.
    """
    if manifest["template"] != template.fingerprint:
        raise CheckpointError(
            f"{checkpoint}: chat template or tokenizer is not the one of the training, so the "
            "defence would not hold; restore model.chat_template or model.revision"
        )


def without_code(config: RunConfig, trust_remote_code: bool) -> RunConfig:
    """Returns the config with `trust_remote_code` as the user, not the file, says."""
    model = config.model.model_copy(update={"trust_remote_code": trust_remote_code})
    return config.model_copy(update={"model": model})


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
