"""What a run says after its first steps of the time that it will take."""

from __future__ import annotations

from typing import Any

from llmcausal.ui.pace import FORECAST_AFTER, FORWARD_SHARE, Forecast


def test_the_forecast_is_told_once_from_measured_steps(run: Any) -> None:
    forecast = Forecast(answered_tokens=60_000, clock=run.clock)
    run.start(forecast)
    told = list(run.context.notes)
    for _ in range(FORECAST_AFTER - 1):
        run.step(forecast)
    assert run.context.notes == told, "the first steps are slow: not yet"
    for _ in range(3):
        run.step(forecast)
    (note,) = [each for each in run.context.notes if each not in told]
    # 6 s and 6,000 tokens a step: a token takes 1 ms to train.
    assert f"evaluation 0:{FORWARD_SHARE * 60:.0f}" in note
    assert note.startswith("about ")
    assert "training " in note


def test_without_an_evaluation_none_is_told(run: Any) -> None:
    forecast = Forecast(answered_tokens=0, clock=run.clock)
    run.start(forecast)
    for _ in range(FORECAST_AFTER):
        run.step(forecast)
    assert "evaluation" not in run.context.notes[-1]
