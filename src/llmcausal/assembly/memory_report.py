"""`profile-memory`: reads the data if the tokenizer is on this machine, then predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmcausal.assembly.prepare import fetch_model, prepare_data, settle_precision
from llmcausal.config import RunConfig
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.diagnostics.inputs import is_stored
from llmcausal.memory.report import MemoryReport, MemoryRequest, with_strategy
from llmcausal.ui.console import status


def profile_memory(config: RunConfig, request: MemoryRequest) -> dict[str, Any]:
    """Predicts a training step and what fits, as plain values for JSON and `ui.memory_table`.

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
    return MemoryReport(config, request, triplets, status).values(rows_to_measure)
