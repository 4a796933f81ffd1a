"""The production step, and an evaluation's passes, on fake tensors: the engine of predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any
from unittest.mock import patch

import torch
import transformers.masking_utils
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cosine_similarity, cross_entropy

from llmcausal.config import LossSection, RunConfig
from llmcausal.memory.architecture import (
    layer_count,
    layer_of,
    load_architecture,
    states_of,
    temporary_bytes,
)
from llmcausal.memory.prediction import (
    CONTEXT_BYTES,
    NAIVE,
    AnswerLoad,
    GpuTraits,
    Prediction,
    Rehearsal,
    Workload,
    kept_of,
    switches_of,
)
from llmcausal.memory.simulation.device import AllocationTracker, simulated_device
from llmcausal.memory.simulation.model import (
    FakeShards,
    Shape,
    build_meta_model,
    materialize,
    watch_layers,
)
from llmcausal.memory.simulation.trace import (
    REAL_LAYERS,
    Allocation,
    Trace,
    extended,
    replay,
    shallower,
)
from llmcausal.memory.workload import READ
from llmcausal.model import token_chunks
from llmcausal.model.device import expected_dtype
from llmcausal.model.placement import base_model, layer_stack
from llmcausal.model.prequantized import skips_layers, stored_quantization
from llmcausal.model.trunk import check_layer, take_apart
from llmcausal.train.batch import Needs, Span, TripletBatch, collate, label_totals
from llmcausal.train.build import build_execution, build_objective, needs_of, set_memory
from llmcausal.train.step import TripletStep


def run(config: RunConfig, workload: Workload, gpu: GpuTraits | None, strategy: str) -> Prediction:
    """Predicts like `memory.prediction.predict`, in this process; no GPU means the CPU."""
    layers = layer_count(config.model)
    check_layer(layers, config.loss.layer)
    kept = _kept(config, strategy, layers)

    def traced(some: int) -> Trace:
        few = kept if some == layers else min(kept, REAL_LAYERS)
        memory = config.memory.model_copy(update={"kept_layers": few})
        shallow = config.model_copy(update={"memory": memory})
        if few < REAL_LAYERS or some == layers:
            return _traced(shallow, workload, gpu, strategy, some, layers)
        return _traced_once(shallow.model_dump_json(), workload, gpu, strategy, some, layers)

    return _predicted_by(traced, config, needs_of(config.loss), workload, gpu, strategy)


@lru_cache(maxsize=4)
def _traced_once(settings: str, *arguments: Any) -> Trace:
    """Remembers a trace: it serves every larger number of kept layers."""
    return _traced(RunConfig.model_validate_json(settings), *arguments)


def _predicted_by(
    traced: Callable[[int], Trace],
    config: RunConfig,
    needs: Needs,
    workload: Workload | AnswerLoad,
    gpu: GpuTraits | None,
    strategy: str,
) -> Prediction:
    """Predicts from a trace of few layers where these stand for the others, else of all."""
    started = time.perf_counter()
    layers = layer_count(config.model)
    kept = _kept(config, strategy, layers)
    trace = None
    few = shallower(layers, kept)
    if layers_are_alike(config, needs) and few < layers:
        trace = extended(traced(few), layers, kept)
    extrapolated = trace is not None
    trace = trace or traced(layers)
    return Prediction(
        architecture=config.model.name,
        device="cuda" if gpu else "cpu",
        strategy=strategy,
        switches={} if strategy == NAIVE else switches_of(config.memory),
        workload=workload,
        **replay(trace, caching=gpu is not None),
        context_bytes=CONTEXT_BYTES if gpu else 0,
        extrapolated=extrapolated,
        seconds=time.perf_counter() - started,
    )


def _kept(config: RunConfig, strategy: str, layers: int) -> int:
    return 0 if strategy == NAIVE else kept_of(config.memory, layers)


def layers_are_alike(config: RunConfig, needs: Needs) -> bool:
    """Decides whether one layer stands for the others, in a model deep enough to gain from it."""
    loaded: Any = load_architecture(config.model)
    architecture = loaded.get_text_config()
    layers = int(architecture.num_hidden_layers)
    kinds = set(getattr(architecture, "layer_types", None) or ())
    one_layer_is_read = needs.middle or (bool(needs.pooled) and 0 <= config.loss.layer < layers)
    stored = stored_quantization(getattr(loaded, "quantization_config", None), config.model)
    some_differ = len(kinds) > 1 or one_layer_is_read or (stored and skips_layers(stored))
    return layers > REAL_LAYERS + 1 and not some_differ


def _traced(
    config: RunConfig,
    workload: Workload,
    gpu: GpuTraits | None,
    strategy: str,
    layers: int,
    of_layers: int,
) -> Trace:
    """Runs a step with `layers` layers, and the optimizer of a model with `of_layers`."""
    device = "cuda" if gpu else "cpu"
    dtype = expected_dtype(config.model.precision, device)
    naive = strategy == NAIVE
    if naive:
        memory = config.memory.model_copy(update={"lora_dtype": "fp32"})
        config = config.model_copy(update={"memory": memory})
    shape = Shape(config, layers, dtype, naive, gpu)
    with _place(gpu) as where:
        trace, trained = trace_step(shape, workload, where)
    total = 0
    for name, parameter in trained.items():
        times = of_layers / layers if layer_of(name) is not None else 1
        total += round(parameter.numel() * times)
    largest = max(parameter.numel() for parameter in trained.values())
    width = max(parameter.dtype.itemsize for parameter in trained.values())
    size = temporary_bytes(config.train.optimizer, largest, total, width, on_cuda=gpu is not None)
    trace.free(trace.allocate(Allocation(size, "optimizer", "update", "optimizer")))
    return trace


def _place(gpu: GpuTraits | None) -> AbstractContextManager[torch.device]:
    return simulated_device(gpu) if gpu else nullcontext(torch.device("cpu"))


@dataclass(eq=False)
class NaiveStep:
    """Three full forward passes with logits at every position, and one backward pass.

    The model is as after peft's k-bit preparation: unquantized weights are fp32, and a quantized
    model recomputes its layers. `benchmarks/memory.py` runs the same for real.
    """

    model: Any  # a `PeftModel`
    objective: Any  # has the projection head
    dtype: torch.dtype  # compute dtype, for autocast

    def __post_init__(self) -> None:
        base = self.model.get_base_model()
        if getattr(base, "is_loaded_in_4bit", False):
            base.activation_checkpointing_enable({"use_reentrant": False})

    def __call__(
        self, batch: TripletBatch, totals: Mapping[str, int], backward: Callable[[Tensor], None]
    ) -> None:
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
"""torch's default for cuBLAS (`CUBLAS_WORKSPACE_CONFIG` is `:4096:2:16:8`)."""

