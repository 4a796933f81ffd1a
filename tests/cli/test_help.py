from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from llmcausal.cli import COMMANDS

PAGES = [
    (),
    *((name,) for name in COMMANDS.entries),
    *(("data", name) for name in ("build", "validate", "stats")),
    *(("monitor", name) for name in ("probe", "logs", "canaries")),
]
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "numpy", "scipy", "llmcausal.config"}
PROGRAM = """
import json, sys
from llmcausal.cli.app import main
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: " ".join(page) or "root")
def test_help_imports_nothing_heavy_and_shows_examples(page: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *page, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(json.loads(done.stderr)) == set()
    text, _, shown = done.stdout.partition("Examples")
    assert "Usage:" in text
    examples = [line.strip() for line in shown.splitlines() if line.strip()]
    assert examples
    assert all(line.startswith(" ".join(["llmcausal", *page])) for line in examples)


def test_root_help_lists_every_command_with_its_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmcausal", "--help"], capture_output=True, text=True, check=True
    )
    for name in COMMANDS.entries:
        assert re.search(rf"\s{name}\s+[A-Z][a-z,-]+ ", done.stdout), name
    assert "--install-completion" in done.stdout


def test_no_arguments_show_the_help() -> None:
    done = subprocess.run([sys.executable, "-m", "llmcausal"], capture_output=True, text=True)
    assert "Usage: llmcausal" in done.stdout + done.stderr
    assert done.returncode == 2
