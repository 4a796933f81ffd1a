"""What part of the machine's matrix-product rate a step reaches, and where the rest goes.

    python -m benchmarks.limit [--length 256] [--share 0.5]

Our step on SmolLM2-135M (fp32, unquantized, LoRA r=16, activations kept), and the plain padded
batch beside it, over one triplet. Products are counted, not estimated from time: every product
with a frozen weight (forward, and backward to its input) and the output head at the labelled
positions. Attention and the adapters' own products are work on top that is not counted. Operator
times are torch's profiler's own (self) times, from a run of its own. The machine's rate is the best
product of two 1024 x 1024 matrices, taken before and after each round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result import header, write
from benchmarks.step_peers import MODEL, SEED
from benchmarks.step_workload import Case, builtin_stream, make_workload, write_workload

GOAL = 0.7
CLASSES = {
    "products with frozen weights, laid out for oneDNN": ("_linear_pointwise",),
    "other matrix products: adapters, head, pooling": ("::mm", "::addmm", "::bmm", "::linear"),
    "attention": ("attention", "softmax"),
    "copies and layout": ("copy_", "cat", "clone", "index", "contiguous", "gather", "slice"),
    "gradients added up": ("AccumulateGrad", "add_"),
}
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
    import torch

    base = model.get_base_model()
    head = base.get_output_embeddings()
    frozen = sum(
        module.weight.numel()
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and module is not head
    )
    flop: int = 4 * (frozen * tokens + head.weight.numel() * labels)
    return flop


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=256, help="prompt tokens of a member")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", default="", help="other work on the machine, for the record")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    from benchmarks.peers.ours import Ours
    from benchmarks.peers.plain import Plain
    from benchmarks.step import matmul_rate
    from llmcausal.config import ModelSection
    from llmcausal.model.factory import resolve_source

    result = header("limit", {"workload": SEED}, arguments.beside) | {"goal": GOAL}
    case = Case(arguments.length, arguments.share, 1)
    model = resolve_source(ModelSection(name=MODEL))
    workload = make_workload([case], builtin_stream(MODEL), model=model, rank=16, seed=SEED)
    triplets = workload["cases"][case.name]["triplets"]
    with tempfile.TemporaryDirectory(prefix="limit-") as name:
        folder = Path(name)
        write_workload(folder, workload)
        variants = {
            f"ours: keep{', unpacked' if unpack else ''}": Ours(
                folder, workload, {"strategy": "keep", "unpack": unpack}
            )
            for unpack in (True, False)
        } | {"plain, one batch": Plain(folder, workload, {"passes": "one"})}
    shares = {key: profiled(variant, triplets) for key, variant in variants.items()}
    samples: dict[str, list[float]] = {key: [] for key in variants}
    tokens, rates = {}, [matmul_rate()]
    for _ in range(arguments.rounds):
        for key, variant in variants.items():
            started = time.perf_counter()
            _, tokens[key] = variant.run(triplets)
            samples[key].append(time.perf_counter() - started)
        rates.append(matmul_rate())
    labels = sum(len(triplets[0][member]["response"]) for member in ("benign", "injection"))
    result |= {"case": case.name, "matmul_flop_per_second": rates, "rows": []}
    result["samples"] = {"rounds": arguments.rounds, "unit": "seconds per step"}
    for key, variant in variants.items():
        logits = labels if "ours" in key else tokens[key]
        flop = counted_flop(variant.modules[0], tokens[key], logits)
        seconds = statistics.median(samples[key])
        row = {
            "variant": key, "tokens": tokens[key], "flop": flop, "samples": samples[key],
            "share_of_matmul_rate": flop / seconds / max(rates), "operator_time": shares[key],
        }  # fmt: skip
        result["rows"].append(row)
        print(f"{key:24}{tokens[key]:6} tokens{seconds:8.2f} s, "
              f"{row['share_of_matmul_rate']:.1%} of the matrix-product rate")  # fmt: skip
        print(json.dumps(row["operator_time"], indent=1))
    write(result, arguments.out)


if __name__ == "__main__":
    main()