CHUNKS_RUN = 3
"""The simulation runs at most this many chunks of tokens per module."""


def trace_step(
    shape: Shape, workload: Workload, device: torch.device
) -> tuple[Trace, dict[str, nn.Parameter]]:
    """Runs the production step on a fake model.

    It is the last micro-batch of any step but the first: the optimizer's states exist, and if a
    step has several micro-batches, so do the gradients.

    Returns:
        The allocations, and the trained parameters by name.
    """
    with fake_model(shape, device) as fake:
        model, tracker, layers = fake.model, fake.tracker, fake.layers
        decoder = model.get_base_model().get_decoder()
        shards = None
        if shape.config.memory.shards > 1 and not shape.naive:
            shards = FakeShards(layers, shape.config.memory.shards, device, tracker)
        step, heads = build_step(fake, trained=True)
        trained = _trained(model, heads)
        for name, parameter in trained.items():
            _hold_states(shape, name, parameter, tracker)
        batch = fake_batch(workload, step.objective.needs, shape.config.loss, device)
        model.train()
        scored = tracker.during("loss")(type(step).label_losses)
        with (
            tracker,
            patch.object(torch, "get_rng_state", _noted(torch.get_rng_state, tracker)),
            patch.object(type(step), "label_losses", scored),  # also the adversary's step
        ):
            watch_layers(
                layers,
                partial(tracker.trace.mark, "forward"),
                lambda _: True,
                partial(tracker.trace.mark, "backward"),
            )
            if shards is not None:
                shards.watch(decoder)
            tracker.phase = "forward"
            step(batch, label_totals([batch]), tracker.during("backward")(Tensor.backward))
            tracker.phase = "optimizer"
            if shards is not None:
                shards.end()
            del batch
    return tracker.trace, trained


