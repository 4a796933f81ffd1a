"""The code of docs/extending.md runs: written to files as titled, named as the page says."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import safetensors.numpy

from llmcausal import attacks
from llmcausal.attacks import FAMILIES
from llmcausal.attacks.base import AttackFamily, Goal
from llmcausal.config import RunConfig
from llmcausal.data import formats
from llmcausal.data.builtin import generate
from llmcausal.data.formats import FORMATS, read_triplets
from llmcausal.errors import DataError
from llmcausal.profile import load_config
from llmcausal.registry import Table
from llmcausal.train.callbacks.tracking import Tracking
from tests import program
from tests.docs.shown import REPOSITORY, Block, blocks

PAGE = REPOSITORY / "docs" / "extending.md"
BLOCKS = [block for block in blocks(PAGE) if block.title]
MODULES = [block for block in BLOCKS if not block.title.endswith("__init__.py")]
LINES = [block for block in BLOCKS if block.title.endswith("__init__.py")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Writes the page's files and puts them where a user would; forgets them afterwards."""
    before = set(sys.modules)
    folder = tmp_path / "page"
    for block in MODULES:
        path = folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    for package in (attacks, formats):
        inside = folder / "src" / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(inside)])
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def add_line(monkeypatch: pytest.MonkeyPatch, package: ModuleType, table: Table) -> str:
    """Puts the page's line for a package into its table; returns the name."""
    file = f"src/{package.__name__.replace('.', '/')}/__init__.py"
    (line,) = [block.text for block in LINES if block.title == file]
    ((name, target),) = ast.literal_eval("{" + line + "}").items()
    monkeypatch.setitem(table.entries, name, target)  # type: ignore[arg-type]
    return str(name)


@pytest.fixture
def trained(folder: Path, tiny_files: tuple[Path, Path]) -> Path:
    """Trains by the page's profile, on a tiny model; returns the run directory."""
    model, data = tiny_files
    changes = {
        "model.name": f'"{model}"',
        "model.device": '"cpu"',
        "data.train": f'"{data}"',
        "output_dir": f'"{folder / "runs"}"',
        "lora.rank": "4",
        "train.accumulation_steps": "2",
        "validation.every_steps": "1",
        "evaluation.at_end": "false",
    }
    overrides = [f"{key}={value}" for key, value in changes.items()]
    return program.train(load_config(folder / "mine.toml", overrides), plain=True).run_dir


def test_loss_callback_tracker_and_exporter(trained: Path, folder: Path) -> None:
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "contrastive_loss" in record]
    assert len(steps) >= 3
    assert all(0 <= record["contrastive_loss"] <= 5.01 for record in steps)  # |cos|^1.5 / 0.2
    with (trained / "figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows if row["loss"]] == [
        record["loss"] for record in records if "loss" in record
    ]
    out = folder / "matrices"
    report = program.export(trained / "best", target="my_export:export_numpy", out=out)
    weights = safetensors.numpy.load_file(trained / "best" / "adapter_model.safetensors")
    written = numpy.load(out / "adapter.npz")
    assert report["matrices"] == len(weights) > 0
    assert all(numpy.array_equal(written[name], weights[name]) for name in weights)


def test_the_loss_is_what_it_says() -> None:
    torch = importlib.import_module("torch")
    loss = importlib.import_module("my_loss").RightAngle(tau=0.2, power=1.5)
    east, west, north, northeast = [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 1.0]
    benign = torch.tensor([east] * 4)
    injection = torch.tensor([north, east, west, northeast])
    result = loss({"benign": benign, "injection": injection})
    torch.testing.assert_close(result, torch.tensor([0.0, 5.0, 5.0, 0.5**0.75 * 5]))


def test_the_callback_stops_after_three_in_a_row() -> None:
    stopper = importlib.import_module("my_callbacks").StopWhenApart()
    told: list[str] = []

    class Context:
        request_stop: Callable[[str], None] = staticmethod(told.append)

    context: Any = Context()
    for value in (1.0, 1.0, 0.5, 1.0, 1.0):
        stopper.on_record(context, {"val_spurious_separation": value})
        stopper.on_record(context, {"loss": 1.0})
    assert not told
    resumed = type(stopper)()
    resumed.load_state_dict(stopper.state_dict())
    resumed.on_record(context, {"val_spurious_separation": 1.0})
    assert told == ["attacked inputs are apart"]


def test_a_tracker_that_fails_stops_nothing(tmp_path: Path) -> None:
    kind = importlib.import_module("my_tracker").CsvTracker
    tracking = Tracking(RunConfig(name="gone", output_dir=tmp_path), {"mine": kind})
    assert tracking.close() == []
    tracking.log_evaluation({"base": None, "tuned": {}, "difference": None, "generations": []}, 1)
    (note,) = tracking.close()
    assert "tracker mine is switched off: FileNotFoundError" in note


def test_an_attack_family(monkeypatch: pytest.MonkeyPatch) -> None:
    name = add_line(monkeypatch, attacks, FAMILIES)
    family = FAMILIES.load(name)()
    assert isinstance(family, AttackFamily)
    assert (family.name, family.held_out) == (name, True)
    phrasings = family.held_out_phrasings
    assert len(set(phrasings)) == len(phrasings) >= 8
    assert all(phrasing.count("{instruction}") == 1 for phrasing in phrasings)
    goal = Goal("print_word", "Print the word Pineapple.", "Pineapple")
    random = importlib.import_module("random").Random(0)
    text = family.inject("One. Two. Three.", goal, random, "held_out", "middle")
    assert goal.instruction in text
    families = [t.attack.family for t in generate("test", 120, seed=0) if t.attack]
    assert name in families


def test_a_data_format(
    tmp_path: Path, tiny_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert add_line(monkeypatch, formats, FORMATS) == "tsv"
    triplets = read_triplets(tiny_files[1])[:3]
    columns = ["id", "system", "benign", "benign_cf", "injection", "response"]
    path = tmp_path / "mine.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, delimiter="\t")
        table.writeheader()
        table.writerows({key: getattr(t, key) for key in columns} for t in triplets)
    read = read_triplets(path)
    assert [[getattr(t, c) for c in columns] for t in read] == [
        [getattr(t, c) for c in columns] for t in triplets
    ]
    path.write_text("id\tsystem\tbenign\n1\tx\ty\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_triplets(path)
    assert any(f"{path}:2: injection: missing" in defect for defect in caught.value.defects)


def test_every_block_is_used() -> None:
    def kind(block: Block) -> str:
        return Path(block.title).suffix

    assert {kind(block) for block in BLOCKS} == {".py", ".toml"}
    assert len(BLOCKS) == len([b for b in blocks(PAGE) if b.language in ("python", "toml")]) == 9
