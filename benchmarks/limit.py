"""What part of the machine's rates a step reaches, and where the rest goes.

    python -m benchmarks.limit [--precision bf16] [--only 256:0.5 ...] [--rounds 3]

Our step on SmolLM2-135M (unquantized, LoRA r=16), and the plain padded batch beside it, over
one triplet. Products are counted, not estimated from time: every product with a frozen weight
(forward, and backward to its input) and the output head at the labelled positions. Attention, the
adapters' own products and what a strategy computes twice are work on top that is not counted.
Operator times are torch's profiler's own (self) times, from a run of its own. The machine's rates
are the best product of two 1024 x 1024 matrices, by torch (MKL) and by oneDNN, and a copy of 256
MiB, taken before and after each round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.peers.ours import Ours
from benchmarks.peers.plain import DTYPES, Plain
from benchmarks.result import header, write
from benchmarks.step_peers import MODEL, SEED
from benchmarks.step_workload import Case, builtin_stream, make_workload, write_workload
from llmcausal.config import ModelSection
from llmcausal.model.cpu_layers import product
from llmcausal.model.factory import resolve_source

GOALS = {"fp32": 0.7, "bf16": 0.4}
WARM_STEPS = 3
CASES = ("256:0.5", "512:0.5")
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ours: keep": (Ours, {"strategy": "keep", "unpack": True}),
    "ours: recompute": (Ours, {"strategy": "recompute", "unpack": True}),
    "ours: keep, torch's products": (Ours, {"strategy": "keep", "unpack": False}),
    "plain, one batch": (Plain, {"passes": "one"}),
}
CLASSES: dict[str, tuple[str, ...]] = {
    "products of weights and adapters": ("_linear_pointwise", "::mm", "::addmm", "::linear"),
    "attention": ("attention", "softmax", "::bmm", "embedding_bag", "index_select"),
    "copies and layout": ("copy_", "cat", "clone", "index", "contiguous", "gather", "slice"),
    "gradients added up": ("AccumulateGrad", "add_"),
}  # fmt: skip
REST = "elementwise, norms and the rest"


def class_of(operator: str) -> str:
    """Returns the class that an operator's time is counted in."""
    for name, parts in CLASSES.items():
        if any(part in operator for part in parts):
            return name
    return REST


def profiled(variant: Any, triplets: list[dict[str, Any]]) -> dict[str, float]:
    """Returns each class's share of a step's own operator time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        variant.run(triplets)
    shares = dict.fromkeys((*CLASSES, REST), 0.0)
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    for event in events:
        shares[class_of(event.key)] += event.self_cpu_time_total / total
    return shares


def counted_flop(model: Any, tokens: int, labels: int) -> int:
    """Counts the products with frozen weights in a forward and backward pass.

    Args:
        model: With adapters.
        tokens: That go through the layers.
        labels: Positions that go through the output head.
    """
    base = model.get_base_model()
    head = base.get_output_embeddings()
    frozen = sum(
        module.weight.numel()
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and module is not head
    )
    flop: int = 4 * (frozen * tokens + head.weight.numel() * labels)
    return flop


class Traffic(TorchDispatchMode):
    """Counts the bytes of what every operator reads and writes; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = {
                id(leaf): leaf
                for leaf in tree_leaves((args, kwargs, result))
                if isinstance(leaf, torch.Tensor)
            }
            self.count += sum(each.numel() * each.element_size() for each in tensors.values())
        return result


def best_seconds(work: Callable[[], Any], tries: int = 20) -> float:
    """Returns the shortest time of some tries."""
    best = float("inf")
    for _ in range(tries):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def machine_rates(precision: str) -> dict[str, float]:
    """Measures FLOP/s of products by library, and copied bytes/s, read and written."""
    a, b = (torch.randn(1024, 1024).to(DTYPES[precision]) for _ in range(2))
    source, target = torch.ones(2, 2**26)
    flop = 2 * 1024**3
    return {
        "torch": flop / best_seconds(lambda: a @ b),
        "oneDNN": flop / best_seconds(lambda: product(a, b)),
        "copy": 2 * source.nbytes / best_seconds(lambda: target.copy_(source)),
    }