@dataclass(frozen=True)
class FakeModel:
    """A model of fake tensors on a device, whose allocations are traced."""

    shape: Shape
    model: Any
    layers: list[nn.Module]
    device: torch.device
    tracker: AllocationTracker


@contextmanager
def fake_model(shape: Shape, device: torch.device) -> Iterator[FakeModel]:
    """Builds it, inside `FakeTensorMode` until the end of the context.

    Args:
        device: `cpu`, or the simulated device, which must be in use.
    """
    model = build_meta_model(shape)
    tracker = AllocationTracker(device.type, shape.gpu)
    masks = transformers.masking_utils
    with ExitStack() as stack:
        if device.type != "cpu":
            # Otherwise `torch.tensor` makes real values on this device, which has no kernels.
            stack.enter_context(patch.object(FakeTensorMode, "avoid_device_init", True))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        # Fake tensors make transformers assume an export, for which it builds every mask in full.
        # It would also search the positions for several sequences in one row; there are none.
        stack.enter_context(patch.object(masks, "is_tracing", lambda *_: False))
        stack.enter_context(patch.object(masks, "find_packed_sequence_indices", lambda *_: None))
        few = _few_chunks(token_chunks.parts_of, tracker)
        stack.enter_context(patch.object(token_chunks, "parts_of", few))
        materialize(model, shape, device, tracker)
        if device.type != "cpu":
            workspace = Allocation(CUBLAS_WORKSPACE_BYTES, "misc", "cuBLAS workspace", "weights")
            tracker.trace.allocate(workspace)
        base: Any = model.get_base_model()
        layers = list(layer_stack(base.get_decoder(), shape.layers))
        yield FakeModel(shape, model, layers, device, tracker)


def _few_chunks(
    parts_of: Callable[..., list[Tensor]], tracker: AllocationTracker
) -> Callable[..., Iterator[Tensor]]:
    """Cuts only the first three chunks of tokens: all others are like the third.

    The second adds its gradients to the first's, the third does so while the second's are still
    alive. No later chunk needs more, so the peak is the same, and a prediction takes about the
    same time at every length. The third chunk's kernels count once for each later one.
    """

    def few(rows: Tensor, count: int) -> Iterator[Tensor]:
        parts = parts_of(rows, count)
        yield from parts[: CHUNKS_RUN - 1]
        tracker.times = len(parts) - CHUNKS_RUN + 1
        yield from parts[CHUNKS_RUN - 1 : CHUNKS_RUN]
        tracker.times = 1

    return few


def _noted(get_rng_state: Callable[[], Tensor], tracker: AllocationTracker) -> Callable[[], Tensor]:
    """Notes the random state that every recomputation saves, which no operation makes."""

    def noted() -> Tensor:
        state = get_rng_state()
        tracker.register(state, "misc", "random state")
        return state

    return noted


