from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_fault_once_and_ten_kills() -> None:
    """In a process of its own, which has no threads when it forks."""
    command = [sys.executable, "-m", "tests.torture", "--kills", "10", "--others", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
