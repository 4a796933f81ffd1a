"""One steady-state step of a fake model, written down as a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import transformers.masking_utils
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cosine_similarity, cross_entropy

from llmcausal.config import LossSection
from llmcausal.memory.fake_model import FakeShards, Shape, build_meta_model, layer_of, materialize
from llmcausal.memory.made_up import triplets_of
from llmcausal.memory.optimizer_states import states_of
from llmcausal.memory.prediction import Workload
from llmcausal.memory.trace import Allocation, Trace
from llmcausal.memory.tracker import AllocationTracker
from llmcausal.model import token_chunks
from llmcausal.model.placement import layer_stack
from llmcausal.model.trunk import take_apart
from llmcausal.train.batch import Span, TripletBatch, collate, label_totals
from llmcausal.train.build import build_execution, build_objective, set_memory
from llmcausal.train.step import TripletStep


class NaiveStep:
    """Three full forward passes with logits at every position, and one backward pass.

    The model is as peft's k-bit preparation leaves it: what is not quantized is fp32, and layers
    are recomputed if others are. Benchmarks run the same for real (`benchmarks/memory.py`).

    Args:
        model: A `PeftModel`.
        objective: Its projection head is used.
        dtype: Compute dtype, for autocast.
    """

    def __init__(self, model: Any, objective: Any, dtype: torch.dtype) -> None:
        self.model = model
        self.objective = objective
        self.dtype = dtype
        if getattr(model.get_base_model(), "is_loaded_in_4bit", False):
            model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})

    def __call__(
        self, batch: TripletBatch, totals: Mapping[str, int], backward: Callable[[Tensor], None]
    ) -> None:
        """Runs the batch's triplets, one after another."""
        device = batch.tokens.device.type
        for row in range(len(batch)):
            spans = [span for span in batch.spans if span.triplet == row]
            with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
                passes = [self._member(span) for span in spans]
                losses = [loss for loss, _ in passes if loss is not None]
                rows = [pooled for _, pooled in passes]
                losses += [cosine_similarity(rows[0], other, dim=-1) for other in rows[1:]]
            backward(torch.stack(losses).sum())

    def label_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the cross-entropy of one member."""
        return cross_entropy(logits, labels)

    def _member(self, span: Span) -> tuple[Tensor | None, Tensor]:
        ids = span.tokens[None]
        output = self.model(input_ids=ids, output_hidden_states=True)
        loss = None
        if span.term:
            logits = output.logits[:, :-1].flatten(0, 1)
            loss = self.label_losses(logits, ids.clone()[:, 1:].flatten())
        pooled = output.hidden_states[-1][0, : span.prompt_length].mean(0)
        projection = self.objective.projection
        return loss, pooled if projection is None else projection(pooled)


CUBLAS_WORKSPACE_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024
"""What torch gives cuBLAS by default (`CUBLAS_WORKSPACE_CONFIG` is `:4096:2:16:8`)."""

CHUNKS_RUN = 3
"""Chunks of tokens that are run of a module, however many there are."""


def trace_step(
    shape: Shape, workload: Workload, device: torch.device
) -> tuple[Trace, dict[str, nn.Parameter]]:
    """Runs the production step on a fake model.

    The optimizer's states are there, and where a step accumulates over micro-batches so are the
    gradients: it is the last micro-batch of any step but the first.

    Args:
        shape: The model.
        workload: The micro-batch.
        device: `cpu`, or the simulated device, which must be in use.

    Returns:
        What was allocated and freed, and the trained parameters, by name.
    """
    model = build_meta_model(shape)
    tracker = AllocationTracker(device.type, shape.gpu)
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_maskless())
        stack.enter_context(_few_chunks())
        materialize(model, shape, device, tracker)
        if device.type != "cpu":
            workspace = Allocation(CUBLAS_WORKSPACE_BYTES, "misc", "cuBLAS workspace", "weights")
            tracker.trace.allocate(workspace)
        base: Any = model.get_base_model()
        decoder = base.get_decoder()
        layers = list(layer_stack(decoder, shape.layers))
        shards = None
        if shape.config.memory.shards > 1 and not shape.naive:
            shards = FakeShards(layers, shape.config.memory.shards, device, tracker)
        step, heads = _build_step(shape, model, device, tracker)
        trained = _trained(model, heads)
        for name, parameter in trained.items():
            _hold_states(shape, name, parameter, tracker)
        batch = _batch(step.objective, shape.config.loss, workload, device)
        model.train()
        with tracker, _random_states_noted(tracker):
            _mark_layers(layers, tracker)
            if shards is not None:
                shards.watch(decoder)
            _run(step, batch, tracker)
            if shards is not None:
                shards.end()
            del batch
    return tracker.trace, trained


def _build_step(
    shape: Shape, model: Any, device: torch.device, tracker: AllocationTracker
) -> tuple[Any, list[nn.Module]]:
    config = shape.config
    if not shape.naive:
        set_memory(model, config.memory, device)
    trunk = take_apart(model)
    objective = build_objective(config.loss, trunk.head.shape[1], config.train, trained=True)
    heads = objective.modules
    for head in heads:
        for module in head.modules():
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    fake = nn.Parameter(torch.empty_like(parameter, device=device))
                    tracker.register(fake, "adapters", "projection head")
                    module._parameters[key] = fake
    if shape.naive:
        return NaiveStep(model, objective, shape.dtype), heads
    return TripletStep(trunk, objective, build_execution(config.memory, shape.dtype)), heads


def _trained(model: nn.Module, heads: list[nn.Module]) -> dict[str, nn.Parameter]:
    named = dict(model.named_parameters())
    for number, head in enumerate(heads):
        named |= {f"head{number}.{name}": each for name, each in head.named_parameters()}
    return {name: each for name, each in named.items() if each.requires_grad}


def _hold_states(
    shape: Shape, name: str, parameter: nn.Parameter, tracker: AllocationTracker
) -> None:
    config = shape.config
    layer = layer_of(name)
    if layer is not None:
        tracker.trace.mark("states", layer)
    else:
        tracker.trace.mark("states of the rest", 0)
    width, numbers = parameter.dtype.itemsize, parameter.numel()
    pages = shape.gpu is not None and shape.gpu.pages
    states = states_of(config.train.optimizer, numbers, width, pages=pages)
    for host, sizes in ((False, states.device), (True, states.host)):
        for size in sizes:
            what = "optimizer states"
            tracker.trace.allocate(Allocation(size, "optimizer", what, "weights", host=host))
    if config.train.accumulation_steps > 1:
        parameter.grad = torch.empty_like(parameter)
        tracker.register(parameter.grad, "gradients", "gradient")

    def keep(trained: Tensor) -> None:
        assert trained.grad is not None
        tracker.register(trained.grad, "gradients", "gradient")

    parameter.register_post_accumulate_grad_hook(keep)


def _batch(
    objective: Any, section: LossSection, workload: Workload, device: torch.device
) -> TripletBatch:
    batch = collate(triplets_of(workload), objective.needs, section.pooling)

    def fake(real: Tensor) -> Tensor:
        return torch.empty(real.shape, dtype=real.dtype, device=device)

    return batch.map_tensors(fake)


def _mark_layers(layers: Sequence[nn.Module], tracker: AllocationTracker) -> None:
    for number, layer in enumerate(layers):

        def entered(_module: nn.Module, _inputs: Any, number: int = number) -> None:
            tracker.trace.mark("forward", number)

        def left(_module: nn.Module, _inputs: Any, output: Any, number: int = number) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            if hidden.requires_grad:
                hidden.register_hook(lambda _: tracker.trace.mark("backward", number))

        layer.register_forward_pre_hook(entered)
        layer.register_forward_hook(left)


def _run(step: Any, batch: TripletBatch, tracker: AllocationTracker) -> None:
    tracker.phase = "forward"
    plain: Callable[..., Any] = step.label_losses

    def label_losses(*args: Any) -> Any:
        with tracker.during("loss"):
            return plain(*args)

    def backward(loss: Tensor) -> None:
        with tracker.during("backward"):
            loss.backward()

    step.label_losses = label_losses
    step(batch, label_totals([batch]), backward)
    tracker.phase = "optimizer"


@contextmanager
def _maskless() -> Iterator[None]:
    """Makes transformers decide on masks for fake tensors as it does for real ones.

    It takes them for the sign of an export and then builds every mask in full. What it would ask
    of the positions (several sequences in one row) is known: there is one.
    """
    utils = transformers.masking_utils
    with (
        patch.object(utils, "is_tracing", lambda *_: False),
        patch.object(utils, "find_packed_sequence_indices", lambda *_: None),
    ):
        yield


@contextmanager
def _few_chunks() -> Iterator[None]:
    """Runs the first three chunks of tokens: the others do as the third.

    The second adds gradients to those of the first, the third while those of the second are still
    alive; no other finds more than it did. So the peak is the same, and a prediction takes about
    the same time at every length.
    """
    whole = token_chunks.parts_of

    def few(rows: Tensor, count: int) -> tuple[Tensor, ...]:
        return whole(rows, count)[:CHUNKS_RUN]

    with patch.object(token_chunks, "parts_of", few):
        yield


@contextmanager
def _random_states_noted(tracker: AllocationTracker) -> Iterator[None]:
    """Notes what every recomputation saves of the host's random state; no operation makes it."""
    plain = torch.get_rng_state

    def noted() -> Tensor:
        state = plain()
        tracker.register(state, "misc", "random state")
        return state

    with patch.object(torch, "get_rng_state", noted):
        yield
