"""What a forward pass keeps for the backward pass, and where."""

from __future__ import annotations

import weakref
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
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
        self.alone = False  # whether the layer has no room yet for the input of the one below
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

    A layer's input leaves while the layer is computed. It comes back during the backward pass of
    the layer above, but only after that layer's MLP, which needs the most memory. By counts, what
    is left of that pass, attention, takes longer than the copy.
    """

    def __init__(self, copier: Copier) -> None:
        self._copier = copier
        self._last: weakref.ref[_Held] | None = None

    def checkpoint(self, function: Any, *inputs: Any) -> Any:
        """Runs a layer; only `inputs`, what a checkpoint itself saves, pass through the hooks."""
        with saved_tensors_hooks(self._pack, self._unpack):
            output = checkpoint(function, *inputs, use_reentrant=False)
        last, residual = self._last, _residual(output, inputs)
        if last is not None and residual is not None:
            if (held := last()) is not None:
                held.alone = True
            residual.register_prehook(lambda _: self._make_room(last()))
        return output

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
        self._fetch_before(packed)
        return arriving

    def _make_room(self, held: _Held | None) -> None:
        if held is not None:
            held.alone = False
            self._fetch_before(held)

    def _fetch_before(self, held: _Held) -> None:
        before = held.before() if held.before else None
        if before is None or before.used or before.arriving is not None:
            return
        # A residual that is reached before the layer's own input leaves it to `_unpack`.
        if held.used and not held.alone:
            before.arriving = self._copier.to_device(before.host)

    def _wait(self) -> _Held | None:
        """Waits for all copies, releases the leaving input, and returns its holder."""
        self._copier.wait()
        last = self._last() if self._last else None
        if last is not None:
            last.leaving = None
        return last


def _residual(output: Any, inputs: tuple[Any, ...]) -> Node | None:
    """Returns the node that made x, if a layer returns x + MLP.

    The backward pass reaches it after the MLP. Layers of another form may give None, or a node that
    is reached before their recomputation.
    """
    whole = output[0] if isinstance(output, tuple) else output
    node: Node | None = whole.grad_fn and whole.grad_fn.next_functions[0][0]
    own = [each.grad_fn for each in inputs if isinstance(each, Tensor)]
    return None if node in own else node
