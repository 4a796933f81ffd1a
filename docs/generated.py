"""Files under docs/ that are made from the program: written, or compared with --check."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def publish(file_name: str | Path, text: str, arguments: list[str], by: str = "make schema") -> int:
    """Writes a file, or says with --check whether it is current; returns an exit code.

    Args:
        file_name: Under docs, or an absolute path.
        text: What it should hold.
        arguments: Of the program.
        by: The command that writes it.
    """
    target = Path(__file__).parent / file_name
    if arguments != ["--check"]:
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
        return 0
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return 0
    print(f"{target} is not current: run `{by}`", file=sys.stderr)
    return 1


def between_marks(text: str, name: str, part: str) -> str:
    """Returns a page with what is between its marks replaced.

    Args:
        text: The page, with `<!-- NAME: docs/NAME.py -->` and `<!-- end of NAME -->` in it once.
        name: Of the marks.
        part: What stands between them, with a newline at its end.

    Raises:
        ValueError: If the marks are not there once.
    """
    begin, end = f"<!-- {name}: docs/{name}.py -->\n", f"<!-- end of {name} -->"
    place = re.compile(f"({re.escape(begin)}).*?({re.escape(end)})", re.DOTALL)
    found, count = place.subn(lambda marks: f"{marks[1]}{part}{marks[2]}", text)
    if count != 1:
        raise ValueError(f"{begin.strip()} ... {end}: {count} times in the page, not once")
    return found


def cell(text: str) -> str:
    """Returns text for one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
