"""Decodes a batch: the prompts as one prefix tree, then one token per row and step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from llmcausal.errors import ModelError
from llmcausal.model.cpu_layers import count_whole
from llmcausal.model.tree_attention import TREE_ATTENTION
from llmcausal.model.trunk import ALL_LAYERS_MASK, SLIDING_MASK, Trunk, find_trunk, take_apart
from llmcausal.train.batch import pack_tensors
from llmcausal.train.step import tree_attention

Choice = Callable[[Tensor], Tensor]
"""Chooses the next token of each row [rows] by its logits [rows, vocabulary]."""
MOST_APART_IN_16_BITS = 5e-3
"""Limit of 1 - correlation. Rounding gives at most 7e-4 in bf16 (SmolLM2-135M, NF4), a wrong mask
2e-2 and more, wrong positions 5e-2 and more."""


class NodeCache(DynamicCache):
    """Keys and values of a prefix tree's nodes, in buffers that exist before the second layer runs.

    On a CPU, buffers made layer by layer end up between a pass's larger temporaries, and later
    temporaries then fit nowhere: 32 prompts on SmolLM2-135M took up to 300 MiB more.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.total = layers
        self.free: list[tuple[Tensor, Tensor]] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        given = (key_states, value_states)
        if not self.layers:
            self.free = [_like(given) for _ in range(self.total)]
        kept = self.free.pop() if self.free else _like(given)
        if [each.shape for each in kept] != [each.shape for each in given]:
            kept = _like(given)  # a model whose layers differ
        layer = DynamicLayer()
        layer.keys, layer.values = (
            target.copy_(source) for target, source in zip(kept, given, strict=True)
        )
        self.layers.append(layer)
        return layer.keys, layer.values


