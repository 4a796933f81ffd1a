"""What a shell gets when the user presses the completion key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from llmcausal.profile import shipped_profiles

HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "numpy", "scipy"}
COMPLETIONS = {
    "tr": ["train", "try"],
    "data va": ["validate"],
    "monitor p": ["probe"],
    "eval --adaptive-": [
        "--adaptive-steps",
        "--adaptive-search",
        "--adaptive-samples",
        "--adaptive-from",
    ],
    "train rtx": ["rtx4050"],
    "doctor ": list(shipped_profiles()),
    "profile-memory demo": ["demo-cpu"],
    "data validate a.jsonl --model demo": ["demo-cpu"],
    "train profiles/x": [],  # the shell completes file names
}
PROGRAM = """
import contextlib, io, json, os, sys
from llmcausal.cli.app import main
for words in json.loads(sys.argv[1]):
    os.environ["_LLMCAUSAL_COMPLETE"] = "complete_bash"
    os.environ["COMP_WORDS"] = f"llmcausal {words}"
    os.environ["COMP_CWORD"] = str(len(f"llmcausal {words}x".split()) - 1)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main()
    print(json.dumps([out.getvalue().split(), sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def completed() -> dict[str, tuple[list[str], list[str]]]:
    """Completes everything in one process, whose start takes most of the time.

    By words: what they may become, and the modules that are imported by then.
    """
    command = [sys.executable, "-c", PROGRAM, json.dumps([*COMPLETIONS])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(COMPLETIONS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("words", COMPLETIONS)
def test_commands_options_and_profiles_are_completed(words: str, completed: Any) -> None:
    found, modules = completed[words]
    assert found == COMPLETIONS[words]
    assert HEAVY & set(modules) == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_shown_for_each_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmcausal", "--show-completion", shell],
        capture_output=True, text=True, check=True,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )  # fmt: skip
    assert "_LLMCAUSAL_COMPLETE" in done.stdout
