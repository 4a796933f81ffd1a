"""bf16 and NF4 at the shapes of Llama 3.1 8B's layers, two of them with random weights.

Gradients: the step's against separate passes with all logits, both in bf16 and both compared with
fp32 passes over the same dequantized weights. The step must be no further from those than the
separate bf16 passes are. Memory: the allocator's peaks against the predictions.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer

from llmcausal.config import MemorySection, ModelSection, RunConfig
from llmcausal.data.tokenization import EncodedMember, EncodedTriplet
from llmcausal.memory.architecture import load_architecture
from llmcausal.memory.measure import measure_triplets
from llmcausal.memory.prediction import Workload, predict
from llmcausal.memory.strategies import STRATEGIES
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.factory import load_model, quiet_libraries
from llmcausal.model.trunk import find_trunk
from llmcausal.profile import load_config
from llmcausal.train.batch import collate, label_totals
from llmcausal.train.build import build_adapters, build_execution, set_memory
from llmcausal.train.objective import Objective
from llmcausal.train.step import TripletStep
from tests.tiny import make_tokenizer
from tests.train.test_terms import by_hand

pytestmark = [pytest.mark.slow, pytest.mark.bf16, pytest.mark.timeout(1200)]

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
CPU = torch.device("cpu")
FURTHER = 1.3
"""The step may be this many times as far from fp32 as separate bf16 passes, and each matrix the
square of it: about as many roundings, but others. Whole layers round scores before the softmax.
"""
Gradients = dict[str, torch.Tensor]
MakeConfig = Callable[..., RunConfig]
WITHOUT = {"lambda_swap": 0, "lambda_preference": 0}
NARROW = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}
"""As wide a head and as many queries of a key, so that attention over long rows takes seconds."""


def long(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.fixture(scope="module")
def make_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeConfig]:
    """Makes the settings of profile `rtx4050` for two layers on the CPU: `make(vocabulary)`."""
    made: dict[tuple[int, bool], Path] = {}

    def make(
        vocabulary: int, strategy: str = "recompute", *, narrow: bool = False, **loss: Any
    ) -> RunConfig:
        if (vocabulary, narrow) not in made:
            folder = tmp_path_factory.mktemp("layers")
            shape = {"vocab_size": vocabulary, **(NARROW if narrow else {})}
            made[vocabulary, narrow] = save_layers(folder, shape)
        return config_of(made[vocabulary, narrow], strategy, **loss)

    yield make
    for folder in made.values():
        shutil.rmtree(folder)  # gigabytes


def config_of(model: Path, strategy: str = "recompute", **loss: Any) -> RunConfig:
    of_model = {"name": model, "device": "cpu", "unpack_on_cpu": "false"}
    settings = {f"model.{name}": value for name, value in of_model.items()}
    settings |= {f"loss.{name}": value for name, value in {"layer": -1, **loss}.items()}
    config = load_config("rtx4050", [f"{name}={value}" for name, value in settings.items()])
    return config.model_copy(update={"memory": memory_of(strategy)})


def save_layers(folder: Path, changes: dict[str, int]) -> Path:
    """Quantizes random weights as the program does, and stores them: that takes 15 s a time."""
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer()
    shape: Any = load_architecture(ModelSection(name=LLAMA))
    for name, value in {"num_hidden_layers": 2, **changes}.items():
        setattr(shape, name, value)
    shape.bos_token_id, shape.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
        for name, weight in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(weight, 1.0, 0.1)
    whole, stored = folder / "bf16", folder / "nf4"
    with quiet_libraries():
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        del model
        load_model(config_of(whole).model).model.save_pretrained(stored)
        tokenizer.save_pretrained(stored)
    shutil.rmtree(whole)
    return stored


def memory_of(strategy: str) -> MemorySection:
    return MemorySection(**{"strategy": "manual", **STRATEGIES[strategy]})


def load_adapted(config: RunConfig) -> Any:
    """Loads the model as training does; its adapters change what it says."""
    model = build_adapters(config, load_model(config.model))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02, generator=generator)
    return model.train()


def attacked_triplet(length: int, answer: int, vocabulary: int) -> EncodedTriplet:
    """Makes random tokens that share what members of a real triplet share.

    The attack begins after three quarters of the text; both answers to it follow the same prompt.
    The swapped prompt shares only the beginning.
    """
    rng = random.Random(3)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(count))

    text, right, obeying = tokens(length - answer), tokens(answer), tokens(answer)
    cut = 3 * len(text) // 4
    attacked = text[:cut] + tokens(len(text) - cut)
    return EncodedTriplet(
        "0",
        benign=EncodedMember(text, right),
        benign_cf=EncodedMember(tokens(1), ()),  # no term reads it
        injection=EncodedMember(attacked, right),
        obeying=EncodedMember(text[: length // 8] + tokens(length // 8), obeying),
        yielding=EncodedMember(attacked, obeying),
        reference=(10.0, 10.0),
    )


def taken_gradients(model: Any) -> Gradients:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def gradients_of_step(
    model: Any, triplet: EncodedTriplet, config: RunConfig, strategy: str
) -> Gradients:
    memory = memory_of(strategy)
    set_memory(model, memory, CPU)
    objective = Objective(config.loss)
    step = TripletStep(find_trunk(model), objective, build_execution(memory, torch.bfloat16))
    batch = collate([triplet], objective.needs, config.loss.pooling)
    step(batch, label_totals([batch]), torch.Tensor.backward)
    return taken_gradients(model)


@contextmanager
def plain_forward(model: Any) -> Iterator[None]:
    """Lets transformers attend; layers run again, since fp32 activations would take 8 GB."""
    set_memory(model, memory_of("recompute"), CPU)
    config = model.get_base_model().config
    attention, config._attn_implementation = config._attn_implementation, "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = attention


def gradients_by_hand(
    model: Any, triplet: EncodedTriplet, config: RunConfig, dtype: torch.dtype
) -> Gradients:
    with plain_forward(model):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = by_hand(model, [triplet], config.loss)
        loss.backward()
    return taken_gradients(model)


def widen(model: Any) -> None:
    """Makes it compute in fp32, with the weights that bf16 products have seen."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and isinstance(layer.get_base_layer(), Linear4bit):
            packed: Any = layer.get_base_layer().weight
            dense = torch.nn.Linear(*reversed(packed.quant_state.shape), bias=False, device="meta")
            dense.weight = torch.nn.Parameter(
                dequantize_4bit(packed.data, packed.quant_state).float(), requires_grad=False
            )
            layer.base_layer = dense  # type: ignore[assignment]
    model.float()


