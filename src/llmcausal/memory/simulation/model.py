"""A model without weights, whole or shared by processes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.auto import AutoHfQuantizer

from llmcausal.config import RunConfig
from llmcausal.memory.architecture import layer_of, load_architecture
from llmcausal.memory.prediction import GpuTraits
from llmcausal.memory.simulation.device import AllocationTracker
from llmcausal.memory.simulation.trace import Allocation
from llmcausal.model.factory import (
    LoadedModel,
    attention_name,
    keep_exact_on_cpu,
    nf4_settings,
    quiet_libraries,
)
from llmcausal.model.placement import parts_on_host, use_plain_parameters
from llmcausal.model.prequantized import check_head, stored_quantization
from llmcausal.train.build import build_adapters

BLOCK, SCALES_BLOCK, NF4_CODES, SCALE_CODES = 64, 256, 16, 256
"""bitsandbytes: weights per scale, scales per scale of scales, and the sizes of their tables."""


@dataclass(frozen=True)
class Shape:
    """A fake model's properties."""

    config: RunConfig
    layers: int  # decoder layers; a shallower run has fewer than the architecture
    dtype: torch.dtype  # compute dtype
    naive: bool  # the usual recipe: transformers' own attention, and unquantized weights in fp32
    gpu: GpuTraits | None  # the simulated GPU; None: the CPU


def build_meta_model(shape: Shape) -> PeftModel:
    """Builds the quantized model and its adapters on the meta device.

    Raises:
        ModelError: If the architecture is unknown, or its head is stored in 4 bits.
        ConfigError: If the adapters do not fit it.
    """
    section = shape.config.model
    architecture = copy.deepcopy(load_architecture(section))
    architecture.num_hidden_layers = shape.layers
    if getattr(architecture, "layer_types", None):
        architecture.layer_types = architecture.layer_types[: shape.layers]
    with quiet_libraries(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            architecture,
            dtype=shape.dtype,
            attn_implementation="sdpa" if shape.naive else attention_name(section),
            trust_remote_code=section.trust_remote_code,
        )
        if section.quantization == "nf4":
            stored = stored_quantization(
                getattr(architecture, "quantization_config", None), section
            )
            model = _quantized(model, nf4_settings(section, shape.dtype, stored))
            check_head(model, section.name)
        model.requires_grad_(False)
        keep_exact_on_cpu(model)
        model.config.use_cache = False
        loaded = LoadedModel(model, cast(Any, None), torch.device("meta"), shape.dtype)
        return build_adapters(shape.config, loaded)


def _quantized(model: Any, settings: BitsAndBytesConfig) -> Any:
    quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
    kept = quantizer.get_modules_to_not_convert(
        model, settings.llm_int8_skip_modules, model._keep_in_fp32_modules
    )
    model = replace_with_bnb_linear(model, kept, settings)
    model.is_loaded_in_4bit = True
    return model


def materialize(
    model: PeftModel, shape: Shape, device: torch.device, tracker: AllocationTracker
) -> None:
    """Replaces a meta model's tensors by fake ones, inside `FakeTensorMode`.

    The tracker learns each tensor's component, layer by layer.
    """
    base: Any = model.get_base_model()
    on_host = {} if shape.naive else parts_on_host(base, shape.config.memory)
    hosted = {id(part.weight) for part in on_host.values()}
    made: dict[int, nn.Parameter] = {}
    layer: int | None = None
    for name, module in model.named_modules():
        before, layer = layer, layer_of(name)
        if layer is not None and layer != before:
            tracker.trace.mark("weights", layer)
        elif layer is None and before is not None:
            tracker.trace.mark("rest", shape.layers - 1)
        if isinstance(module, Linear4bit):
            _materialize_4bit(module, device, shape.dtype, tracker)
        for key, parameter in module._parameters.items():
            if parameter is None or parameter.device.type != "meta":
                continue
            place = torch.device("cpu") if id(parameter) in hosted else device
            if id(parameter) not in made:
                made[id(parameter)] = _fake_like(parameter, f"{name}.{key}", place, shape, tracker)
            module._parameters[key] = made[id(parameter)]
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = torch.empty_like(buffer, device=device)
                tracker.register(cast(Tensor, module._buffers[key]), "base_model", "buffer")


def _fake_like(
    parameter: nn.Parameter,
    name: str,
    place: torch.device,
    shape: Shape,
    tracker: AllocationTracker,
) -> nn.Parameter:
    trained = parameter.requires_grad
    frozen = torch.float32 if shape.naive else shape.dtype
    dtype = parameter.dtype if trained else frozen
    fake = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=place), trained)
    tracker.register(fake, "adapters" if trained else "base_model", _role(name))
    return fake


def _role(name: str) -> str:
    """Returns a parameter's name without its layer."""
    return ".".join(part for part in name.split(".")[-4:] if not part.isdigit() and part != "model")


