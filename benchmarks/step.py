"""One training step as a prefix tree against padded batches, on the same triplets in one run.

    python -m benchmarks.step [TRIPLETS.jsonl] [--count 16] [--group 8] [--max-length 512]

Every variant computes the same objective on SmolLM2-135M-Instruct with LoRA r=16 in fp32, without
quantization. `padded` is plain transformers and peft as users write it: the members of a triplet
as one padded batch and logits at every position. Times are medians over rounds in which the
variants take turns; losses must agree to 1e-4.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from llmcausal.assembly.prepare import load_template
from llmcausal.assembly.run_directory import environment
from llmcausal.config import RunConfig
from llmcausal.data.builtin import generate
from llmcausal.data.formats import read_triplets
from llmcausal.data.sampler import epoch_order
from llmcausal.data.tokenization import EncodedTriplet, TripletEncoder
from llmcausal.data.triplet import MEMBERS
from llmcausal.model.factory import load_model
from llmcausal.model.lora import add_lora
from llmcausal.train.batch import collate, label_totals
from llmcausal.train.build import build_step

RESULT = Path(__file__).parent / "results" / "step.json"
TAU = 0.07
TOLERANCE = 1e-4


@dataclass
class Variant:
    """One way to compute the step.

    Attributes:
        name: What the table calls it.
        run: Computes loss and gradients of a group of triplets; returns each triplet's loss sum.
        group: Triplets in one call.
        rounds: How often it is measured.
    """

    name: str
    run: Callable[[Sequence[EncodedTriplet]], float]
    group: int
    rounds: int


def padded(model: Any, projection: Any, max_length: int | None) -> Any:
    """Returns the plain step: one padded batch of three rows a triplet, full logits."""

    def run(triplets: Sequence[EncodedTriplet]) -> float:
        members = [getattr(triplet, name) for triplet in triplets for name in MEMBERS]
        sequences = [member.prompt + member.response for member in members]
        width = max_length or max(map(len, sequences))
        ids = torch.zeros(len(sequences), width, dtype=torch.long)
        visible, prompt = torch.zeros_like(ids), torch.zeros(len(sequences), width)
        labels = torch.full_like(ids, -100)
        for row, (member, sequence) in enumerate(zip(members, sequences, strict=True)):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            visible[row, : len(sequence)] = 1
            prompt[row, : len(member.prompt)] = 1
            labels[row, len(member.prompt) : len(sequence)] = torch.tensor(member.response)
        output = model(input_ids=ids, attention_mask=visible, output_hidden_states=True)
        last = output.hidden_states[-1]
        pooled = (last * prompt[..., None]).sum(1) / prompt.sum(1, keepdim=True)
        benign, counterfactual, injection = projection(pooled).unflatten(0, (-1, 3)).unbind(1)
        near = cosine_similarity(benign, counterfactual, dim=-1)
        far = cosine_similarity(benign, injection, dim=-1)
        loss: Tensor = (0.5 * (far - near) / TAU).sum()
        for start in (0, 2):  # benign carries the task loss, injection the robust one
            loss = loss + cross_entropy(
                output.logits[start::3, :-1].flatten(0, 1), labels[start::3, 1:].flatten(),
                reduction="sum",
            ) / int((labels[start::3] != -100).sum())  # fmt: skip
        loss.backward()
        return float(loss.detach())

    return run


def tree(step: Any) -> Any:
    """Returns the production step over one tree."""

    def run(triplets: Sequence[EncodedTriplet]) -> float:
        batch = collate(triplets, step.objective.needs, "mean")
        totals = {**label_totals([batch]), "triplets": 1}  # the sum over triplets, as above
        result = step(batch, totals)
        result.loss.backward()
        return float(result.loss.detach())

    return run


def matmul_rate() -> float:
    """Returns the best of 20 fp32 products of 1024 x 1024 matrices, in FLOP/s."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best


def timed(variant: Variant, triplets: Sequence[EncodedTriplet], reset: Any) -> tuple[float, float]:
    """Runs a variant over all triplets; returns seconds and the sum of its losses."""
    started = time.perf_counter()
    loss = 0.0
    for start in range(0, len(triplets), variant.group):
        loss += variant.run(triplets[start : start + variant.group])
    seconds = time.perf_counter() - started
    reset()
    return seconds, loss


