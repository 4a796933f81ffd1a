"""The demo's own model: a few real NF4 steps, and a resumed run with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


# Emulated, bf16 takes 100 s a step; nobody gets it there without asking.
@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=pytest.mark.bf16), "fp32"])
def test_the_real_model_trains_and_resumes_exactly(tmp_path: Path, precision: str) -> None:
    import torch

    from llmcausal.profile import load_config
    from tests import program

    settings = (
        f"model.precision='{precision}'",
        "data.max_length=256",
        "data.builtin.train=8",
        "data.builtin.validation=4",
        "train.batch_size=2",
        "train.max_steps=4",
        "train.epochs=3",
        "validation.every_steps=2",
        "checkpoint.every_steps=2",
        "evaluation.at_end=false",
        f"output_dir='{tmp_path}'",
    )
    outcome = program.train(load_config("demo-cpu", settings), plain=True)
    last = outcome.run_dir / "checkpoint-4"
    weights = (last / "adapter_model.safetensors").read_bytes()
    optimizer = torch.load(last / "training_state.pt", weights_only=True)["optimizer"]["state"]
    assert outcome.best_value is not None
    program.resume(outcome.run_dir / "checkpoint-2", plain=True)
    assert (last / "adapter_model.safetensors").read_bytes() == weights
    again = torch.load(last / "training_state.pt", weights_only=True)["optimizer"]["state"]
    for index, state in optimizer.items():
        for name, value in state["__bnb_optimizer_quant_state__"].items():
            assert torch.equal(again[index]["__bnb_optimizer_quant_state__"][name], value)
