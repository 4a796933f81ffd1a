"""An operation's internal memory, and its kernels with their FLOPs and bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from llmcausal.memory.prediction import GpuTraits, Kernel

FUSED_ROWS = 256
"""Up to this many rows CUDA multiplies by 4-bit weights without unpacking them (Ada: 8 to 256 by
shape; smaller products are small compared with the peak)."""

Workspaces = list[tuple[str, int]]


# An operation's internal memory, which no tensor shows. Sources: bitsandbytes 0.50
# (`backends/*/ops.py`: `_dequant_linear_fallback`, `_gemm_4bit_default_impl`); torch 2.13
# (`ReduceOps.cpp`: `logsumexp_out_impl`; `flash_attn/flash_api.cpp`,
# `mem_eff_attention/kernel_backward.h`: the query's gradient in fp32; `mha_bwd` in the first:
# `dk_expanded`, `dv_expanded`, `dq_accum` by `nsplits`; `FlashAttentionKernel.cpp`: a tile's scores
# for each thread).


def workspaces(func: Any, args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    """Returns (component, bytes) of an operation's internal memory; no GPU means the CPU."""
    find = _BY_NAME.get(func.name())
    return [] if find is None else [pair for pair in find(args, gpu) if pair[1]]


def _gemm_4bit(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    rows, shape, absmax, blocksize = args[0], args[2], args[3], args[4]
    numbers = math.prod(shape)
    if gpu and rows.numel() // rows.shape[-1] <= FUSED_ROWS:
        return []
    scales = 4 * numbers // blocksize
    nested = absmax.numel() != numbers // blocksize
    unpacked = [scales] * (2 if gpu else 1) if nested else []
    return [("dequantization", size) for size in (*unpacked, numbers * rows.dtype.itemsize)]


def _logsumexp(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    return [("logits", args[0].numel() * args[0].dtype.itemsize)]


def _flash_backward(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    """The deterministic form has as many sums of the query's gradient as fill the GPU."""
    query, key = args[1], args[2]
    parts = -(-gpu.multiprocessors // math.prod(query.shape[:2])) if gpu else 1
    found = [("activations", size * parts) for _, size in _efficient_backward(args, gpu)]
    if key.shape[1] < query.shape[1]:  # gradients by query head of keys and values, to be summed
        size = query.shape[1] * math.prod(key.shape) // key.shape[1] * key.dtype.itemsize
        found += [("activations", size)] * 2
    return found


def _efficient_backward(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    return [("activations", 4 * math.prod(args[1].shape))]


def _tile(query: Any, key: Any) -> tuple[int, int, int]:
    rows, width = query.shape[2], query.shape[3]
    split = 256 if rows >= 768 else 64 if rows >= 192 else 32
    return min(split, rows), min(512, key.shape[2]), width


def _cpu_attention(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    rows, keys, width = _tile(args[0], args[1])
    numbers = rows * keys + 2 * rows + rows * width
    return [("activations", 4 * numbers * torch.get_num_threads())]


def _cpu_attention_backward(args: Sequence[Any], gpu: GpuTraits | None) -> Workspaces:
    rows, keys, _ = _tile(args[1], args[2])
    return [("activations", 4 * 2 * rows * keys * torch.get_num_threads())]


_BY_NAME: dict[str, Callable[[Sequence[Any], GpuTraits | None], Workspaces]] = {
    "bitsandbytes::gemm_4bit": _gemm_4bit,
    "aten::logsumexp": _logsumexp,
    "aten::_scaled_dot_product_flash_attention_backward": _flash_backward,
    "aten::_scaled_dot_product_efficient_attention_backward": _efficient_backward,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _cpu_attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _cpu_attention_backward,
}


_WITHOUT_KERNEL = ("empty", "new_empty", "_unsafe_view", "_local_scalar_dense", "lift_fresh")
_READS_ROWS = ("embedding", "index", "index_select", "gather")
"""Operations that read only as many bytes of their first argument as they return."""
_OVERWRITES = ("copy_", "fill_", "zero_")
"""Operations that do not read their first argument."""


def kernels_of(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, gpu: GpuTraits | None
) -> Iterator[Kernel]:
    """Yields an operation's kernels; views and allocations have none."""
    name = func.name().partition("::")[2].partition(".")[0]
    if func.is_view or name.startswith(_WITHOUT_KERNEL):
        return
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    inputs = list({id(each): each for each in given}.values())  # `out` may be an argument too
    outputs = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
    if not outputs:  # fake tensors also dispatch questions, such as their device
        return
    devices = {each.device.type for each in (*inputs, *outputs)}
    if gpu and devices == {"cpu"}:  # the host's, in parallel with the GPU
        return
    if name == "gemm_4bit":
        yield from _product_4bit(args, outputs[0], gpu)
        return
    written = sum(map(_bytes, outputs))
    read = sum(map(_bytes, inputs[name in _OVERWRITES :]))
    if name in _READS_ROWS:
        read = sum(map(_bytes, inputs[1:])) + written
    if len(devices) > 1:
        yield Kernel(name, 0, written, crosses=True)
        return
    yield Kernel(name, _flops(name, func, args, kwargs, result), read + written)


def _bytes(tensor: Tensor) -> int:
    """Returns the bytes of a tensor; an expanded one is read from its smaller storage."""
    return min(tensor.numel() * tensor.dtype.itemsize, tensor.untyped_storage().nbytes())


def _product_4bit(args: Sequence[Any], output: Tensor, gpu: GpuTraits | None) -> Iterator[Kernel]:
    """A small product reads packed weights; a larger one unpacks them first."""
    rows, packed, shape = args[:3]
    numbers = math.prod(shape)
    flops = 2 * numbers * (rows.numel() // rows.shape[-1])
    moved = _bytes(rows) + _bytes(output)
    if gpu and rows.numel() // rows.shape[-1] <= FUSED_ROWS:
        yield Kernel("gemm_4bit", flops, moved + _bytes(packed))
        return
    unpacked = numbers * rows.dtype.itemsize
    yield Kernel("dequantize_4bit", 0, _bytes(packed) + unpacked)
    yield Kernel("mm", flops, moved + unpacked)


def _flops(
    name: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> int:
    if "scaled_dot_product" in name:
        return _attention_flops(name, func, args, kwargs)
    if name == "_linear_pointwise":  # oneDNN's product
        return 2 * int(args[0].numel()) * len(args[1])
    formula: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
    return 0 if formula is None else formula(*args, **kwargs, out_val=result)


def _attention_flops(name: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Two products forward and five backward, without the pairs that a causal mask leaves out."""
    names = (argument.name for argument in func._schema.arguments)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    query, keys = given["query"], given["key"].shape[2]
    batch, heads, rows, width = query.shape
    pairs = rows * keys
    if given.get("is_causal"):
        pairs -= min(rows, keys) * (min(rows, keys) - 1) // 2
    return int((10 if "backward" in name else 4) * batch * heads * pairs * width)
