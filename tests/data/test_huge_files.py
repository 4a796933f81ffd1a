"""A line, or a file, of 1 GiB: refused with a message, in bounded memory and time."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmcausal.assembly.prepare import load_template
from llmcausal.config import ModelSection
from llmcausal.data.formats import read_triplets
from llmcausal.data.sources import SOURCES
from llmcausal.data.sources.example import LeftOut, SourceRequest
from llmcausal.data.sources.goals import read_goals
from llmcausal.errors import LlmcausalError
from llmcausal.evaluation.results import RESULTS
from llmcausal.model.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config
from llmcausal.model.gguf_header import check_header
from llmcausal.profile import load_config
from llmcausal.ui.report.run_files import read_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
SIZE = 2**30
MEMORY = 300 * 2**20
SECONDS = 30.0


def source(name: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        left_out = LeftOut()
        examples = list(SOURCES.load(name)(path, SourceRequest("train", {}), left_out))
        assert examples == []
        return left_out.first

    return read


def template(path: Path) -> object:
    return load_template(ModelSection(chat_template=path), tokenizer=object())


def adapter(path: Path) -> object:
    (path.parent / ADAPTER_WEIGHTS).touch()
    return read_adapter_config(path.parent)


def report(path: Path) -> object:
    (path.parents[1] / "config.toml").touch()
    return read_run(path.parents[1]).notes


READERS: dict[str, tuple[str, bytes, Callable[[Path], object], str]] = {
    "triplets": ("t.jsonl", b'{"id": "', read_triplets, r"t.jsonl:1: line: longer than 16 MiB"),
    "jsonl": ("t.jsonl", b'{"document": "', source("jsonl"), "t.jsonl:1: line: longer than 16 MiB"),
    "csv header": ("t.csv", b"document,response", source("csv"), "t.csv:1: line: longer than 16 M"),
    "csv": ("t.csv", b"document,response\na,b\n", source("csv"), "t.csv:3: line: longer than 16 M"),
    "csv quote": ("t.csv", b'document,response\na,"', source("csv"), "t.csv:2: line: longer"),
    "alpaca": ("a.json", b'[{"instruction": "', source("alpaca"), "a.json: larger than 524,288 K"),
    "goals": ("g.json", b'["', read_goals, "g.json: larger than 524,288 KiB"),
    "profile": ("p.toml", b'name = "', load_config, "p.toml: larger than 64 KiB"),
    "chat template": ("c.jinja", b"{{ '", template, "c.jinja': cannot be read: larger than 1,024"),
    "adapter": (ADAPTER_CONFIG, b'{"r": "', adapter, f"{ADAPTER_CONFIG}: not an .* larger than"),
    "GGUF": ("m.gguf", b"GGUF\3\0\0\0" + b"\xff" * 16, check_header, "tensors, more than the file"),
    "results": (f"evaluation/{RESULTS}", b'{"tuned": "', report, "is larger than 262,144 KiB"),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_gibibyte_is_refused(kind: str, tmp_path: Path) -> None:
    name, start, read, message = READERS[kind]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(start)
    os.truncate(path, SIZE)  # a hole: it takes no place on the disk
    told = tmp_path / "told"
    started = time.monotonic()
    child = os.fork()
    if not child:
        os._exit(_told(read, path, told))
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - started
    text = told.read_text("utf-8") if told.exists() else "nothing"
    assert status == 0, text
    assert seconds < SECONDS
    assert re.search(message, text), text
    assert len(text) < 2000


def _told(read: Callable[[Path], object], path: Path, told: Path) -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        told.write_text(str(read(path)), "utf-8")
    except LlmcausalError as error:
        told.write_text(str(error), "utf-8")
    except BaseException as error:
        told.write_text(repr(error), "utf-8")
        return 1
    return 0
