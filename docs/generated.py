"""Files under docs/ that are made from the program: written, or compared with --check."""

from __future__ import annotations

import sys
from pathlib import Path


def publish(file_name: str, text: str, arguments: list[str]) -> int:
    """Writes docs/FILE_NAME, or says with --check whether it is current; returns an exit code."""
    target = Path(__file__).with_name(file_name)
    if arguments != ["--check"]:
        target.write_text(text, encoding="utf-8")
        return 0
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return 0
    print(f"{target} is not current: run `make schema`", file=sys.stderr)
    return 1


def cell(text: str) -> str:
    """Returns text for one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
