"""Every message that the troubleshooting page quotes is one that the program can give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.docs.shown import REPOSITORY, blocks

PAGE = REPOSITORY / "docs" / "troubleshooting.md"
QUOTED = [b.text.splitlines() for b in blocks(PAGE) if b.language == "message"]
VALUE = "…"


def texts_of(source: str) -> Iterator[str]:
    """Yields a module's strings as people see them, with `…` for what is filled in."""

    def text(node: ast.AST) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value) if isinstance(node.value, str) else VALUE
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return text(node.left) + text(node.right)
        return VALUE

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
            yield re.sub(f"{VALUE}+", VALUE, text(node))


def program_texts() -> set[str]:
    source = REPOSITORY / "src" / "llmcausal"
    return {
        line
        for path in source.rglob("*.py")
        for text in texts_of(path.read_text(encoding="utf-8"))
        for line in text.splitlines()
    }


def unknown(quoted: list[str], texts: set[str]) -> list[str]:
    """Returns the lines that no text of the program contains; values may be at the ends."""
    return [line for line in quoted if not any(line.strip(f" {VALUE}") in text for text in texts)]


def test_every_quoted_message_is_in_the_program() -> None:
    texts = program_texts()
    assert len(QUOTED) >= 15
    lines = [line for message in QUOTED for line in message]
    assert unknown(lines, texts) == []


def test_a_message_that_is_not_in_the_program_would_be_found() -> None:
    assert unknown(["Out of memory …: …", "Out of luck …: …"], program_texts()) == [
        "Out of luck …: …"
    ]


def test_symptoms_come_in_their_order() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.M)
    wanted = ["memory", "Slow", "NaN", "learn", "bitsandbytes", "gated", "Data", "templates"]
    places = [next(i for i, h in enumerate(headings) if word in h) for word in wanted]
    assert places == sorted(places)
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        assert "ou see" in section, section[:40]
        assert "hat to type" in section or "Nothing to type" in section, section[:40]