def main() -> None:
    """Measures, prints a table and writes the JSON result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="triplet JSONL; default: built-in")
    parser.add_argument("--count", type=int, default=16, help="triplets measured")
    parser.add_argument("--group", type=int, default=8, help="triplets in the larger tree")
    parser.add_argument("--max-length", type=int, default=512, help="length of full padding")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of triplets")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()

    config = RunConfig.model_validate(
        {"model": {"quantization": "none", "device": "cpu", "precision": "fp32"},
         "memory": {"activations": "keep"}}
    )  # fmt: skip
    loaded = load_model(config.model)
    model = add_lora(loaded.model, config.lora, seed=0)
    step = build_step(config, loaded, model)
    assert step.objective.projection is not None
    model.train()
    source = read_triplets(arguments.file) if arguments.file else generate("train", 64, seed=0)
    encoder = TripletEncoder(load_template(config.model, loaded.tokenizer), arguments.max_length)
    order = epoch_order(len(source), arguments.seed, epoch=0)
    encoded = (encoder.encode(source[index]) for index in order)
    triplets = list(itertools.islice((e for e in encoded if e is not None), arguments.count))
    plain = load_model(config.model.model_copy(update={"attention": "sdpa"})).model
    plain_model = add_lora(plain, config.lora, seed=0).train()
    projection = step.objective.projection
    variants = [
        Variant("tree", tree(step), 1, arguments.rounds),
        Variant("tree, several triplets", tree(step), arguments.group, arguments.rounds),
        Variant("padded to the longest", padded(plain_model, projection, None), 1,
                arguments.rounds),
        Variant(f"padded to {arguments.max_length}",
                padded(plain_model, projection, arguments.max_length), 1, 1),
    ]  # fmt: skip

    def reset() -> None:
        for module in (model, plain_model, projection):
            module.zero_grad(set_to_none=True)

    timed(variants[1], triplets, reset)  # warm-up
    rates = [matmul_rate()]
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    losses: dict[str, float] = {}
    for turn in range(arguments.rounds):
        for variant in variants:
            if turn < variant.rounds:
                spent, losses[variant.name] = timed(variant, triplets, reset)
                seconds[variant.name].append(spent)
        rates.append(matmul_rate())
    # Token means make a group's loss differ from the sum over its triplets, so only equal
    # grouping is compared.
    reference = losses["padded to the longest"]
    for name, loss in losses.items():
        if name != "tree, several triplets" and abs(loss - reference) > TOLERANCE * len(triplets):
            raise SystemExit(f"{name}: loss {loss} differs from {reference}: nothing is reported")
    report = summarize(arguments, step, triplets, seconds, losses, max(rates))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2))
    show(report, arguments.out)


def summarize(
    arguments: Any,
    step: Any,
    triplets: Sequence[EncodedTriplet],
    seconds: dict[str, list[float]],
    losses: dict[str, float],
    rate: float,
) -> dict[str, Any]:
    """Turns raw samples into the report."""
    needs = step.objective.needs

    def nodes(group: int) -> int:
        return sum(
            len(collate(triplets[start : start + group], needs, "mean").tokens)
            for start in range(0, len(triplets), group)
        )

    linear = sum(
        module.weight.numel()
        for name, module in step.trunk.decoder.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    )
    lengths = [[len(getattr(t, m)) for m in MEMBERS] for t in triplets]
    tokens = {
        "tree": nodes(1),
        "tree, several triplets": nodes(arguments.group),
        "padded to the longest": sum(3 * max(row) for row in lengths),
        f"padded to {arguments.max_length}": 3 * arguments.max_length * len(triplets),
    }
    median = {name: statistics.median(samples) / len(triplets) for name, samples in seconds.items()}
    return {
        "benchmark": "step",
        "file": str(arguments.file or "builtin"),
        "triplets": len(triplets),
        "group": arguments.group,
        "seed": arguments.seed,
        "seconds_per_triplet": median,
        "samples_seconds": seconds,
        "tokens": tokens,
        "loss_sum": losses,
        "times_faster": {
            name: {other: median[other] / median[name] for other in median if "padded" in other}
            for name in median
            if "tree" in name
        },
        "matmul_flop_per_second": rate,
        # 4 FLOP a token and linear weight (forward, and backward to the input); adapters,
        # attention and the head are work on top that is not counted.
        "share_of_matmul_rate": {
            name: 4 * linear * count / (median[name] * len(triplets)) / rate
            for name, count in tokens.items()
        },
        "environment": environment(),
    }


def show(report: dict[str, Any], out: Path) -> None:
    """Prints the report."""
    machine = report["environment"]
    packages = machine["packages"]
    print(f"{report['triplets']} triplets of {report['file']}; {machine['date']}")
    print(f"{machine['processor']}, {machine['threads']} threads, torch {packages['torch']}, "
          f"transformers {packages['transformers']}, peft {packages['peft']}")  # fmt: skip
    print(f"{'variant':28}{'s/triplet':>10}{'tokens':>9}{'share of matmul rate':>22}")
    for name, seconds in report["seconds_per_triplet"].items():
        share = report["share_of_matmul_rate"][name]
        print(f"{name:28}{seconds:10.3f}{report['tokens'][name]:9}{share:22.1%}")
    for name, ratios in report["times_faster"].items():
        for other, ratio in ratios.items():
            print(f"{name} is {ratio:.2f}x as fast as {other}")
    print(f"fp32 matrix products: {report['matmul_flop_per_second'] / 1e9:.0f} GFLOP/s")
    print(f"losses agree to {TOLERANCE}; written to {out}")


if __name__ == "__main__":
    main()
