from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from llmcausal import diagnostics
from llmcausal.assembly import doctoring
from llmcausal.assembly.doctoring import examine, model_size
from llmcausal.config import RunConfig
from llmcausal.diagnostics.check import Facts, Finding
from llmcausal.memory.architecture import shipped_needs
from llmcausal.profile import load_config


@pytest.fixture
def facts_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunConfig], Facts]:
    """What the checks of a profile are told."""

    def gather(config: RunConfig) -> Facts:
        told: list[Facts] = []

        def listens(facts: Facts) -> Finding | None:
            told.append(facts)
            return None

        monkeypatch.setattr(diagnostics, "CHECKS", (("listens", listens),))
        assert list(examine(config, lambda _what: nullcontext())) == []
        return told[0]

    return gather


def test_checks_are_told_what_the_shipped_profiles_take(
    facts_of: Callable[[RunConfig], Facts],
) -> None:
    facts = facts_of(load_config("minimal-4gb", ["memory.budget_gb=3.0"]))
    assert [need.profile for need in facts.shipped] == list(shipped_needs())
    assert facts.own is not None
    assert facts.own.profile == "minimal-4gb"
    changed = facts_of(load_config("minimal-4gb", ["data.max_length=4096"]))
    assert changed.own is None
    assert facts_of(load_config("demo-cpu")).own is None


def test_states_that_are_not_paged_count_on_the_gpu_for_the_doctor_too(
    facts_of: Callable[[RunConfig], Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = doctoring.look_at_machine()
    told = {}
    for wsl in (False, True):
        machine = dataclasses.replace(here, wsl=wsl)
        monkeypatch.setattr(doctoring, "look_at_machine", lambda machine=machine: machine)
        own = facts_of(load_config("rtx4050")).own
        assert own is not None
        told[wsl] = own.strategies[0]
    paged = 42 * 2**20  # of 80 MiB; tensors of fewer than 100,000 numbers are never paged
    assert told[True].needed_bytes - told[False].needed_bytes == paged
    assert told[False].host_bytes - told[True].host_bytes == paged


@pytest.mark.parametrize("optimizer", ["adamw", "paged_adamw_8bit"])
def test_a_checkpoint_takes_no_more_than_was_said(
    tiny_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    from tests import program

    monkeypatch.setattr(doctoring, "OTHER_BYTES", 0)
    model, data = tiny_files
    config = RunConfig.model_validate(
        {
            "output_dir": tmp_path / "runs",
            "model": {"name": str(model), "device": "cpu", "quantization": "none"},
            "data": {"train": str(data), "max_length": 2048},
            "lora": {"rank": 64},
            "loss": {"contrast_gradient": "model"},
            "train": {"max_steps": 1, "accumulation_steps": 1, "optimizer": optimizer},
            "evaluation": {"at_end": False},
        }
    )
    size = model_size(config)
    assert size is not None
    run = program.train(config, plain=True)
    folder = Path(run.run_dir) / "checkpoint-1"
    names = ("adapter_model.safetensors", "projection.safetensors", "training_state.pt")
    written = sum((folder / name).stat().st_size for name in names)
    # Beside the numbers: names, shapes, the random generator's state.
    assert size.checkpoint_bytes <= written <= size.checkpoint_bytes + 60_000


def test_parameters_are_those_of_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    size = model_size(load_config("rtx4050"))
    assert size is not None
    assert size.parameters == 8_030_261_248  # as on the model's page
    # 41.9 million numbers of rank 16, in fp32 and with two 8-bit states; the head's 1.08 have none.
    head = 4096 * 256 + 256 + 256 * 128 + 128
    floor = 41_943_040 * 6 + head * 4 + doctoring.OTHER_BYTES
    assert floor < size.checkpoint_bytes < floor * 1.02


@pytest.mark.parametrize("name", ["nobody/no-such-model", "package:no_such_package"])
def test_an_unknown_shape_is_unknown_and_asks_no_network(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.create_connection", refuses)
    monkeypatch.setattr("socket.getaddrinfo", refuses)
    assert model_size(load_config("rtx4050", [f"model.name={name}"])) is None
