"""Whole runs that run out of memory: the real ladder is taken, and the weights stay exact."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmcausal.config import RunConfig
from llmcausal.errors import Interrupted, OutOfMemoryError
from llmcausal.memory import prediction
from llmcausal.memory.prediction import Prediction, Workload
from llmcausal.memory.runs import Fallbacks
from llmcausal.train import loop
from llmcausal.train.callbacks.metrics_log import read_rows
from llmcausal.train.recovery import ADVICE, Fallback, Place
from tests import program
from tests.predictions import made_prediction

MIB = 2**20
FAILING, INTERRUPTED, STEPS = 3, 5, 6


class OutOfMemory(TorchDispatchMode):
    """Runs out of memory at one operation."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def ladder(monkeypatch: pytest.MonkeyPatch) -> dict[Place, list[Fallback]]:
    """The fallbacks of the latest run, filled in once it is built."""
    found: dict[Place, list[Fallback]] = {}

    real = Fallbacks.ladder

    def ladder(fallbacks: Fallbacks) -> dict[Place, list[Fallback]]:
        found.update(real(fallbacks))
        return dict(found)

    monkeypatch.setattr(Fallbacks, "ladder", ladder)
    return found


@pytest.fixture
def around_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what is done instead of each training step: `done(number, step)`, which may call it."""
    real = loop.update

    def install(done: Callable[[int, Callable[[], Any]], Any]) -> None:
        def step(run: Any, context: Any, rewind: Any) -> Any:
            return done(run.state.step + 1, lambda: real(run, context, rewind))

        monkeypatch.setattr(loop, "update", step)

    return install


def trained(run_dir: Path) -> dict[str, Any]:
    """What the last checkpoint holds of weights and optimizer."""
    folder = run_dir / f"checkpoint-{STEPS}"
    state = torch.load(folder / "training_state.pt", weights_only=True)
    return {
        **safetensors.torch.load_file(folder / "adapter_model.safetensors"),
        **safetensors.torch.load_file(folder / "projection.safetensors"),
        **{
            f"optimizer.{number}.{name}": value
            for number, states in state["optimizer"]["state"].items()
            for name, value in states.items()
            if isinstance(value, torch.Tensor)
        },
    }


@pytest.mark.parametrize(
    ("quantization", "taken"),
    [
        ("none", 1),
        ("nf4", None),
        pytest.param("none", None, marks=pytest.mark.slow),
        pytest.param("nf4", 1, marks=pytest.mark.slow),
    ],
)
def test_a_run_out_of_memory_goes_on_and_resumes_with_its_fallbacks(
    tiny_config: Any, ladder: Any, around_steps: Any, quantization: str, taken: int | None
) -> None:
    """Equal weights to a run that switches by hand; frozen weights are unpacked meanwhile."""
    config = tiny_config(
        train={"max_steps": STEPS},
        model={"quantization": quantization, "unpack_on_cpu": True},
    )
    failures = 0

    def fail(number: int, step: Callable[[], Any]) -> Any:
        nonlocal failures
        if number == FAILING and failures < (taken or len(ladder["training"])):
            failures += 1
            with OutOfMemory(at=150 * failures):
                step()
            pytest.fail("the step was over before memory ran out")
        if number == INTERRUPTED:
            os.kill(os.getpid(), signal.SIGINT)
        return step()

    around_steps(fail)
    with pytest.raises(Interrupted):
        program.train(config, plain=True)
    run_dir = next(config.output_dir.iterdir())
    names = [fallback.name for fallback in ladder["training"][:taken]]
    assert failures == len(names)
    assert names[0] == "micro-batches of 1"
    assert taken or names[-1].startswith("one_by_one")
    around_steps(lambda _number, step: step())
    program.resume(run_dir, plain=True)
    strategies = [row.get("strategy") for row in read_rows(run_dir / "metrics.jsonl")]
    assert strategies == [None] * FAILING + [", ".join(names)] * (STEPS + 1 - FAILING)

    def switch(number: int, step: Callable[[], Any]) -> Any:
        if number == FAILING:
            for fallback in ladder["training"][:taken]:
                fallback.apply()
        return step()

    around_steps(switch)
    expected = trained(program.train(config, plain=True).run_dir)
    found = trained(run_dir)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_kept_layers_are_given_up_first(tiny_config: Any, ladder: Any) -> None:
    memory = {"strategy": "manual", "activations": "recompute", "kept_layers": 1}
    one_step = {"max_steps": 1}
    program.train(tiny_config(memory=memory, train=one_step), plain=True)
    names = [fallback.name for fallback in ladder["training"]]
    assert names[:3] == ["recompute", "micro-batches of 1", "lean"]
    program.train(tiny_config(memory={**memory, "activations": "keep"}, train=one_step), plain=True)
    names = [fallback.name for fallback in ladder["training"]]
    assert names[:2] == ["micro-batches of 1", "recompute"]  # nothing is kept besides


@pytest.mark.parametrize("broken", [False, True])
def test_where_nothing_is_left_the_advice_is_predicted_and_never_hides_what_happened(
    tiny_config: Any, around_steps: Any, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    config = tiny_config(train={"max_steps": STEPS}, lora={"rank": 16})
    saved_before = []

    def fail(number: int, step: Callable[[], Any]) -> Any:
        if number < FAILING:
            return step()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.")

    def predict(config: RunConfig, workload: Workload, **options: Any) -> Prediction:
        saved_before.append((config.run_dir / f"checkpoint-{FAILING - 1}").is_dir())
        if broken:
            raise ValueError("no such [layer]")
        return made_prediction(workload, config.lora.rank * MIB, device=options["device"])

    around_steps(fail)
    monkeypatch.setattr(prediction, "predict", predict)
    with pytest.raises(OutOfMemoryError) as caught:
        program.train(config, plain=True)
    assert caught.value.exit_code == 4
    text = str(caught.value)
    assert text.startswith(f"Out of memory at step {FAILING}: CUDA out of memory. Tried to allo")
    assert saved_before
    assert all(saved_before)
    if broken:
        assert ADVICE in text
        assert "ValueError: no such [layer]" in text
        return
    assert "predicted to need 0.02 GiB" in text  # 16 MiB
    assert "--set memory.members=one_by_one" in text  # what is in force
    assert "--set train.batch_size=1 --set train.accumulation_steps=4" in text
    (line,) = [line for line in text.splitlines() if "lora.rank=8" in line]
    assert "predicted 0.01 GiB, fits" in line


@pytest.mark.slow
def test_real_predictions_stand_in_the_advice(tiny_config: Any, around_steps: Any) -> None:
    def fail(number: int, step: Callable[[], Any]) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.")

    around_steps(fail)
    config = tiny_config(memory={"budget_gb": 0.5}, model={"unpack_on_cpu": False})
    with pytest.raises(OutOfMemoryError, match="memory\\.budget_gb") as caught:
        program.train(config, plain=True)
    told = re.findall(
        r"--set data\.max_length=(\d+)  predicted 0\.\d\d GiB, fits", str(caught.value)
    )
    assert len(told) == 1