def _like(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    keys, values = pair
    return keys.new_empty(keys.shape), values.new_empty(values.shape)


class RowCache(Cache):
    """One row per prompt: its keys, padded on the right, then one column per new token.

    A row that has ended is overwritten by one from the end, so the rows in use stay in front and
    no buffer is copied. `prefill` has the keys of all nodes of a prefix tree [1, heads, nodes,
    width] per layer, and is emptied layer by layer; `paths` are each prompt's nodes.

    On a CPU, rows attend to all columns, also to empty ones, which are masked, unless most are
    empty: batched products would copy a part of the columns each time.
    """

    def __init__(self, prefill: DynamicCache, paths: Sequence[Tensor], new_tokens: int) -> None:
        super().__init__(layers=[])
        self.rows = len(paths)
        self.column = max(map(len, paths))
        layers: list[Any] = prefill.layers
        example = layers[0].keys
        # Padding repeats the root: it is masked, so any finite key works.
        nodes = torch.zeros((self.rows, self.column), dtype=torch.long)
        self.mask = torch.full((self.rows, 1, 1, self.column + new_tokens), float("-inf"))
        for row, path in enumerate(paths):
            nodes[row, : len(path)] = path
            self.mask[row, ..., : len(path)] = 0
        self.mask = self.mask.to(example.device, example.dtype)
        nodes = nodes.to(example.device)
        self.buffers: list[tuple[Tensor, Tensor]] = []
        for layer in layers:
            self.take(layer, nodes, new_tokens)

    def take(self, layer: Any, nodes: Tensor, new_tokens: int) -> None:
        """Copies one layer's keys and values, then frees the layer's."""
        kept = (_rows(layer.keys, nodes, new_tokens), _rows(layer.values, nodes, new_tokens))
        self.buffers.append(kept)
        layer.keys = layer.values = None

    def next_mask(self) -> Tensor:
        """Returns the mask that hides padding from the next column [rows, 1, 1, columns]."""
        self.mask[..., self.column] = 0
        return self.mask[: self.rows, ..., : self._end]

    @property
    def _end(self) -> int:
        columns, written = self.mask.shape[-1], self.column + 1
        whole = self.mask.device.type == "cpu" and columns <= 2 * written
        return columns if whole else written

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes one column of one layer; returns the columns that the mask covers."""
        keys, values = self.buffers[layer_idx]
        rows, column = slice(self.rows), slice(self.column, self.column + 1)
        keys[rows, :, column], values[rows, :, column] = key_states, value_states
        return keys[rows, :, : self._end], values[rows, :, : self._end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.column

    def advance(self) -> None:
        """Starts the next column, after every layer has written this one."""
        self.column += 1

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Keeps rows, given in ascending order; returns each remaining row's former index."""
        count = len(rows)
        kept = set(rows)
        moved = [row for row in rows if row >= count]
        order = list(range(count))
        for hole in range(count):
            if hole not in kept:
                order[hole] = moved.pop()
        holes = [row for row in range(count) if order[row] != row]
        if holes:
            sources = [order[row] for row in holes]
            self.mask[holes] = self.mask[sources]
            for buffer in (tensor for pair in self.buffers for tensor in pair):
                buffer[holes, :, : self.column] = buffer[sources, :, : self.column]
        self.rows = count
        return order


def _rows(states: Tensor, nodes: Tensor, new_tokens: int) -> Tensor:
    """Gathers [1, heads, nodes, width] into [rows, heads, columns, width]."""
    rows, columns = nodes.shape
    _, heads, _, width = states.shape
    buffer = states.new_empty(rows, heads, columns + new_tokens, width)
    buffer[:, :, :columns] = states[0][:, nodes].transpose(0, 1)
    buffer[:, :, columns:] = 0  # masked, so any finite key works
    return buffer


def greedy(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


@dataclass(frozen=True)
class Sampling:
    """Settings of drawn answers; `count` is the number of answers to each prompt."""

    count: int
    temperature: float
    seed: int

    def choice(self) -> Choice:
        """Returns a function that draws tokens by their probability, on the CPU, with the seed."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(logits: Tensor) -> Tensor:
            shares = torch.softmax(logits.float() / self.temperature, dim=-1).cpu()
            return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logits.device)

        return draw


class TreeDecoder:
    """Continues prompts; a prefix that prompts share is computed once.

    Rows that have ended are not computed, and logits exist only for the next token. `longest` is
    the number of tokens of the longest prompt with its answer.

    Raises:
        ModelError: If the model cannot be decoded this way, with the reason.
    """

    nodes: Callable[[], DynamicCache] = DynamicCache
    cache: Callable[[DynamicCache, Sequence[Tensor], int], RowCache] = RowCache

    def __init__(self, base: Any, longest: int) -> None:
        self.trunk = find_trunk(base)
        if whole := count_whole(base):
            self.nodes = partial(NodeCache, whole)
        _check(base, self.trunk, longest)
        self._prove(base)

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        stop_ids: Sequence[int],
        max_new_tokens: int,
        choose: Choice = greedy,
    ) -> list[list[int]]:
        """Returns the new tokens of each prompt, a stop token included; as `steps`."""
        answers: list[list[int]] = [[] for _ in prompts]
        for rows, tokens in self.steps(prompts, stop_ids, max_new_tokens, choose):
            for row, token in zip(rows, tokens, strict=True):
                answers[row].append(token)
        return answers

    def steps(
        self,
        prompts: Sequence[Sequence[int]],
        stop_ids: Sequence[int],
        max_new_tokens: int,
        choose: Choice = greedy,
    ) -> Iterator[tuple[list[int], list[int]]]:
        """Yields, step by step, the prompts whose answers continue, and each one's next token."""
        logits, cache = self.prefill(prompts, max_new_tokens - 1)
        positions = torch.tensor([len(prompt) for prompt in prompts], device=logits.device)
        rows = list(range(len(prompts)))  # the prompt of each row of the cache
        for step in range(1, max_new_tokens + 1):
            tokens = choose(logits)
            chosen = tokens.tolist()
            yield rows, chosen
            going = [row for row, token in enumerate(chosen) if token not in stop_ids]
            if not going or step == max_new_tokens:
                return
            if len(going) < len(rows):
                order = cache.keep(going)
                rows = [rows[row] for row in order]
                tokens, positions = tokens[order], positions[order]
            logits = self.step(tokens, positions, cache)
            positions = positions + 1

    def prefill(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> tuple[Tensor, RowCache]:
        """Computes the prompts; returns the next token's logits [rows, vocabulary]."""
        tree, paths = pack_tensors(prompts)
        tree = tree.to(self.trunk.device)
        nodes = self.nodes()
        output = self.trunk.decoder(
            input_ids=tree.tokens[None],
            position_ids=tree.positions[None],
            past_key_values=nodes,
            use_cache=True,
            **tree_attention(self.trunk, tree, self.trunk.head.dtype),
        )
        ends = torch.stack([path[-1] for path in paths]).to(tree.tokens.device)
        logits = self.trunk.logits(output.last_hidden_state[0, ends])
        return logits, self.cache(nodes, paths, new_tokens)

    def step(self, tokens: Tensor, positions: Tensor, cache: RowCache) -> Tensor:
        """Adds one token to each row, at its position in its own sequence [rows].

        Returns the next token's logits [rows, vocabulary].
        """
        output = self.trunk.decoder(
            input_ids=tokens[:, None],
            position_ids=positions[:, None],
            past_key_values=cache,
            attention_mask=cache.next_mask(),
            use_cache=True,
        )
        cache.advance()
        return self.trunk.logits(output.last_hidden_state[:, 0])

    def _prove(self, base: Any) -> None:
        """Compares a tree of three prompts and one step with the model's own logits.

        The tokens are from the middle of the vocabulary. At its start are often control tokens,
        after which rounding alone may change the logits much.
        """
        count = self.trunk.head.shape[0]

        def token(number: int) -> int:
            return (count // 2 + 37 * number) % count

        shared = [token(number) for number in range(3)]
        prompts = [
            shared + [token(100 * row + number) for number in range(more)]
            for row, more in enumerate((2, 5, 9), start=1)
        ]
        _, cache = self.prefill(prompts, 1)
        device = self.trunk.device
        added = torch.tensor([token(7000 + row) for row in range(len(prompts))], device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        found = self.step(added, lengths, cache)
        exact = found.dtype in (torch.float32, torch.float64)
        for row, prompt in enumerate(prompts):
            ids = torch.tensor([[*prompt, int(added[row])]], device=device)
            wanted = base(input_ids=ids, use_cache=False).logits[0, -1]
            apart = 1 - torch.corrcoef(torch.stack([found[row].double(), wanted.double()]))[0, 1]
            if not apart <= (1e-6 if exact else MOST_APART_IN_16_BITS):
                raise ModelError(
                    "a prefix tree with a cache does not give its own logits (1 - correlation "
                    f"{apart:.1e})"
                )


class _WatchedCache(RowCache):
    def __init__(self, copied: Callable[[int], None], *arguments: Any) -> None:
        self.copied = copied
        super().__init__(*arguments)

    def take(self, layer: Any, nodes: Tensor, new_tokens: int) -> None:
        self.copied(len(self.buffers))
        super().take(layer, nodes, new_tokens)


class _Rehearsal(TreeDecoder):
    def __init__(self, trunk: Trunk, copied: Callable[[int], None]) -> None:
        self.trunk = trunk
        self.cache = partial(_WatchedCache, copied)


def rehearse(
    base: Any, prompts: Sequence[Sequence[int]], new_tokens: int, copied: Callable[[int], None]
) -> Iterator[tuple[str, int]]:
    """Runs the passes that answers to made-up prompts take, on fake tensors, for a prediction.

    No answer ends early. One pass stands for all new tokens: the last, which sees the most keys.

    Args:
        copied: Called with a layer's number before the cache takes its keys.

    Yields:
        Before each pass, its name and how often the answers take it.

    Raises:
        ModelError: If transformers would generate the answers, whose passes these are not.
    """
    with blockwise_attention(base):
        trunk = take_apart(base)
        try:
            _check(base, trunk, max(map(len, prompts)) + new_tokens)
        except ModelError as error:
            raise ModelError(
                f"{type(base).__name__}: {error}: transformers would generate its answers, whose "
                "memory --eval does not predict. Set model.attention to 'tree' if it is 'eager'; "
                "for a sliding window, shorten evaluation.max_new_tokens or the prompts (--seq-len)"
            ) from error
        yield from _rehearsed(_Rehearsal(trunk, copied), prompts, new_tokens)


def _rehearsed(
    decoder: TreeDecoder, prompts: Sequence[Sequence[int]], new_tokens: int
) -> Iterator[tuple[str, int]]:
    yield "prompts", 1
    logits, cache = decoder.prefill(prompts, new_tokens - 1)
    if new_tokens > 1:
        lengths = [len(prompt) + new_tokens - 2 for prompt in prompts]
        positions = torch.tensor(lengths, device=logits.device)
        tokens = greedy(logits)
        cache.column += new_tokens - 2
        yield "tokens", new_tokens - 1
        logits = decoder.step(tokens, positions, cache)


@contextmanager
def blockwise_attention(base: Any) -> Iterator[None]:
    """Lets SDPA attention take a tree's blocks; without blocks it computes the same."""
    config = base.config.get_text_config()
    previous = config._attn_implementation
    if previous != "sdpa":
        yield
        return
    config._attn_implementation = TREE_ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = previous


def _check(base: Any, trunk: Trunk, longest: int) -> None:
    if not trunk.takes_blocks:
        raise ModelError("its attention is not SDPA")
    if base._is_stateful or not set(trunk.mask_kinds) <= {ALL_LAYERS_MASK, SLIDING_MASK}:
        raise ModelError("it has layers other than attention over all tokens")
    if trunk.window is not None and longest > trunk.window:
        raise ModelError(f"{longest} tokens exceed its sliding window of {trunk.window}")
