"""Makes the peers' virtual environments: python -m benchmarks.peers.setup [NAME ...].

They lie under ~/.cache/llmcausal-benchmarks. torch is this project's version in each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version

from benchmarks.step_workers import ENVIRONMENTS

PEERS = {
    "trl": ("trl==1.16.0", "peft==0.21.2"),
    "sentence_transformers": ("sentence-transformers==6.2.0", "peft==0.21.2"),
    "litgpt": ("litgpt==0.5.13", "requests"),  # its command line asks for requests
    "garak": ("garak==0.17.1",),
    "axolotl": ("axolotl==0.19.0",),
    "torchtune": ("torchtune==0.6.1", "torchao==0.9.0"),  # later ones lack a module that it imports
    "llamafactory": ("llamafactory==0.9.5",),
    "alloc": ("alloc==0.0.16",),
}
ALONE = ("alloc",)
"""Without their dependencies, into a folder that is no environment; run by another one's Python."""


def install(name: str) -> None:
    """Makes one environment, or brings it up to date."""
    folder = ENVIRONMENTS / name
    if name in ALONE:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"]
        subprocess.run([*pip, "--no-deps", "--target", str(folder), *PEERS[name]], check=True)
        return
    python = str(folder / "bin" / "python")
    torch = f"torch=={version('torch').partition('+')[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    pip = [python, "-m", "pip", "install", "--quiet"]
    uv = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([*pip, torch, "numpy", "uv"], check=True)
    # pip tries old versions of what garak asks for, one by one, for many minutes.
    subprocess.run([*uv, torch, *PEERS[name]], check=True)


def main() -> int:
    """Installs the named peers, or all; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}")
    failed = 0
    for name in parser.parse_args().names or PEERS:
        print(f"{name} ...", flush=True)
        try:
            install(name)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(f"{name}: `{' '.join(error.cmd)}` ended with {error.returncode}")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
