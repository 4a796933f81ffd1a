from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_broken_file_ends_in_anything_but_a_message() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", "5000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
