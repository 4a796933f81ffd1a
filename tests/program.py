"""The commands' workflows as functions: each makes the request that the command line makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmcausal.config import RunConfig


def train(config: RunConfig, **options: Any) -> Any:
    from llmcausal.assembly.training import TrainRequest, train

    return train(TrainRequest(config, **options))


def resume(target: Path, **options: Any) -> Any:
    from llmcausal.assembly.training import ResumeRequest, resume

    return resume(ResumeRequest(target, **options))


def evaluate(checkpoint: Path, **options: Any) -> dict[str, Any]:
    from llmcausal.assembly.evaluating import EvaluationRequest, evaluate_checkpoint

    return evaluate_checkpoint(EvaluationRequest(checkpoint, **options))


def evaluate_endpoint(url: str, model: str, **options: Any) -> dict[str, Any]:
    from llmcausal.assembly.endpoint import EndpointRequest, evaluate_endpoint

    return evaluate_endpoint(EndpointRequest(url, model, **options))


def serve(checkpoint: Path, **options: Any) -> None:
    from llmcausal.assembly.serving import ServeRequest, serve

    serve(ServeRequest(checkpoint, **options))


def export(checkpoint: Path, *, target: str, out: Path, **options: Any) -> dict[str, Any]:
    from llmcausal.assembly.exporting import ExportRequest, export_checkpoint

    return export_checkpoint(ExportRequest(checkpoint, target, out, **options))


def ablate(profile: str, vary: list[str], **options: Any) -> dict[str, Any]:
    from llmcausal.assembly.ablation import AblationRequest, ablate

    return ablate(AblationRequest(profile, vary, **options))
