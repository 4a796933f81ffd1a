"""How time and memory of a step grow with length, shared prefix, batch, rank and vocabulary.

    python -m benchmarks.step_growth [--quick] [--steps 2]

On random Llamas of four layers, so that every axis can be long: one quantity changes, the others
stay at their base values. Measured as in `benchmarks.step_peers`, in processes of their own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.result import header, write
from benchmarks.step_peers import MAIN, SEED, run_cases
from benchmarks.step_workload import (
    LENGTHS,
    SHARES,
    Case,
    make_workload,
    random_stream,
    write_workload,
)

NAMES = ("ours: keep", "ours: recompute", "ours: lean", "plain, three passes")
VARIANTS = tuple(variant for variant in MAIN if variant.name in NAMES)
SHAPE: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One measured place.

    Attributes:
        axis: What is changed.
        value: To what.
        case: The triplets.
        rank: Of the adapters.
        vocabulary: Of the model.
    """

    axis: str
    value: float
    case: Case
    rank: int = 16
    vocabulary: int = 8192


def points(quick: bool) -> Iterator[Point]:
    """Lists what is measured."""
    base = Case(128 if quick else 512, 0.5, 1)
    shorter = slice(0, 2) if quick else slice(None)
    for length in LENGTHS[shorter]:
        yield Point("length", length, replace(base, length=length))
    for share in SHARES[shorter]:
        yield Point("share", share, replace(base, share=share))
    for batch in (1, 2, 4, 8)[shorter]:
        yield Point("batch", batch, replace(base, length=128, count=8, batch=batch))
    for rank in (4, 16, 128)[shorter]:
        yield Point("rank", rank, base, rank=rank)
    for vocabulary in (8192, 32768, 131072)[shorter]:
        yield Point("vocabulary", vocabulary, base, vocabulary=vocabulary)


def save_model(folder: Path, vocabulary: int) -> str:
    """Writes a random Llama with SmolLM2's tokenizer beside it; returns its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmcausal.config import ModelSection
    from llmcausal.model.factory import load_tokenizer

    torch.manual_seed(SEED)
    made = folder / f"vocabulary-{vocabulary}"
    if not made.exists():
        LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **SHAPE)).save_pretrained(made)
        load_tokenizer(ModelSection()).save_pretrained(made)
    return str(made)


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two points an axis, shorter ones")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--beside", default="", help="other work on the machine, for the record")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    result: dict[str, Any] = header(
        "step_growth", {"workload": SEED, "model": SEED}, arguments.beside
    ) | {
        "samples": {"steps": arguments.steps, "unit": "seconds per triplet, in each row"},
        "shape": SHAPE,
        "rows": [],
    }
    groups: dict[tuple[int, int], list[Point]] = {}
    for point in points(arguments.quick):
        groups.setdefault((point.vocabulary, point.rank), []).append(point)
    with tempfile.TemporaryDirectory(prefix="step-growth-") as name:
        for (vocabulary, rank), group in groups.items():
            folder = Path(name) / f"{vocabulary}-{rank}"
            workload = make_workload(
                {point.case for point in group}, random_stream(vocabulary, SEED),
                model=save_model(Path(name), vocabulary), rank=rank, seed=SEED,
            )  # fmt: skip
            write_workload(folder, workload)
            cases = list(dict.fromkeys(point.case for point in group))
            measured = run_cases(cases, VARIANTS, folder, arguments.steps)
            for case, rows in zip(cases, measured, strict=True):
                for point in (point for point in group if point.case == case):
                    place = {"axis": point.axis, "value": point.value, "rank": rank,
                             "vocabulary": vocabulary}  # fmt: skip
                    result["rows"] += [{**row, **place} for row in rows]
                write(result, arguments.out)  # an interrupted run leaves what it has


if __name__ == "__main__":
    main()
