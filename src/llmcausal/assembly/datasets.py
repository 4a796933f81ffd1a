"""What `llmcausal data validate` and `stats` do: check and describe triplet files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.data.builtin import generate
from llmcausal.data.formats import read_numbered, read_triplets
from llmcausal.data.quality import Finding, Lines, duplicates, examine, leaks
from llmcausal.data.summary import DatasetSummary, summarize
from llmcausal.errors import DataError, UsageError

BUILTIN_PREFIX = "builtin:"
BUILTIN_COUNT = 2000
"""Triplets of a built-in split that files are compared with: enough to show every phrasing."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Validation:
    """What `data validate` found.

    Attributes:
        counts: Sound triplets of each file.
        findings: Everything found, file by file.
        lengths: For each file, the ledger of what does not fit a model, where one was asked for.
    """

    counts: dict[str, int]
    findings: list[Finding]
    lengths: dict[str, Any]

    @property
    def has_errors(self) -> bool:
        """Tells whether anything found makes the files unfit for use."""
        return any(finding.level == "error" for finding in self.findings)

    def length_lines(self) -> list[str]:
        """Returns lines for people about what does not fit the model."""
        lines = []
        for file, ledger in self.lengths.items():
            fits = f"every triplet fits into {ledger.max_length} tokens per member"
            lines += [f"{file}: {line}" for line in ledger.summary() or [fits]]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return {
            "ok": not self.has_errors,
            "files": self.counts,
            "findings": [asdict(finding) for finding in self.findings],
            "lengths": {file: ledger.as_dict() for file, ledger in self.lengths.items()},
        }


def validate(
    files: Sequence[Path],
    against: Sequence[str] = (),
    config: RunConfig | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Reads files wholly and looks for what is wrong in and between them.

    Args:
        files: Triplet files.
        against: Files and `builtin:SPLIT`s that the files must share nothing with.
        config: A profile, for whose model the files are also encoded.
        progress: Told about every step that may take long.

    Raises:
        DataError: If a file of `against` is not sound.
        UsageError: If `against` names one of the files or an unknown split.
        ModelError: If the tokenizer cannot be loaded.
    """
    others = [_other(name, files) for name in against]
    result = Validation({}, [], {})
    encode = _encoder(config) if config is not None else None
    for file in files:
        lines, defects = _read(file)
        result.findings.extend(defects)
        result.counts[str(file)] = len(lines.triplets)
        if not lines.triplets:
            continue
        result.findings.extend(examine(lines))
        told = _named(progress, f"{file}: texts compared")
        result.findings.extend(duplicates(lines, told))
        for other in others:
            told = _named(progress, f"{file}: texts compared with {other.name}")
            result.findings.extend(leaks(lines, other, told))
        if encode is not None:
            ledger, refused = encode(lines, _named(progress, f"{file}: triplets encoded"))
            result.findings.extend(refused)
            result.lengths[str(file)] = ledger
    return result


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress(what, done, total)) if progress else None


def _read(file: Path) -> tuple[Lines, list[Finding]]:
    """Reads a file; where its schema has defects, those are all that is found."""
    try:
        return Lines(str(file), read_numbered(file)), []
    except DataError as error:
        return Lines(str(file), []), [_defect(file, defect) for defect in error.defects]


def _defect(file: Path, defect: str) -> Finding:
    rest = defect.removeprefix(str(file))
    placed = re.match(r":(\d+): ([^:]*): (.*)", rest, re.DOTALL)
    line, name, reason = placed.groups() if placed else ("0", "file", rest.removeprefix(": "))
    return Finding("error", "schema", str(file), int(line), name, reason)


def _other(name: str, files: Sequence[Path]) -> Lines:
    if name.startswith(BUILTIN_PREFIX):
        split: Any = name.removeprefix(BUILTIN_PREFIX)  # generate() checks it
        return Lines(name, list(enumerate(generate(split, BUILTIN_COUNT, seed=0), 1)))
    path = Path(name)
    if any(path.resolve() == file.resolve() for file in files):
        raise UsageError(f"--against {name}: it is one of the files to validate")
    return Lines(name, read_numbered(path))


def _encoder(config: RunConfig) -> Callable[..., tuple[Any, list[Finding]]]:
    from llmcausal.assembly.prepare import load_template
    from llmcausal.data.tokenization import TripletEncoder

    template = load_template(config.model)

    def encode(
        lines: Lines, progress: Callable[[int, int], None] | None
    ) -> tuple[Any, list[Finding]]:
        encoder = TripletEncoder(template, config.data.max_length)
        refused: list[Finding] = []
        for done, (line, triplet) in enumerate(lines.triplets, 1):
            try:
                encoder.encode(triplet)
            except DataError as error:
                reason = " ".join(error.defects)
                refused.append(Finding("error", "encoding", lines.name, line, "text", reason))
            if progress:
                progress(done, len(lines.triplets))
        return encoder.ledger, refused

    return encode


def stats(file: Path) -> DatasetSummary:
    """Describes a triplet file.

    Raises:
        DataError: With every defect at once.
    """
    return summarize(read_triplets(file))
