"""What a forward pass keeps for the backward pass, and where."""

from __future__ import annotations

import weakref
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from llmcausal.errors import ConfigError
from llmcausal.model.placement import decoder_layers, empty_on_host


def set_activations(
    model: Any,
    activations: Literal["keep", "recompute", "offload"],
    device: torch.device,
    kept_layers: int = 0,
) -> None:
    """Sets what a decoder's layers keep; replaces an earlier choice.

    Args:
        model: A transformers model, without the `PeftModel` around it.
        activations: keep: everything; recompute: each layer's input, from which the backward pass
            runs the layer again; offload: the same, with the inputs in host memory.
        kept_layers: As many of the last layers keep everything.

    Raises:
        ConfigError: If layers shall differ, but the model does not let each layer choose.
    """
    if model.is_activation_checkpointing:
        model.activation_checkpointing_disable()
    if activations == "keep":
        return
    model.activation_checkpointing_enable({"use_reentrant": False})
    # Only reentrant checkpoints need an input with a gradient; it costs the embeddings' gradient.
    model.disable_input_require_grads()
    if activations == "offload":
        inputs = HostInputs(CudaCopier(device) if device.type == "cuda" else Copier(device))
        for module in model.modules():
            if hasattr(module, "_gradient_checkpointing_func"):
                module._gradient_checkpointing_func = inputs.checkpoint
    if kept_layers:
        _keep_last(model, kept_layers)


def _keep_last(model: Any, kept_layers: int) -> None:
    layers: list[Any] = list(decoder_layers(model))
    for layer in layers[-kept_layers:]:
        if not hasattr(layer, "gradient_checkpointing"):
            raise ConfigError(
                f"memory.kept_layers = {kept_layers}: {type(layer).__name__} does not recompute "
                "each layer alone; set memory.kept_layers to 0"
            )
        layer.gradient_checkpointing = False


class Copier:
    """Copies tensors between the device and host memory, one at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def to_host(self, tensor: Tensor) -> Tensor:
        """Begins a copy to the host; keep `tensor` until the next `wait`."""
        return tensor.detach().to("cpu", copy=True)

    def to_device(self, host: Tensor) -> Tensor:
        """Begins a copy to the device; use it after the next `wait`."""
        return host.to(self.device)

    def wait(self) -> None:
        """Makes the device's later work wait for the copies."""


class CudaCopier(Copier):
    """Copies on a separate stream, concurrently with the computation.

    Memory comes from the computation's stream and is released after `wait`. So the allocator can
    reuse it at once, however far the host runs ahead.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.stream = torch.cuda.Stream(device)

    def to_host(self, tensor: Tensor) -> Tensor:
        return self._copied(tensor.detach(), empty_on_host(tensor, self.device))

    def to_device(self, host: Tensor) -> Tensor:
        return self._copied(host, torch.empty_like(host, device=self.device))

    def wait(self) -> None:
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def _copied(self, source: Tensor, target: Tensor) -> Tensor:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            return target.copy_(source, non_blocking=True)


class _Held:
    """A tensor in host memory, and on the device while it is copied."""

    def __init__(self, copier: Copier, tensor: Tensor, before: _Held | None) -> None:
        self.leaving: Tensor | None = None
        self.arriving: Tensor | None = None
        self.used = False
        self.copier = copier
        # The graph owns these; a strong chain would keep every step's inputs.
        self.before = weakref.ref(before) if before is not None else None
        self.host = copier.to_host(tensor)
        self.leaving = tensor.detach()

    def __del__(self) -> None:
        # After a failed pass, others get this memory only when the copy is done.
        if self.leaving is not None or self.arriving is not None:
            self.copier.wait()


class HostInputs:
    """Checkpoints layers with their inputs in host memory.

    A layer's input leaves while the layer is computed. It comes back while the backward pass
    recomputes the layer above, so the device holds one input more than needed.
    """

    def __init__(self, copier: Copier) -> None:
        self._copier = copier
        self._last: weakref.ref[_Held] | None = None

    def checkpoint(self, function: Any, *inputs: Any) -> Any:
        """Runs a layer; only `inputs`, what a checkpoint itself saves, pass through the hooks."""
        with saved_tensors_hooks(self._pack, self._unpack):
            return checkpoint(function, *inputs, use_reentrant=False)

    def _pack(self, tensor: Tensor) -> Any:
        if tensor.device.type != self._copier.device.type or isinstance(tensor, nn.Parameter):
            return tensor.detach()
        held = _Held(self._copier, tensor, self._wait())
        self._last = weakref.ref(held)
        return held

    def _unpack(self, packed: Any) -> Tensor:
        if not isinstance(packed, _Held):
            kept: Tensor = packed
            return kept
        arriving = packed.arriving
        if arriving is None:
            arriving = self._copier.to_device(packed.host)
        self._wait()
        packed.arriving, packed.used = None, True
        before = packed.before() if packed.before else None
        if before is not None and not before.used and before.arriving is None:
            before.arriving = self._copier.to_device(before.host)
        return arriving

    def _wait(self) -> _Held | None:
        """Waits for all copies, releases the leaving input, and returns its holder."""
        self._copier.wait()
        last = self._last() if self._last else None
        if last is not None:
            last.leaving = None
        return last