def build_step(fake: FakeModel, *, trained: bool) -> tuple[Any, list[nn.Module]]:
    """Builds a step over a fake model as production does; also returns its trained heads."""
    shape, model, device, tracker = fake.shape, fake.model, fake.device, fake.tracker
    config = shape.config
    if not shape.naive:
        set_memory(model, config.memory, device)
    trunk = take_apart(model)
    objective = build_objective(config.loss, trunk.head.shape[1], config.train, trained=trained)
    heads = objective.modules
    for head in heads:
        for module in head.modules():
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    made = nn.Parameter(torch.empty_like(parameter, device=device))
                    tracker.register(made, "adapters", "projection head")
                    module._parameters[key] = made
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


def fake_batch(
    workload: Workload, needs: Needs, section: LossSection, device: torch.device
) -> TripletBatch:
    return _on_fakes(collate(workload.made_up(), needs, section.pooling), device)


def _on_fakes(batch: TripletBatch, device: torch.device) -> TripletBatch:
    spans = tuple(replace(span, **_fakes(span, device)) for span in batch.spans)
    attacked = batch.attacked
    if attacked is not None:
        part = _on_fakes(attacked.batch, device)
        attacked = replace(attacked, **_fakes(attacked, device), batch=part)
    return replace(batch, **_fakes(batch, device), spans=spans, attacked=attacked)


def _fakes(of: Any, device: torch.device) -> dict[str, Any]:
    return {
        name: torch.empty(real.shape, dtype=real.dtype, device=device)
        for name, real in vars(of).items()
        if isinstance(real, Tensor)
    }


def run_answers(
    config: RunConfig, load: AnswerLoad, gpu: GpuTraits | None, rehearsal: Rehearsal
) -> Prediction:
    """Predicts like `memory.prediction.predict_answers`, in this process; no GPU means the CPU."""
    return _without_gradients(config, load, gpu, partial(_answer, load, rehearsal))


def run_reading(config: RunConfig, workload: Workload, gpu: GpuTraits | None) -> Prediction:
    """Predicts like `memory.prediction.predict_reading`, in this process."""
    return _without_gradients(config, workload, gpu, partial(_read, workload))


def _without_gradients(
    config: RunConfig,
    load: AnswerLoad | Workload,
    gpu: GpuTraits | None,
    passes: Callable[[FakeModel], None],
) -> Prediction:
    needs = READ if isinstance(load, Workload) else Needs(frozenset(), frozenset())
    # Nothing stays for a backward pass, so kept layers are like the others.
    memory = config.memory.model_copy(update={"kept_layers": 0})
    alike = config.model_copy(update={"memory": memory})
    traced = partial(_traced_passes, alike, gpu, passes)
    found = _predicted_by(traced, alike, needs, load, gpu, "custom")
    return replace(found, switches=switches_of(config.memory))


def _traced_passes(
    config: RunConfig, gpu: GpuTraits | None, passes: Callable[[FakeModel], None], layers: int
) -> Trace:
    dtype = expected_dtype(config.model.precision, "cuda" if gpu else "cpu")
    shape = Shape(config, layers, dtype, False, gpu)
    with _place(gpu) as device, fake_model(shape, device) as fake, torch.no_grad():
        fake.model.eval()
        mark = partial(fake.tracker.trace.mark, "forward")
        watch_layers(fake.layers, mark, lambda _: False, lambda _: None)
        passes(fake)
        return fake.tracker.trace


def _answer(load: AnswerLoad, rehearsal: Rehearsal, fake: FakeModel) -> None:
    tracker = fake.tracker
    set_memory(fake.model, fake.shape.config.memory, fake.device)
    base: Any = base_model(fake.model)
    with tracker:
        copied = partial(tracker.trace.mark, "cache")
        for tracker.phase, tracker.times in rehearsal(
            base, load.made_up(), load.new_tokens, copied
        ):
            pass


def _read(workload: Workload, fake: FakeModel) -> None:
    tracker = fake.tracker
    step, _ = build_step(fake, trained=False)
    batch = fake_batch(workload, READ, fake.shape.config.loss, fake.device)
    with tracker:
        tracker.phase = "forward"
        step.label_losses = tracker.during("loss")(step.label_losses)
        step.answer_means(batch, READ)
