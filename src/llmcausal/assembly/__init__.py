"""Puts the parts together: the only package that knows every one of them.

Each function is what one subcommand calls; nothing heavy is imported before it runs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcausal.assembly.training import TrainOutcome
    from llmcausal.config import RunConfig

# On import it warns that an optional CPU kernel is not installed; `doctor` tells what works.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def train(config: RunConfig, *, plain: bool = False, debug: bool = False) -> TrainOutcome:
    """Trains a fresh run; see `assembly.training.train`."""
    from llmcausal.assembly import training
    from llmcausal.model.device import out_of_memory_explained

    with out_of_memory_explained("outside a step"):
        return training.train(config, plain=plain, debug=debug)


def resume(target: Path, *, plain: bool = False, allow_changes: bool = False) -> TrainOutcome:
    """Goes on with a run; see `assembly.training.resume`."""
    from llmcausal.assembly import training
    from llmcausal.model.device import out_of_memory_explained

    with out_of_memory_explained("outside a step"):
        return training.resume(target, plain=plain, allow_changes=allow_changes)


def profile_memory(config: RunConfig, **request: Any) -> dict[str, Any]:
    """Predicts a step's memory; see `memory.report`, whose `MemoryRequest` it takes."""
    from llmcausal.assembly import memory_report
    from llmcausal.memory.report import MemoryRequest

    return memory_report.profile_memory(config, MemoryRequest(**request))


def evaluate(checkpoint: Path, **request: Any) -> dict[str, Any]:
    """Evaluates a checkpoint; see `assembly.evaluating`, whose `EvaluationRequest` it takes."""
    from llmcausal.assembly import evaluating
    from llmcausal.model.device import out_of_memory_explained

    with out_of_memory_explained("in the evaluation"):
        return evaluating.evaluate_checkpoint(evaluating.EvaluationRequest(checkpoint, **request))


def evaluate_endpoint(url: str, model: str, **request: Any) -> dict[str, Any]:
    """Evaluates a deployed model; see `assembly.endpoint`, whose `EndpointRequest` it takes."""
    from llmcausal.assembly import endpoint
    from llmcausal.model.device import out_of_memory_explained

    with out_of_memory_explained("in the evaluation"):
        return endpoint.evaluate_endpoint(endpoint.EndpointRequest(url, model, **request))


def serve(checkpoint: Path, **request: Any) -> None:
    """Serves a checkpoint; see `assembly.serving`, whose `ServeRequest` it takes."""
    from llmcausal.assembly import serving
    from llmcausal.model.device import out_of_memory_explained

    with out_of_memory_explained("in the server"):
        serving.serve_checkpoint(serving.ServeRequest(checkpoint, **request))


def export(
    checkpoint: Path,
    *,
    target: str,
    out: Path,
    trust_remote_code: bool = False,
    push_to: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Exports a checkpoint; see `assembly.exporting`, and `ExportOptions`, which it takes too."""
    from llmcausal.assembly import exporting
    from llmcausal.export.artifact import ExportOptions

    return exporting.export_checkpoint(
        checkpoint,
        target=target,
        out=out,
        trust_remote_code=trust_remote_code,
        options=ExportOptions(**options),
        push_to=push_to,
    )