def _materialize_4bit(
    module: Linear4bit, device: torch.device, dtype: torch.dtype, tracker: AllocationTracker
) -> None:
    numbers = module.out_features * module.in_features
    scales = math.ceil(numbers / BLOCK)

    def empty(count: int, kind: torch.dtype) -> Tensor:
        tensor = torch.empty(count, dtype=kind, device=device)
        tracker.register(tensor, "base_model", "NF4 scales and tables")
        return tensor

    nested: dict[str, Any] = {}
    if cast(Any, module.weight).compress_statistics:
        state = QuantState(
            absmax=empty(math.ceil(scales / SCALES_BLOCK), torch.float32),
            code=empty(SCALE_CODES, torch.float32),
            blocksize=SCALES_BLOCK,
            dtype=torch.float32,
        )
        nested = {"offset": empty(1, torch.float32)[0], "state2": state}
    packed = torch.empty((math.ceil(numbers / 2), 1), dtype=torch.uint8, device=device)
    weight: Any = nn.Parameter(packed, requires_grad=False)
    tracker.register(weight, "base_model", "NF4 weight")
    weight.quant_state = QuantState(
        absmax=empty(scales, torch.uint8 if nested else torch.float32),
        shape=torch.Size((module.out_features, module.in_features)),
        dtype=dtype,
        blocksize=BLOCK,
        code=empty(NF4_CODES, torch.float32),
        quant_type="nf4",
        **nested,
    )
    del module._parameters["weight"]
    module.weight = weight
    cast(Any, module).quant_state = weight.quant_state


def watch_layers(
    layers: Sequence[nn.Module],
    entered: Callable[[int], None],
    left: Callable[[int], bool],
    backward: Callable[[int], None],
) -> None:
    """Calls back with a layer's number when its passes begin and end.

    Args:
        entered: Called before each forward pass.
        left: Called after it; returns whether to call `backward`.
        backward: Called when the gradient of the layer's output exists.
    """
    for number, layer in enumerate(layers):

        def before(_module: nn.Module, _inputs: Any, number: int = number) -> None:
            entered(number)

        def after(_module: nn.Module, _inputs: Any, output: Any, number: int = number) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            if left(number) and hidden.requires_grad:
                hidden.register_hook(lambda _: backward(number))

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)


ARRIVING = "a layer on its way"
GATHERED = "a gathered layer"


class FakeShards:
    """Shards a fake model's frozen layers in the trace, and notes the gathered ones.

    As FSDP2 in torch 2.13 (`_fsdp_param_group.py`: `unshard`, `wait_for_unshard`, `pre_backward`;
    `_fsdp_collectives.py`): a layer arrives in one buffer and is copied into its parameters. In
    the forward pass the buffer stays until the next layer arrives. The backward pass prefetches
    the next layer, and frees a layer when the one below it begins.

    Args:
        layers: The decoder's, materialized; changed in place.
        tracker: The layers' marks must come before `watch`.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        shards: int,
        device: torch.device,
        tracker: AllocationTracker,
    ) -> None:
        self._tracker = tracker
        self._layers = layers
        self._sizes: list[list[int]] = []
        self._blocks: dict[tuple[str, int], list[int]] = {}
        for layer in layers:
            use_plain_parameters(layer, device)
            frozen = [each for each in layer.parameters() if not each.requires_grad]
            shares = [-(-len(each) // shards) * each[:1].nbytes for each in frozen]
            for parameter, share in zip(frozen, shares, strict=True):
                tracker.resize(parameter, share)
            self._sizes.append([share * shards for share in shares])

    def watch(self, decoder: nn.Module) -> None:
        """Notes from now on the layers that each pass gathers."""
        watch_layers(self._layers, self._entered, self._left, self._backward)
        decoder.register_forward_hook(lambda *_: self._free(ARRIVING, len(self._layers) - 1))

    def end(self) -> None:
        """Frees the first layer, whose input has no gradient: it stays to the end."""
        self._free(GATHERED, 0)

    def _entered(self, number: int) -> None:
        if self._tracker.phase != "backward":  # a recomputed layer is gathered already
            self._arrive(number)
            self._free(ARRIVING, number - 1)
            self._allocate(GATHERED, number, self._sizes[number])

    def _left(self, number: int) -> bool:
        if self._tracker.phase == "backward":
            return False
        self._free(GATHERED, number)
        return True

    def _backward(self, number: int) -> None:
        self._free(GATHERED, number + 1)
        self._arrive(number)
        self._allocate(GATHERED, number, self._sizes[number])
        self._free(ARRIVING, number)
        if number:
            self._arrive(number - 1)

    def _arrive(self, number: int) -> None:
        if (ARRIVING, number) not in self._blocks:
            self._allocate(ARRIVING, number, [sum(self._sizes[number])])

    def _allocate(self, what: str, number: int, sizes: list[int]) -> None:
        self._free(what, number)  # a second forward pass finds the first layer gathered
        trace, phase = self._tracker.trace, self._tracker.phase
        made = [Allocation(size, "base_model", what, phase) for size in sizes]
        self._blocks[what, number] = [trace.allocate(each) for each in made]

    def _free(self, what: str, number: int) -> None:
        for block in self._blocks.pop((what, number), ()):
            self._tracker.trace.free(block)
