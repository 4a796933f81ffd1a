from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from llmcausal.errors import NonFiniteLossError
from llmcausal.train.callback import TrainState
from llmcausal.train.objective import StepResult
from llmcausal.train.step import TripletStep
from llmcausal.train.update import MOST_OVERFLOWS, fault_of, left_out
from tests import program
from tests.assembly.conftest import tiny_config  # noqa: F401 - a fixture


@pytest.mark.parametrize(
    ("record", "norm", "fault"),
    [
        ({"loss": 1.0, "task_loss": 2.0}, 3.0, None),
        ({"loss": 1.0, "causal_stability": math.nan}, 3.0, None),  # not part of the loss
        ({"loss": 1.0, "task_loss": 2.0}, math.inf, "gradient norm inf"),
        ({"loss": math.nan, "task_loss": 2.0, "robust_loss": math.inf}, math.nan,
         "loss nan, robust_loss inf"),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_named(record: Any, norm: float, fault: str | None) -> None:
    assert fault_of(record, norm) == fault


def test_so_many_in_a_row_and_then_no_more() -> None:
    state = TrainState(step=4)
    notes = [left_out(state, "loss nan", "a, b", overflow=False, most=2) for _ in range(2)]
    assert all("step 5 skipped" in line and "a, b" in line for line in notes)
    with pytest.raises(NonFiniteLossError, match="loss nan, after 2 skipped steps") as caught:
        left_out(state, "loss nan", "a, b", overflow=False, most=2)
    assert "train.learning_rate" in str(caught.value)
    assert (state.skipped_in_a_row, state.skipped_steps) == (0, 2)


def test_a_scale_that_never_fits_ends_the_run_too() -> None:
    """The fp16 scale, 2^16 halved each time, is below 1 long before."""
    state = TrainState()
    for _ in range(MOST_OVERFLOWS):
        left_out(state, "gradient norm inf", "a", overflow=True, most=0)
    with pytest.raises(NonFiniteLossError):
        left_out(state, "gradient norm inf", "a", overflow=True, most=0)


@pytest.mark.parametrize("term", ["task_loss", "robust_loss", "contrastive_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_planted_fault_is_left_out_of_the_weights_and_the_run_goes_on(
    tiny_config: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    term: str,
    value: float,
) -> None:
    """One term of the third micro-batch, step 2's first, is not finite."""
    calls, weights = 0, []
    whole = TripletStep.__call__

    def planted(self: Any, batch: Any, totals: Any, backward: Any = None) -> StepResult:
        nonlocal calls
        if backward is None:
            return whole(self, batch, totals)
        calls += 1
        first = next(p for p in self.trunk.decoder.parameters() if p.requires_grad)
        weights.append(first.detach().clone())
        if calls != 3:
            return whole(self, batch, totals, backward)

        def poisoned(loss: torch.Tensor) -> None:
            backward(loss * value)

        result = whole(self, batch, totals, poisoned)
        sums = dict(result.sums)
        sums[term], sums["loss"] = sums[term] * value, sums["loss"] * value
        named.extend(batch.ids)
        return StepResult(result.loss, sums, result.counts)

    named: list[str] = []
    monkeypatch.setattr(TripletStep, "__call__", planted)
    config = tiny_config(train={"max_steps": 4}, validation={"every_steps": 4})
    outcome = program.train(config, plain=True)
    assert outcome.steps == 4
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "step 2 skipped" in shown
    assert f"{term} {value}".removeprefix("-") in shown.replace("-inf", "inf")
    assert all(identity in shown for identity in named)
    assert torch.equal(weights[2], weights[4])  # before step 2, and before step 3
    assert not torch.equal(weights[4], weights[6])
    assert all(weight.isfinite().all() for weight in weights)
