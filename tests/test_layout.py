"""The parts that must start at once import nothing heavy, and files stay where they belong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "llmcausal"
HEAVY = {"torch", "transformers", "peft", "bitsandbytes"}
LIGHT_PARTS = [
    "llmcausal",
    "llmcausal.errors",
    "llmcausal.registry",
    "llmcausal.config",
    "llmcausal.profile",
    *(
        f"llmcausal.{part.name}"
        for part in sorted(SOURCE.iterdir())
        if (part / "__init__.py").is_file()
    ),
]


def test_light_parts_import_nothing_heavy() -> None:
    light = [
        *LIGHT_PARTS,
        *(
            f"llmcausal.{folder}.{path.stem}"
            for folder in ("cli", "attacks", "diagnostics")
            for path in sorted((SOURCE / folder).glob("[!_]*.py"))
        ),
    ]
    code = f"import sys, importlib\nfor m in {light!r}: importlib.import_module(m)\n"
    code += f"print(sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_there_is_no_utils_module() -> None:
    assert [p for p in SOURCE.rglob("*.py") if p.stem in {"utils", "util", "helpers", "misc"}] == []


def test_test_files_have_unique_names() -> None:
    names = Counter(path.name for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(("command", "most"), [("train", 12), ("eval", 10)])
def test_a_newcomers_walk_is_short_and_each_file_leads_to_the_next(command: str, most: int) -> None:
    """The walk in CONTRIBUTING.md: a file that is there, and that an earlier one imports."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    walk = text.split(f"`llmcausal {command}`, from the command to")[1].split("\n\n")[1]
    files = [REPOSITORY / name for name in dict.fromkeys(re.findall(r"`(src/[^`]+\.py)`", walk))]
    assert 5 < len(files) <= most
    assert files[0] == SOURCE / "cli" / f"{command}.py"
    reached = {files[0]}
    for file in files:
        assert file in reached, f"{file} is imported by no earlier file of the walk"
        reached |= _imported_files(file)


def _imported_files(file: Path) -> set[Path]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {REPOSITORY / "src" / f"{name.replace('.', '/')}.py" for name in names}