def apart(found: Gradients, wanted: Gradients, names: Iterable[str]) -> float:
    """Distance of these gradients, relative to their norm."""
    pairs = [(found[name].double(), wanted[name].double()) for name in names]
    distance = sum(float((one - other).square().sum()) for one, other in pairs)
    return float((distance / sum(float(other.square().sum()) for _, other in pairs)) ** 0.5)


@pytest.mark.parametrize(
    ("vocabulary", "length", "answer", "loss", "executions"),
    [
        (8192, 256, 32, WITHOUT, ("recompute", "whole")),
        (32768, 128, 16, {}, ("lean",)),
        long(8192, 2048, 128, WITHOUT, ("recompute", "whole")),
        long(128256, 128, 16, {}, ("recompute", "lean", "one_by_one")),
    ],
)
def test_gradients_are_as_near_to_fp32_as_those_of_separate_passes(
    make_config: MakeConfig,
    vocabulary: int,
    length: int,
    answer: int,
    loss: dict[str, float],
    executions: tuple[str, ...],
) -> None:
    config = make_config(vocabulary, **loss)
    triplet = attacked_triplet(length, answer, vocabulary)
    model = load_adapted(config)
    head = model.get_base_model().get_output_embeddings()
    found: dict[str, Gradients] = {}

    def timed(name: str, compute: Callable[[], Gradients]) -> None:
        began = time.process_time()
        found[name] = compute()
        print(f"{name}: {time.process_time() - began:.0f} s of processor time", flush=True)

    timed("separate", lambda: gradients_by_hand(model, triplet, config, torch.bfloat16))
    for name in executions:
        whole = name == "whole"
        with whole_layers(model) if whole else nullcontext(2) as layers:
            assert layers == 2
            strategy = "recompute" if whole else name
            timed(name, lambda s=strategy: gradients_of_step(model, triplet, config, s))  # type: ignore[misc]
    model.get_base_model().set_output_embeddings(head)  # not the streamed one
    widen(model)
    timed("fp32", lambda: gradients_by_hand(model, triplet, config, torch.float32))
    exact, separate = found.pop("fp32"), found.pop("separate")
    assert len(exact) == 2 * 7 * 2
    for name, gradients in found.items():
        assert gradients.keys() == exact.keys()
        every = apart(gradients, exact, exact), apart(separate, exact, exact)
        each = {
            key: (apart(gradients, exact, [key]), apart(separate, exact, [key])) for key in exact
        }
        worst = max(each, key=lambda key: each[key][0] / each[key][1])
        print(f"{name}: {every[0]:.5f}, separate {every[1]:.5f}; worst {worst} {each[worst]}")
        assert every[0] < FURTHER * every[1]
        assert every[1] < 0.1
        assert each[worst][0] < FURTHER**2 * each[worst][1]


@pytest.mark.parametrize(
    ("strategy", "vocabulary", "workload", "narrow"),
    [
        ("keep", 8192, Workload(128, 64, 32), False),
        ("recompute", 8192, Workload(128, 64, 32), False),
        ("lean", 32768, Workload(128, 64, 32), False),
        long("one_by_one", 8192, Workload(128, 64, 32), False),
        long("lean", 128256, Workload(128, 64, 32), False),
        ("recompute", 8192, Workload(2048, 1536, 64), True),
        long("keep", 8192, Workload(2048, 1536, 64), True),
        long("one_by_one", 8192, Workload(2048, 1536, 64), True),
        long("lean", 128256, Workload(2048, 1536, 64), True),
    ],
)
def test_steps_take_what_was_predicted(
    make_config: MakeConfig, strategy: str, vocabulary: int, workload: Workload, narrow: bool
) -> None:
    config = make_config(vocabulary, strategy, narrow=narrow)
    found = predict(config, workload, device="cpu", strategy=strategy)
    began = time.process_time()
    measured = measure_triplets(config, workload.made_up(), steps=2).allocated_peak_bytes
    base = found.components["base_model"]
    wanted, taken = found.allocated_bytes - base, measured - base
    print(
        f"{strategy}: {base / 2**20:.1f} MiB of weights, predicted {wanted / 2**20:.1f} MiB more, "
        f"measured {taken / 2**20:.1f} MiB, {wanted / taken - 1:+.2%}; peak in {found.peak_phase}; "
        f"{time.process_time() - began:.0f} s of processor time"
    )
    assert wanted == pytest.approx(taken, rel=0.02)
