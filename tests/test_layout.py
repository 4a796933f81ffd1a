"""The parts that must start at once import nothing heavy, and files stay where they belong."""

from __future__ import annotations

import ast
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


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_functions_stay_readable(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions}
    assert {name: lines for name, lines in long.items() if lines > 60} == {}


def test_no_file_is_unbounded() -> None:
    long = {str(p): len(p.read_text().splitlines()) for p in SOURCE.rglob("*.py")}
    # config.py is one list of settings, which reads best in one place.
    assert {p: n for p, n in long.items() if n > 400 and not p.endswith("config.py")} == {}
