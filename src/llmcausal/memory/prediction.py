"""A training step's memory, which `predict` finds without the model's weights."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context, parent_process
from typing import Any, Literal

from llmcausal.config import MemorySection, RunConfig
from llmcausal.data.tokenization import EncodedMember, EncodedTriplet
from llmcausal.launched import windows_driver

COMPONENTS = (
    "base_model",
    "adapters",
    "optimizer",
    "gradients",
    "activations",
    "logits",
    "dequantization",
    "misc",
)
"""Rows of the table, in order; the CUDA context is extra (`context_bytes`)."""
CONTEXT_BYTES = 450 * 2**20
"""A CUDA context with library handles and kernels: 300 to 450 MiB, by card and driver."""
NAIVE = "naive"
"""The usual recipe, predicted for comparison; no strategy to train with."""
SWITCHES = (
    "activations",
    "kept_layers",
    "embeddings",
    "head",
    "lora_dtype",
    "members",
    "token_chunk",
    "label_chunk",
    "vocabulary_chunk",
    "shards",
)
"""Settings of `[memory]` that decide how a step runs."""

Device = Literal["cuda", "cpu"]


def switches_of(section: MemorySection) -> dict[str, Any]:
    return {name: getattr(section, name) for name in SWITCHES}


def kept_of(section: MemorySection, layers: int) -> int:
    """Returns how many of a model's last layers keep activations while the others recompute."""
    return 0 if section.activations == "keep" else min(section.kept_layers, layers)


@dataclass(frozen=True)
class Workload:
    """The longest micro-batch that a step must hold."""

    member_tokens: int  # tokens of each member, prompt and response together
    shared_tokens: int = 0  # tokens of the prefix that all members of a triplet share
    response_tokens: int = 256  # scored tokens of each scored member
    triplets: int = 1

    def made_up(self) -> list[EncodedTriplet]:
        """Makes meaningless triplets of these lengths, for every loss term.

        No two prompts share more than `shared_tokens`. An attack does not change the right answer.
        """
        made = []
        for row in range(self.triplets):
            first = 6 * row
            shared = (first,) * min(self.shared_tokens, self.member_tokens - 1)
            members = []
            for number, scored in enumerate((True, False, True, True, True)):
                whole = shared + (first + 1 + number,) * (self.member_tokens - len(shared))
                scored_tokens = min(self.response_tokens, len(whole) - 1) if scored else 0
                cut = len(whole) - scored_tokens
                members.append(EncodedMember(whole[:cut], whole[cut:]))
            benign, other, injection, obeying, yielding = members
            injection = EncodedMember(injection.prompt, benign.response)
            reference = (1.0, 1.0)
            made.append(
                EncodedTriplet(str(row), benign, other, injection, obeying, yielding, reference)
            )
        return made


@dataclass(frozen=True)
class AnswerLoad:
    """A batch of prompts that a model answers together; no answer ends early."""

    prompts: int  # number of prompts
    prompt_tokens: int  # tokens of each prompt
    shared_tokens: int = 0  # tokens of the prefix that all prompts share
    new_tokens: int = 32  # tokens of each answer

    def made_up(self) -> list[tuple[int, ...]]:
        """Makes meaningless prompts of these lengths; no two share more than `shared_tokens`."""
        shared = (0,) * min(self.shared_tokens, self.prompt_tokens - 1)
        own = self.prompt_tokens - len(shared)
        return [shared + (row + 1,) * own for row in range(self.prompts)]


Rehearsal = Callable[
    [Any, Sequence[Sequence[int]], int, Callable[[int], None]], Iterator[tuple[str, int]]
]
"""Runs a batch's passes: takes a base model, prompts, the tokens of each answer, and what to call
with a layer's number before its keys are copied. Yields a pass's name and how often an answer takes
it, before the pass."""


@dataclass(frozen=True)
class HeldTensors:
    """Tensors alive at the peak, of one role of parameters or from one operation."""

    component: str
    what: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Moment:
    """A point of the step's timeline: its phase, and the allocated bytes by component.

    Phases are `weights`, `forward`, `loss`, `backward` and `optimizer`; of answers `weights`,
    `prompts` and `tokens`.
    """

    phase: str
    allocated_bytes: dict[str, int]


@dataclass(frozen=True)
class Kernel:
    """One operation's work on the device."""

    name: str
    flops: int  # in products; a multiply and an add count as two
    bytes: int  # read and written
    crosses: bool = False  # whether they cross between host and device


