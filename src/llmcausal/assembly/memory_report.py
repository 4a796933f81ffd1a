"""`profile-memory`: reads the data if the tokenizer is on this machine, then predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmcausal.assembly.evaluating import choose_suite
from llmcausal.assembly.prepare import PreparedData, fetch_model, prepare_data, settle_precision
from llmcausal.config import RunConfig
from llmcausal.data.tokenization import EncodedTriplet, TripletEncoder
from llmcausal.diagnostics.inputs import is_stored
from llmcausal.errors import DataError
from llmcausal.evaluation.decoding import rehearse
from llmcausal.evaluation.evaluate import prompts_of
from llmcausal.evaluation.forward import encode
from llmcausal.memory.architecture import load_architecture
from llmcausal.memory.evaluation import (
    EvaluationLoad,
    EvaluationReport,
    unknown_load,
    with_share,
)
from llmcausal.memory.report import MemoryReport, MemoryRequest, with_strategy
from llmcausal.memory.workload import answer_load, data_workload
from llmcausal.ui.console import status


def profile_memory(config: RunConfig, request: MemoryRequest) -> dict[str, Any]:
    """Predicts a training step, or an evaluation, and what fits.

    Returns:
        Plain values for JSON and `ui.memory_table`.

    Raises:
        UsageError: If the strategy is unknown.
        ModelError: If the architecture is unknown and cannot be fetched.
    """
    config = with_strategy(config, request.strategy)
    if config.model.device == "cpu" and request.vram_gb is None:  # it predicts for this machine
        config, _ = settle_precision(config)
    data = prepare_data(config, answer=False) if is_stored(config.model) else None

    def rows_to_measure() -> Sequence[EncodedTriplet]:
        found = data or prepare_data(config, answer=False)
        fetch_model(config.model)
        return found.train

    triplets = data.train if data else None
    report = MemoryReport(config, request, triplets, status)
    if not request.evaluation:
        return report.values(rows_to_measure)
    if data is not None and request.seq_len is None:
        load = _texts(config, data)
    else:
        load = unknown_load(config, request)
    if request.shared is not None:
        load = with_share(load, request.shared)
    return EvaluationReport(report, load, rehearse, status).values()


def _texts(config: RunConfig, data: PreparedData) -> EvaluationLoad:
    """Measures the texts of the profile's suite."""
    suite = choose_suite(config.data, config.evaluation)
    encoded = [data.template.encode_prompt(*pair) for pair in prompts_of(suite.triplets)]
    context = getattr(load_architecture(config.model), "max_position_embeddings", None)
    most = math.inf if context is None else context - config.evaluation.max_new_tokens
    prompts = [prompt for prompt in encoded if len(prompt) <= most]
    if not prompts:
        raise DataError([], f"{suite.name}: every prompt exceeds the model's context of {context}")
    readable, _ = encode(TripletEncoder(data.template, config.data.max_length), suite.triplets)
    if not readable:
        raise DataError([], f"data.max_length: no triplet of {suite.name} is that short")
    train = config.train.model_copy(update={"batch_size": config.validation.batch_size})
    reading = data_workload(
        config.model_copy(update={"train": train}), [each.encoded for each in readable]
    )
    source = f"the longest of {len(prompts)} prompts of {suite.name}"
    return EvaluationLoad(answer_load(config.evaluation, prompts), reading, source)
