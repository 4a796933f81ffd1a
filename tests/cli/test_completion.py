"""What a shell gets when the user presses the completion key."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from llmcausal.profile import shipped_profiles

HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "numpy", "scipy"}
PROGRAM = """
import json, sys
from llmcausal.cli.app import main
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def completed(words: str) -> list[str]:
    typed = {
        "_LLMCAUSAL_COMPLETE": "complete_bash",
        "COMP_WORDS": f"llmcausal {words}",
        "COMP_CWORD": str(len(f"llmcausal {words}x".split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env={**os.environ, **typed}
    )
    assert HEAVY & set(json.loads(done.stderr.splitlines()[-1])) == set()
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tr", ["train", "try"]),
        ("data va", ["validate"]),
        ("monitor p", ["probe"]),
        (
            "eval --adaptive-",
            [
                "--adaptive-steps",
                "--adaptive-search",
                "--adaptive-samples",
                "--adaptive-from",
            ],
        ),
        ("train rtx", ["rtx4050"]),
        ("doctor ", list(shipped_profiles())),
        ("profile-memory demo", ["demo-cpu"]),
        ("data validate a.jsonl --model demo", ["demo-cpu"]),
        ("train profiles/x", []),  # the shell goes on with file names
    ],
)
def test_commands_options_and_profiles_are_completed(words: str, expected: list[str]) -> None:
    assert completed(words) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_shown_for_each_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmcausal", "--show-completion", shell],
        capture_output=True, text=True, check=True,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )  # fmt: skip
    assert "_LLMCAUSAL_COMPLETE" in done.stdout
