"""The parts that must start at once import nothing heavy, and files stay where they belong."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

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
