"""What README and the pages show: fenced and indented blocks, and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)``` *$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title where it has one, its text without indent."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = []
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        language, _, rest = match["info"].partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        lines = match["body"].splitlines(keepends=True)
        text = "".join(line.removeprefix(match["indent"]) for line in lines)
        found.append(Block(language, title[1] if title else "", text))
    return found


def command_lines(page: Path, programs: tuple[str, ...] = ("llmcausal",)) -> Iterator[str]:
    """Yields what is shown to be typed, in blocks and in backticks, without comments."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    starts = "|".join(map(re.escape, programs))
    beginning = rf"(?:PYTHONPATH=\S+ )?(?:\.venv/bin/)?(?={starts}\b)"
    for line in text.splitlines():
        if found := re.match(rf"\s*{beginning}(?P<command>(?:{starts})\s.*)", line):
            yield " ".join(shlex.split(found["command"], comments=True, posix=False))
    prose = _FENCE.sub("", text)
    for quoted in re.findall(rf"`{beginning}((?:{starts})\s[^`]+)`", prose):
        line = " ".join(quoted.split()).replace("\\|", "|")
        yield f"{line} --help" if re.fullmatch(r"\S+ [a-z-]+", line) else line  # only named
