"""`profile-memory`: reads the data if the tokenizer is on this machine, then predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmcausal.assembly.evaluating import choose_suite
from llmcausal.assembly.prepare import PreparedData, fetch_model, prepare_data, settle_precision
from llmcausal.config import RunConfig
from llmcausal.data.tokenization import EncodedTriplet, TripletEncoder
from llmcausal.diagnostics.inputs import is_stored
from llmcausal.evaluation.decoding import rehearse
from llmcausal.evaluation.evaluate import answerable, encoding_once, prompts_of
from llmcausal.evaluation.forward import encode
from llmcausal.memory.architecture import load_architecture
from llmcausal.memory.evaluation import EvaluationLoad, EvaluationReport, unknown_load, with_share
from llmcausal.memory.report import MemoryReport, MemoryRequest, with_strategy
from llmcausal.memory.workload import READ, answer_load, data_workload
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
    if not request.evaluation:
        return MemoryReport(config, request, triplets, status).values(rows_to_measure)
    if data is not None and request.seq_len is None:
        load = _texts(config, data)
    else:
        load = unknown_load(config, request)
    if request.shared is not None:
        load = with_share(load, request.shared)
    # The lengths of --seq-len and --shared are the evaluation's; training has those of its data.
    training = MemoryReport(config, replace(request, seq_len=None, shared=None), triplets, status)
    return EvaluationReport(training, load, rehearse, status).values()


def _texts(config: RunConfig, data: PreparedData) -> EvaluationLoad:
    """Measures the texts of the profile's suite that an evaluation would use."""
    suite, section = choose_suite(config.data, config.evaluation), config.evaluation
    template = encoding_once(data.template)
    context = getattr(load_architecture(config.model), "max_position_embeddings", None)
    usable, _ = answerable(template, suite.triplets, section.max_new_tokens, context)
    prompts = [template.encode_prompt(*pair) for pair in prompts_of(usable)]
    source = f"the longest of {len(prompts)} prompts of {suite.name}"
    readable, _ = encode(TripletEncoder(data.template, config.data.max_length), usable)
    reading = None
    if readable:
        train = config.train.model_copy(update={"batch_size": config.validation.batch_size})
        alike = config.model_copy(update={"train": train})
        reading = data_workload(alike, [each.encoded for each in readable], READ)
    else:
        source += ", of which none is read whole: data.max_length"
    return EvaluationLoad(answer_load(section, prompts), reading, source)