def measure(folder: Path, case: dict[str, Any], rounds: int) -> tuple[list[Any], list[Any]]:
    """Runs one case's variants in turn; returns their rows, and the machine's rates."""
    triplets = case["triplets"]
    workload = json.loads((folder / "workload.json").read_text("utf-8"))
    variants = {name: made(folder, workload, options) for name, (made, options) in VARIANTS.items()}
    shares = {key: profiled(variant, triplets) for key, variant in variants.items()}
    traffic, samples = {}, {key: list[float]() for key in variants}
    for key, variant in variants.items():
        with Traffic() as counted:
            variant.run(triplets)
        traffic[key] = counted.count
    precision = workload["precision"]
    for variant in variants.values():
        for _ in range(WARM_STEPS):  # what allocates most is slow for several steps
            variant.run(triplets)
    tokens, rates = {}, [machine_rates(precision)]
    for _ in range(rounds):
        for key, variant in variants.items():
            started = time.perf_counter()
            _, tokens[key] = variant.run(triplets)
            samples[key].append(time.perf_counter() - started)
        rates.append(machine_rates(precision))
    best = {name: max(each[name] for each in rates) for name in rates[0]}
    labels = sum(len(triplets[0][member]["response"]) for member in ("benign", "injection"))
    rows = []
    for key, variant in variants.items():
        logits = labels if "ours" in key else tokens[key]
        flop = counted_flop(variant.modules[0], tokens[key], logits)
        seconds = statistics.median(samples[key])
        rows.append(
            {
                "variant": key,
                "tokens": tokens[key],
                "flop": flop,
                "samples": samples[key],
                "share_of_rate": {
                    name: flop / seconds / best[name] for name in ("torch", "oneDNN")
                },
                "traffic_bytes": traffic[key],
                "share_of_bandwidth": traffic[key] / seconds / best["copy"],
                "operator_time": shares[key],
            }
        )
    return rows, rates


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", metavar="LENGTH:SHARE", default=CASES, help="prompt tokens and share"
    )
    parser.add_argument("--precision", choices=tuple(GOALS), default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    pairs = [each.split(":") for each in arguments.only]
    cases = [Case(int(length), float(share), 1) for length, share in pairs]
    precision = arguments.precision
    result = header("limit", {"workload": SEED}) | {"goal": GOALS[precision], "rows": []}
    result["name"] += "" if precision == "fp32" else f"_{precision}"
    result["precision"] = precision
    result["samples"] = {"rounds": arguments.rounds, "unit": "seconds per step"}
    rates: list[dict[str, float]] = []
    model = resolve_source(ModelSection(name=MODEL))
    workload = make_workload(cases, builtin_stream(MODEL), model=model, rank=16, seed=SEED)
    with tempfile.TemporaryDirectory(prefix="limit-") as name:
        folder = Path(name)
        write_workload(folder, workload | {"precision": precision})
        for case in cases:
            rows, found = measure(folder, workload["cases"][case.name], arguments.rounds)
            rates += found
            result["flop_per_second"] = {
                name: [each[name] for each in rates] for name in ("torch", "oneDNN")
            }
            result["bytes_per_second"] = [each["copy"] for each in rates]
            result["rows"] += [{"case": case.name, **row} for row in rows]
            print(case.name)
            for row in rows:
                shares = ", ".join(
                    f"{part:.0%} of {name}'s" for name, part in row["share_of_rate"].items()
                )
                print(f"  {row['variant']:30}{row['tokens']:6} tokens"
                      f"{statistics.median(row['samples']):8.2f} s, {shares} rate; "
                      f"{row['share_of_bandwidth']:.0%} of the bandwidth")  # fmt: skip
            write(result, arguments.out)  # an interrupted run leaves what it has


if __name__ == "__main__":
    main()
