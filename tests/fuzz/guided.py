"""The same readers, with inputs that are bred by the code they reach; needs the extra `fuzz`.

    python -m tests.fuzz.guided [--runs 3000] [--only NAME] [--seed N]

Each reader runs in a process of its own under atheris (libFuzzer): an exception that is not the
program's own, ten seconds for one input, or too much memory ends it, and the input is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import atheris

from llmcausal.errors import LlmcausalError

with atheris.instrument_imports(include=["llmcausal"], exclude=["llmcausal.errors"]):
    from tests.fuzz.reader import Reader
    from tests.fuzz.readers import readers

LONGEST_INPUT = 2**14
MEMORY_MIB = 4096
"""Of the whole process; the libraries alone take half a GiB."""
_DONE = re.compile(r"^Done (\d+) runs in (\d+) second", re.MULTILINE)
_COVERED = re.compile(r"\bcov: (\d+)")


def guided(reader: Reader, folder: Path, runs: int, seed: int) -> str:
    """Fuzzes one reader; returns libFuzzer's own report."""
    corpus, log = folder / "corpus", folder / "log"
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir()
    for number, content in enumerate(reader.seeds):
        (corpus / f"seed-{number}").write_bytes(content)
    child = os.fork()
    if not child:
        with log.open("wb") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        path = folder / reader.file
        path.parent.mkdir(parents=True, exist_ok=True)

        def read(content: bytes) -> None:
            path.write_bytes(content)
            try:
                reader.read(path)
            except LlmcausalError as error:
                if not str(error).strip():
                    raise RuntimeError("a message without text") from error

        atheris.Setup(
            ["fuzz", str(corpus), f"-runs={runs}", f"-seed={seed}", f"-max_len={LONGEST_INPUT}",
             "-timeout=10", f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={folder}/"],
            read,
        )  # fmt: skip
        atheris.Fuzz()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    text = log.read_text("utf-8", "replace")
    return text if not status else f"{text}\nended with {status}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzzes every reader; 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3000, help="inputs to each reader")
    parser.add_argument("--only", default="", help="readers whose name holds this")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6 + 1)
    given = parser.parse_args(arguments)
    warnings.simplefilter("error")
    folder, failed, total = Path(tempfile.mkdtemp(prefix="guided-")), 0, 0
    print(f"seed {given.seed}\n{'reader':30}{'inputs':>8}{'covered':>9}{'s':>6}")
    try:
        for reader in readers(folder):
            if given.only not in reader.name:
                continue
            text = guided(reader, folder, given.runs, given.seed)
            done, covered = _DONE.search(text), _COVERED.findall(text)
            if not done:
                failed += 1
                print(f"{reader.name:30}failed:\n{text[-3000:]}")
                continue
            total += int(done[1])
            print(
                f"{reader.name:30}{done[1]:>8}{covered[-1] if covered else '?':>9}{done[2]:>6}",
                flush=True,
            )
    finally:
        shutil.rmtree(folder)
    print(f"{total} inputs, {failed} readers failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
