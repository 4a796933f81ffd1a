"""Predicted step times against real ones on this CPU.

    python -m benchmarks roofline [--repeats 5]

The same counts and the same roofline predict a GPU's time (`profile-memory`). Here the rates are
this CPU's own: a matrix product, a norm with a gated activation for memory traffic (a CPU computes
these slower than it copies), and a kernel's launch. The launch is a step's time per kernel with
members of 16 tokens, which compute almost nothing. Models have random weights: a tiny Llama, and
SmolLM2-135M's widths with two layers. A step is the forward and backward pass of one micro-batch.
Times are one thread's processor time, so other programs disturb them less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.memory import SMOLLM2, triplets_of
from benchmarks.result import header, write
from llmcausal.config import RunConfig
from llmcausal.memory.prediction import Workload, predict
from llmcausal.memory.roofline import Rates, serial_seconds
from llmcausal.memory.simulation.operations import kernels_of
from llmcausal.memory.strategies import STRATEGIES

GOAL = 0.25
SHAPES = {
    "tiny": {
        "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 2,
    },
    "135M's widths": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 2, "num_attention_heads": 9, "num_key_value_heads": 3,
    },
}  # fmt: skip
LAUNCH = Workload(16, 8, 4)
# Model, weights, strategy, member tokens, shared tokens, triplets.
CASES: tuple[tuple[str, str, str, int, int, int], ...] = (
    ("tiny", "none", "keep", 64, 32, 1),
    ("tiny", "none", "keep", 256, 0, 1),
    ("tiny", "none", "recompute", 256, 128, 2),
    ("tiny", "none", "recompute", 512, 0, 1),
    ("tiny", "none", "lean", 512, 256, 2),
    ("tiny", "nf4", "keep", 128, 64, 2),
    ("tiny", "nf4", "recompute", 512, 0, 1),
    ("135M's widths", "none", "keep", 64, 32, 1),
    ("135M's widths", "none", "keep", 256, 128, 1),
    ("135M's widths", "none", "recompute", 128, 0, 2),
    ("135M's widths", "none", "recompute", 512, 256, 1),
    ("135M's widths", "none", "streamed_head", 256, 64, 1),
    ("135M's widths", "none", "lean", 512, 0, 1),
    ("135M's widths", "none", "one_by_one", 256, 0, 1),
    ("135M's widths", "nf4", "keep", 128, 64, 1),
    ("135M's widths", "nf4", "recompute", 256, 0, 2),
)


def save(folder: str) -> None:
    """Writes models with random weights, and SmolLM2's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmcausal.config import ModelSection
    from llmcausal.model.factory import load_tokenizer

    tokenizer = load_tokenizer(ModelSection(name=SMOLLM2))
    for name, shape in SHAPES.items():
        LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(f"{folder}/{name}")
        tokenizer.save_pretrained(f"{folder}/{name}")


def config_of(folder: str, model: str, quantization: str, strategy: str) -> RunConfig:
    """Makes a run's settings."""
    section = {"name": f"{folder}/{model}", "quantization": quantization, "device": "cpu",
               "precision": "fp32", "unpack_on_cpu": False}  # fmt: skip
    memory = {"strategy": "manual", **STRATEGIES[strategy]}
    return RunConfig.model_validate({"model": section, "memory": memory})


def step_of(config: RunConfig, workload: Workload) -> Callable[[], None]:
    """Returns the real step of one micro-batch."""
    from llmcausal.model.factory import load_model
    from llmcausal.train.batch import collate, label_totals
    from llmcausal.train.build import build_adapters, build_step

    loaded = load_model(config.model, config.memory)
    model = build_adapters(config, loaded)
    step = build_step(config, loaded, model)
    model.train()
    batch = collate(triplets_of(workload), step.objective.needs, config.loss.pooling)
    return lambda: step(batch, label_totals([batch]), torch.Tensor.backward) and None


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Measures work's processor time, after two untimed calls."""
    times = []
    for _ in range(repeats + 2):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times[2:])


class Moved(TorchDispatchMode):
    """Counts the bytes of real operations as a prediction does."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.bytes += sum(each.bytes for each in kernels_of(func, args, kwargs or {}, result, None))
        return result


def norm_and_gate(rows: int = 512, width: int = 576) -> None:
    """Computes what layers compute between their products."""
    hidden = torch.ones(rows, width)
    normed = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-5)
    (torch.nn.functional.silu(normed) * normed).add(hidden)


def measured_rates(folder: str, repeats: int) -> Rates:
    """Measures this CPU's roofline."""
    matrix = torch.ones(1024, 1024)
    flops = 2 * 1024**3 / median_seconds(lambda: matrix @ matrix, 20)
    with Moved() as moved:
        norm_and_gate()
    traffic = moved.bytes / median_seconds(norm_and_gate, 30)
    config = config_of(folder, "tiny", "none", "keep")
    seconds = median_seconds(step_of(config, LAUNCH), 4 * repeats)
    kernels = predict(config, LAUNCH, device="cpu").kernels
    busy = serial_seconds(kernels, Rates(flops, traffic, traffic, 0))
    launch = (seconds - busy) / sum(count for _, count in kernels)
    return Rates(flops, traffic, traffic, launch)


def run(folder: str, repeats: int) -> dict[str, Any]:
    """Predicts and measures each case; prints as it goes."""
    rates = measured_rates(folder, repeats)
    print(f"{rates.flops / 1e9:.0f} GFLOP/s, {rates.bytes / 1e9:.1f} GB/s, "
          f"{rates.launch * 1e6:.1f} us to launch\n"
          f"{'model':15}{'weights':8}{'strategy':15}{'tokens':>7}{'shared':>7}{'triplets':>9}"
          f"{'kernels':>9}{'measured':>10}{'predicted':>10}{'error':>8}")  # fmt: skip
    rows = []
    for model, quantization, strategy, length, shared, triplets in CASES:
        workload = Workload(length, shared, min(64, length // 4), triplets)
        config = config_of(folder, model, quantization, strategy)
        found = predict(config, workload, device="cpu")
        predicted = serial_seconds(found.kernels, rates)
        measured = median_seconds(step_of(config, workload), repeats)
        error = predicted / measured - 1
        row = [model, quantization, strategy, length, shared, triplets, found.launches]
        names = ("model", "weights", "strategy", "tokens", "shared", "triplets", "kernels")
        row_values = dict(zip(names, row, strict=True))
        rows.append({**row_values, "measured": measured, "predicted": predicted, "error": error})
        print(f"{model:15}{quantization:8}{strategy:15}{length:7}{shared:7}{triplets:9}"
              f"{found.launches:9}{measured:10.4f}{predicted:10.4f}{error:+8.1%}",
              flush=True)  # fmt: skip
    errors = [row["error"] for row in rows]
    within = sum(abs(error) <= GOAL for error in errors)
    print(f"{within} of {len(rows)} within {GOAL:.0%}; from {min(errors):+.0%} to "
          f"{max(errors):+.0%}, median {statistics.median(errors):+.0%}")  # fmt: skip
    return {
        "goal": GOAL,
        "within_goal": within,
        "rates": vars(rates),
        "rows": rows,
    }


def main() -> None:
    """Runs all cases, prints the table and writes the JSON result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report = header("roofline", {"triplets": 0})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        report |= run(folder, arguments.repeats)
    write(report, arguments.out)


if __name__ == "__main__":
    main()
