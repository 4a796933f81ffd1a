"""The choice of the best checkpoint, on scripted records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from llmcausal.config import RunConfig
from llmcausal.errors import ConfigError
from llmcausal.train.callback import FitContext, TrainState
from llmcausal.train.callbacks.model_checkpoint import ModelCheckpoint

ASR, UTILITY = "val_attack_success_rate", "val_utility"


class Scripted:
    """A run of scripted records; `best` lists the steps that were saved as best."""

    def __init__(self, folder: Path, callback: ModelCheckpoint) -> None:
        self.callback = callback
        self.best: list[int] = []
        self.saved: dict[str, Any] = {}
        self.context = FitContext(
            config=RunConfig(),
            run_dir=folder,
            state=TrainState(),
            total_steps=99,
            steps_per_epoch=99,
            device="cpu",  # type: ignore[arg-type]
            samples={},
            save_checkpoint=lambda: folder,
            save_best=self._save_best,
        )

    def _save_best(self) -> Path:
        self.best.append(self.context.state.step)
        self.saved = self.callback.state_dict()
        return self.context.run_dir

    def feed(self, *figures: tuple[float, float]) -> list[int]:
        for asr, utility in figures:
            self.context.state.step += 1
            record = {"step": self.context.state.step, ASR: asr, UTILITY: utility}
            self.callback.on_record(self.context, record)
        return self.best


def guarded(within: float = 0.02) -> ModelCheckpoint:
    return ModelCheckpoint(1000, 2, ASR, "min", UTILITY, within)


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        pytest.param([(0.5, 0.9), (0.3, 0.89), (0.4, 0.9)], [1, 2], id="lowest within the window"),
        pytest.param([(0.5, 0.9), (0.0, 0.5)], [1], id="resisting by babbling does not count"),
        pytest.param([(0.1, 0.5), (0.4, 0.9)], [1, 2], id="the kept best falls out"),
        pytest.param([(0.1, 0.5), (0.4, 0.9), (0.3, 0.88)], [1, 2, 3], id="then judged again"),
        pytest.param([(0.1, 0.5), (0.4, 0.9), (0.1, 0.5)], [1, 2], id="and does not come back"),
        pytest.param([(0.2, 0.96), (0.2, 0.97), (0.2, 0.96)], [1, 2], id="ties by guard"),
        pytest.param([(0.2, 0.96), (0.1, 0.94)], [1, 2], id="the border counts"),
        pytest.param([(0.2, 0.96), (0.1, 0.9399)], [1], id="beyond it does not"),
        pytest.param([(math.nan, 0.9), (0.5, 0.7)], [2], id="nothing measured, nothing judged"),
        pytest.param([(0.5, 0.7), (0.1, math.nan)], [1], id="no guard, no trust"),
    ],
)
def test_the_rule(tmp_path: Path, figures: list[tuple[float, float]], best: list[int]) -> None:
    assert Scripted(tmp_path, guarded()).feed(*figures) == best


def test_without_a_guard_only_the_metric_counts(tmp_path: Path) -> None:
    run = Scripted(tmp_path, ModelCheckpoint(1000, 2, ASR, "min"))
    assert run.feed((0.5, 0.9), (0.0, 0.1), (0.0, 0.9)) == [1, 2]


def test_the_untrained_model_sets_no_window(tmp_path: Path) -> None:
    run = Scripted(tmp_path, guarded())
    run.callback.on_record(run.context, {"step": 0, ASR: 0.9, UTILITY: 1.0})
    assert run.feed((0.5, 0.5)) == [1]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_resumed_run_keeps_the_same(tmp_path: Path, cut: int) -> None:
    """The window's top is not the kept best's guard, so checkpoints need both."""
    figures = [(0.5, 0.90), (0.3, 0.885), (0.2, 0.875), (0.31, 0.91), (0.3, 0.889)]
    straight = Scripted(tmp_path, guarded())
    assert straight.feed(*figures) == [1, 2, 4]
    first = Scripted(tmp_path, guarded())
    first.feed(*figures[:cut])
    second = Scripted(tmp_path, guarded())
    second.callback.load_state_dict(first.callback.state_dict())
    second.context.state.load_state_dict(first.context.state.state_dict())
    assert first.best + second.feed(*figures[cut:]) == straight.best
    assert second.callback.state_dict() == straight.callback.state_dict()


def test_the_best_checkpoint_knows_its_own_guard(tmp_path: Path) -> None:
    run = Scripted(tmp_path, guarded())
    run.feed((0.5, 0.9))
    assert run.saved == {"guard_metric": UTILITY, "guard_seen": 0.9, "guard_kept": 0.9}


def test_another_guard_starts_afresh(tmp_path: Path) -> None:
    first = Scripted(tmp_path, guarded())
    first.feed((0.5, 0.9))
    other = ModelCheckpoint(1000, 2, ASR, "min", "val_utility_under_attack", 0.02)
    other.load_state_dict(first.callback.state_dict())
    assert other.state_dict()["guard_kept"] is None


def test_a_checkpoint_from_before_guards_can_be_resumed() -> None:
    guarded().load_state_dict({})


@pytest.mark.parametrize("setting", ["best_metric", "guard_metric"])
def test_a_figure_that_no_record_has_is_refused_with_the_nearest(
    tmp_path: Path, setting: str
) -> None:
    metrics = {"best_metric": ASR, "guard_metric": UTILITY, setting: "val_utilty"}
    callback = ModelCheckpoint(
        1000, 2, metrics["best_metric"], "min", metrics["guard_metric"], 0.02
    )
    run = Scripted(tmp_path, callback)
    with pytest.raises(ConfigError, match=rf"checkpoint\.{setting}.*did you mean val_utility\?"):
        run.feed((0.5, 0.9))
