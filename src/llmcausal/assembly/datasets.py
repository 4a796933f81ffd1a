"""What `llmcausal data` does: make, check and describe triplet files."""

from __future__ import annotations

from pathlib import Path

from llmcausal.config import RunConfig
from llmcausal.data.builtin import generate
from llmcausal.data.formats import read_triplets
from llmcausal.data.formats.jsonl import write_triplets
from llmcausal.data.ledger import TruncationLedger
from llmcausal.data.summary import DatasetSummary, summarize
from llmcausal.data.triplet import Triplet
from llmcausal.errors import UsageError


def build(split: str, count: int, seed: int, out: Path) -> int:
    """Writes triplets of the built-in generator as canonical JSONL; returns how many.

    Raises:
        UsageError: If the split is unknown, or `out` exists or is no `.jsonl` file.
        StorageError: If `out` cannot be written.
    """
    if out.suffix != ".jsonl":
        raise UsageError(f"{out}: JSONL is what is written; name the file {out.stem}.jsonl")
    if out.exists():
        raise UsageError(f"{out} exists: choose another name, or delete it first")
    triplets = generate(split, count, seed)  # type: ignore[arg-type]  # it checks the name
    write_triplets(out, triplets)
    return len(triplets)


def validate(
    file: Path, config: RunConfig | None = None
) -> tuple[list[Triplet], TruncationLedger | None]:
    """Reads a file wholly; with settings, also encodes it for their model.

    Raises:
        DataError: With every defect at once.
        ModelError: If the tokenizer cannot be loaded.
    """
    triplets = read_triplets(file)
    if config is None:
        return triplets, None
    from llmcausal.assembly.prepare import load_template
    from llmcausal.data.tokenization import TripletEncoder

    encoder = TripletEncoder(load_template(config), config.data.max_length)
    for triplet in triplets:
        encoder.encode(triplet)
    return triplets, encoder.ledger


def stats(file: Path) -> DatasetSummary:
    """Describes a triplet file.

    Raises:
        DataError: With every defect at once.
    """
    return summarize(read_triplets(file))