@dataclass(frozen=True)
class Prediction:
    """Outcome of a simulated step, or of an evaluation's passes."""

    architecture: str  # the model's name in the settings
    device: str
    strategy: str  # name in `memory.strategies`, or `custom`
    switches: dict[str, Any]
    workload: Workload | AnswerLoad
    components: dict[str, int]  # bytes on the device at the peak, for each of `COMPONENTS`
    allocated_bytes: int  # their sum: the tensors' peak, optimizer states included
    reserved_bytes: int  # the caching allocator's peak; `allocated_bytes` on a CPU
    reserved_expandable_bytes: int  # the same with expandable segments
    context_bytes: int  # `CONTEXT_BYTES`, or 0 on a CPU
    # Peak in host memory without the process itself: embeddings and head there, and offloaded
    # activations. 0 on a CPU, where `allocated_bytes` has everything.
    host_bytes: int
    peak_phase: str
    peak_tensors: tuple[HeldTensors, ...]  # largest first
    timeline: tuple[Moment, ...]  # at most a few hundred moments in order, with the peak
    kernels: tuple[tuple[Kernel, int], ...]  # of forward and backward pass, with their counts
    extrapolated: bool  # whether a shallower run stands for all layers
    seconds: float  # duration of the prediction

    @property
    def launches(self) -> int:
        """The number of kernels, copies between host and device included."""
        return sum(count for _, count in self.kernels)

    @property
    def weight_reads(self) -> int:
        """How often the device reads a 4-bit weight, unpacked or not."""
        names = ("gemm_4bit", "dequantize_4bit")
        return sum(count for kernel, count in self.kernels if kernel.name in names)

    @property
    def needed_bytes(self) -> int:
        """The step's share of a budget; on CUDA with the allocator's share and the context."""
        if self.device == "cpu":
            return self.allocated_bytes
        expandable = uses_expandable_segments()
        reserved = self.reserved_expandable_bytes if expandable else self.reserved_bytes
        return reserved + self.context_bytes


def uses_expandable_segments() -> bool:
    """Reads whether the environment asks CUDA's allocator for expandable segments."""
    asked = (os.environ.get(name, "") for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))
    return any("expandable_segments:true" in text.lower().replace(" ", "") for text in asked)


@dataclass(frozen=True)
class GpuTraits:
    """A GPU's traits that change a step's memory."""

    flash: bool = True  # whether torch has flash attention for this GPU
    pages: bool = True  # whether an optimizer may page its states to the host
    # Deterministic flash attention sums a gradient in parts that fill them. The default is typical
    # for 8 GB cards; the RTX 4050 has 20.
    multiprocessors: int = 32

    def notes(self, optimizer: str) -> list[str]:
        """Explains to the user what a run with `train.optimizer` lacks on this GPU."""
        notes = []
        if not self.flash:
            notes.append(
                "attention: no flash attention in this torch for this GPU; the prediction counts "
                "key heads repeated for each query head"
            )
        if not self.pages and optimizer == "paged_adamw_8bit":
            notes.append(
                "optimizer: its 8-bit states stay on the GPU and are counted there, since paging "
                "under the Windows driver can end the process"
            )
        return notes


def traits_here() -> GpuTraits:
    """Returns the traits of this machine's GPU, or the expected ones of any."""
    import torch

    from llmcausal.model.device import has_flash_attention

    traits = GpuTraits(flash=has_flash_attention(), pages=not windows_driver())
    if not torch.cuda.is_available():
        return traits
    count = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    return replace(traits, multiprocessors=count)


def predict(
    config: RunConfig, workload: Workload, *, device: Device, strategy: str = "custom"
) -> Prediction:
    """Predicts one step's peak: runs the production step on a fake model.

    A deep model with equal layers runs with seven of them. The trace repeats the fourth.

    Args:
        device: `cuda` is simulated; `cpu` predicts real runs without `model.unpack_on_cpu`.
        strategy: The reported name; `naive` predicts the usual recipe and ignores `config.memory`.

    Raises:
        ModelError: If the architecture is unknown.
        ConfigError: If the settings do not fit it.
    """
    return _simulated(device, "run", config, workload, strategy)


def predict_answers(
    config: RunConfig, load: AnswerLoad, rehearsal: Rehearsal, *, device: Device
) -> Prediction:
    """Predicts the peak of answering a batch of prompts; the model has its adapters.

    Args:
        rehearsal: A module's function, which the process that simulates CUDA can import.

    Raises:
        ModelError: If the architecture is unknown, or is not decoded as the rehearsal does.
        ConfigError: If the settings do not fit it.
    """
    return _simulated(device, "run_answers", config, load, rehearsal)


def predict_reading(config: RunConfig, workload: Workload, *, device: Device) -> Prediction:
    """Predicts the peak of a pass over texts without gradients; raises as `predict_answers`."""
    return _simulated(device, "run_reading", config, workload)


def _simulated(device: Device, name: str, config: RunConfig, load: Any, *more: Any) -> Prediction:
    """Runs a function of `simulation.run`; for CUDA in the process that simulates it."""
    if device == "cuda":
        return _child().submit(_run, name, config, load, traits_here(), *more).result()
    return _run(name, config, load, None, *more)


def end_child() -> None:
    """Ends the process that simulates CUDA, if there is one: it holds half a GiB of host memory."""
    if _child.cache_info().currsize:
        _child().shutdown()
        _child.cache_clear()


@cache
def _child() -> ProcessPoolExecutor:
    """Starts the process that simulates CUDA, once.

    torch must know the simulated device before the first backward pass. From then on torch takes
    it for the machine's accelerator, so code that pins memory or saves random states no longer
    finds a real GPU. A process that trains therefore never simulates.
    """
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin)


def _begin() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # Windows takes "" for unset
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process if the parent was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(name: str, *arguments: Any) -> Prediction:
    simulation = importlib.import_module("llmcausal.memory.simulation.run")
    found: Prediction = getattr(simulation, name)(*arguments)
    return found
