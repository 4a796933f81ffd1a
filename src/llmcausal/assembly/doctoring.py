"""`doctor`: gathers facts on the machine and predictions, then runs the checks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.diagnostics import Watch, diagnose
from llmcausal.diagnostics.check import DoctorCheck, Facts, ModelSize, ProfileNeed, StrategyNeed
from llmcausal.diagnostics.inputs import is_stored
from llmcausal.diagnostics.machine import look_at_machine
from llmcausal.errors import LlmcausalError
from llmcausal.memory.architecture import (
    SAME_SHAPE,
    adapter_numbers,
    describe,
    empty_model,
    shipped_architectures,
    shipped_needs,
    states_of,
)

OTHER_BYTES = 20 * 2**20
"""A checkpoint's tokenizer and small files; Llama 3.1's tokenizer.json is the largest."""


def examine(config: RunConfig, watch: Watch) -> Iterator[DoctorCheck]:
    with watch("Looking at this machine"):
        machine = look_at_machine()
    kept = shipped_needs()
    shipped = {name: _need(name, values, machine.windows_driver) for name, values in kept.items()}
    wanted = describe(config)
    same = (name for name, values in kept.items() if values.items() >= wanted.items())
    own = shipped.get(next(same, ""))
    size = cache(lambda: model_size(config))
    yield from diagnose(Facts(config, machine, tuple(shipped.values()), own, size), watch)


def _need(name: str, values: dict[str, Any], stays_on_gpu: bool) -> ProfileNeed:
    paged = values["paged_bytes"] if stays_on_gpu else 0
    strategies = tuple(
        StrategyNeed(each["name"], each["needed_bytes"] + paged, each["host_bytes"] - paged)
        for each in values["strategies"]
    )
    return ProfileNeed(name, values["model"], values["tokens"], strategies)


def model_size(config: RunConfig) -> ModelSize | None:
    """Computes the sizes of a model and its checkpoint, if its shape is on this machine."""
    from llmcausal.train.build import learns_detector

    section, loss = config.model, config.loss
    try:
        known = SAME_SHAPE.get(section.name, section.name) in shipped_architectures()
        if not known and not is_stored(section):
            return None
        model = empty_model(config.model)
        adapters = adapter_numbers(model, config.lora)
        width = model.config.get_text_config().hidden_size
        hidden, out = loss.projection_hidden_dim, loss.projection_dim
        head = [width * hidden, hidden, hidden * out, out] if out else []
        # The trained numbers as fp32, and their optimizer states, on whichever device they are.
        trained = 4 * sum((*adapters, *head))
        in_steps = adapters if learns_detector(loss) else adapters + head
        optimizer = config.train.optimizer
        states = (states_of(optimizer, numbers, 4, pages=False) for numbers in in_steps)
        held = sum(sum(state.device) for state in states)
    except LlmcausalError:
        return None
    return ModelSize(model.num_parameters(), trained + held + OTHER_BYTES)
