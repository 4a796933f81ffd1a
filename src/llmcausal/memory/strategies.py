"""The planner's strategies, fastest first, and what each one costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import or_
from typing import Any

from llmcausal.config import MemorySection, RunConfig
from llmcausal.memory.prediction import SWITCHES, switches_of

_ADDED: dict[str, dict[str, Any]] = {
    "keep": {
        "activations": "keep",
        "embeddings": "device",
        "head": "device",
        "lora_dtype": "fp32",
        "members": "tree",
        "token_chunk": 0,
    },
    "recompute": {"activations": "recompute"},
    "host_embeddings": {"embeddings": "host"},
    "offload": {"activations": "offload"},
    "streamed_head": {"head": "host"},
    "lean": {"token_chunk": 256, "label_chunk": 128},
    "one_by_one": {"members": "one_by_one"},
}
"""`[memory]` switches that each strategy adds to the previous one's."""

STRATEGIES = dict(zip(_ADDED, accumulate(_ADDED.values(), or_), strict=True))
"""`[memory]` switches of each strategy, from fastest to leanest."""

COSTS: dict[str, str] = {
    "keep": "nothing: the reference for time",
    "recompute": "every layer's forward pass twice",
    "host_embeddings": "the looked-up embeddings cross from host memory once per micro-batch",
    "offload": "each layer's input crosses to host memory and back, during the computation",
    "streamed_head": "the whole output head crosses from host memory in each micro-batch",
    "lean": "more and smaller kernels, and 4-bit weights unpacked for each chunk of tokens",
    "one_by_one": "no shared prefixes, and a second forward pass of all members but one",
}
"""What each strategy adds to the previous one's cost; `memory.flops` counts it."""

_OTHERS_COST: dict[str, tuple[str, str]] = {
    "recompute": ("keep", "a second forward pass of the other {} layers"),
    "offload": (
        "host_embeddings",
        "the input of each of the other {} layers crosses to host memory and back, during the "
        "computation",
    ),
}
"""Strategies whose cost kept layers do not pay: what is left if all are kept, and if some are."""

_LEANNESS: dict[str, tuple[Any, ...]] = {
    "activations": ("keep", "recompute", "offload"),
    "embeddings": ("device", "host"),
    "head": ("device", "host"),
    "lora_dtype": ("fp32", "compute"),
    "members": ("tree", "separate", "one_by_one"),
}


@dataclass(frozen=True)
class Candidate:
    """Switches that the planner may choose."""

    name: str  # for people: the strategy's name, and whether the user's switches change it
    strategy: str  # name in `STRATEGIES`, or `custom` if the user's switches change it
    section: MemorySection  # `[memory]` with these switches

    @property
    def switches(self) -> dict[str, Any]:
        return switches_of(self.section)


def candidates(section: MemorySection) -> list[Candidate]:
    """Lists what the planner may choose, fastest first.

    No switch becomes less lean than the user set it. Strategies that become equal are listed once.
    """
    by_hand = {
        name: getattr(section, name) for name in SWITCHES if name in section.model_fields_set
    }
    found: list[Candidate] = []
    for name, wanted in STRATEGIES.items():
        if section.shards > 1 and wanted["members"] != "tree":
            continue  # processes would run different numbers of passes
        merged = wanted | {
            switch: _leaner(switch, value, wanted.get(switch, value))
            for switch, value in by_hand.items()
        }
        merged["kept_layers"] = 0  # `memory.spare` chooses it for a strategy that fits
        differs = any(merged[switch] != value for switch, value in wanted.items())
        candidate = Candidate(
            f"{name} with your switches" if differs else name,
            "custom" if differs else name,
            section.model_copy(update=merged),
        )
        if found and found[-1].switches == candidate.switches:
            found.pop()
        found.append(candidate)
    return found


def cost_of(strategy: str, kept: int, layers: int) -> str | None:
    """Names what a strategy costs where the last `kept` of `layers` layers keep activations."""
    if kept and strategy in _OTHERS_COST:
        all_kept, others = _OTHERS_COST[strategy]
        if kept < layers:
            return others.format(layers - kept)
        strategy = all_kept
    return None if strategy == "keep" else COSTS.get(strategy)


def _leaner(switch: str, one: Any, other: Any) -> Any:
    if switch in _LEANNESS:
        return max(one, other, key=_LEANNESS[switch].index)
    return min(one, other, key=lambda chunk: chunk or float("inf"))  # 0: no chunks


def manual_candidate(section: MemorySection) -> Candidate:
    """Returns the current settings, named after the strategy that they equal."""
    switches = switches_of(section)
    for name, wanted in STRATEGIES.items():
        if switches.items() >= wanted.items():
            return Candidate(name, name, section)
    return Candidate("as set by hand", "custom", section)


def settled(config: RunConfig, switches: Mapping[str, object]) -> RunConfig:
    """Sets these `[memory]` switches as if by hand."""
    memory = config.memory.model_copy(update={**switches, "strategy": "manual"})
    return config.model_copy(update={"memory": memory})
