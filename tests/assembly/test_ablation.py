"""Ablations: on a tiny model, and on a stub that writes what a run leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmcausal.assembly import training
from llmcausal.assembly.training import TrainRequest
from llmcausal.config import RunConfig
from llmcausal.errors import ConfigError, Interrupted, NonFiniteLossError, UsageError
from llmcausal.profile import dump_config
from tests.program import ablate

VARY = ["loss.lambda_robust=0,1", "lora.rank=2,4"]
PROMPTS = 10


@pytest.fixture
def profile(tiny_config: Any, tmp_path: Path) -> Callable[..., str]:
    """Writes a profile and returns its path: `profile(train={"max_steps": 2})`."""

    def write(**sections: Any) -> str:
        settings: dict[str, Any] = {
            "train": {"max_steps": 2},
            "data": {"builtin": {"test": 4}},
            "evaluation": {"max_new_tokens": 3, "cache": False, "gate": False},
        }
        path = tmp_path / "study.toml"
        path.write_text(dump_config(tiny_config(**{**settings, **sections})), "utf-8")
        return str(path)

    return write


def figure(value: float, n: int = PROMPTS) -> dict[str, Any]:
    return {"value": value, "n": n, "low": 0.0, "high": 1.0}


def shares(config: RunConfig) -> tuple[int, int]:
    """Obeyed and right, of `PROMPTS`, as the stub decides it."""
    obeyed = 8 if not config.loss.lambda_robust else config.lora.rank - 1 + config.train.seed
    return obeyed, 9 if config.lora.rank < 8 else 2


class StubTrainer:
    """Leaves a finished run behind at once; remembers the names."""

    def __init__(self) -> None:
        self.trained: list[str] = []

    def __call__(self, request: TrainRequest) -> None:
        config = request.config
        self.trained.append(config.name)
        obeyed, right = shares(config)
        folder = config.run_dir / "evaluation"
        folder.mkdir(parents=True)
        (config.run_dir / "config.toml").write_text(dump_config(config))
        row = {"step": 2, "val_attack_success_rate": obeyed / 10, "val_utility": right / 10}
        (config.run_dir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        side = {
            "attack_success_rate": figure(obeyed / PROMPTS),
            "utility": figure(right / PROMPTS),
            "utility_under_attack": figure(0.5),
            "perplexity": figure(3.0),
            "perplexity_under_attack": figure(4.0),
            "causal": {
                "representation": "projection",
                "n": PROMPTS,
                "causal_stability": figure(0.9),
                "spurious_separation": figure(1.2),
                "causal_discrimination": figure(1.1),
                "detection_auroc": figure(1.0),
            },
        }
        base = {**side, "attack_success_rate": figure(0.6)}
        (folder / "results.json").write_text(json.dumps({"base": base, "tuned": side}))
        rows = [
            {
                "id": f"t{number}",
                "member": member,
                "system": "s",
                "prompt": f"{member} {number}",
                "expected": "e",
                "obeyed": number < obeyed if member == "injection" else None,
                "right": number < right,
                "novelty": "new_family",
                "answer": "one\u2028line",
            }
            for member in ("benign", "injection")
            for number in range(PROMPTS)
        ]
        # Another attack on a benign prompt that is in the suite already.
        rows.append({**rows[0], "id": "t-again", "right": False})
        rows += [{**row, "id": "seen", "obeyed": True, "novelty": "seen"} for row in rows[-4:-1]]
        text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)
        (folder / "generations.jsonl").write_text(text, "utf-8")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubTrainer:
    """Also spares the drawing, and the collection of garbage after each run, 0.3 s beside torch."""
    trainer = StubTrainer()
    monkeypatch.setattr(training, "train", trainer)
    monkeypatch.setattr("llmcausal.assembly.ablation.gc", SimpleNamespace(collect=lambda: 0))
    monkeypatch.setattr("llmcausal.assembly.ablation.ablation_plot", lambda _rows: "<svg></svg>")
    return trainer


def test_an_interrupted_grid_continues_to_the_identical_result(
    profile: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Once by Ctrl-C while the second run trains, once while the third is evaluated."""
    from llmcausal.train.callbacks.metrics_log import MetricsLog

    path, folder = profile(), tmp_path / "runs" / "ablate-tiny"
    straight = ablate(path, VARY, plain=True)
    assert straight["folder"] == str(folder)
    assert [row["label"] for row in straight["rows"]] == [
        "untouched base",
        "lambda_robust=0, rank=2",
        "lambda_robust=0, rank=4",
        "lambda_robust=1, rank=2",
        "lambda_robust=1, rank=4",
    ]
    assert (folder / "02_lambda_robust-0_rank-4_seed-0" / "best").is_dir()
    assert (folder / "ablation.svg").read_text().startswith("<svg")
    files = {name: (folder / name).read_bytes() for name in ("ablation.json", "ablation.md")}
    folder.rename(tmp_path / "straight")

    on_record, evaluate = MetricsLog.on_record, training.evaluate_model

    def interrupt(self: Any, context: Any, record: Any) -> None:
        on_record(self, context, record)
        if context.config.name.startswith("02") and record["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupted(config: Any, *arguments: Any, **options: Any) -> Any:
        if config.name.startswith("03"):
            raise KeyboardInterrupt
        return evaluate(config, *arguments, **options)

    monkeypatch.setattr(MetricsLog, "on_record", interrupt)
    with pytest.raises(Interrupted, match=r"run 2 of 4.*same command") as caught:
        ablate(path, VARY, plain=True)
    assert caught.value.exit_code == 130
    monkeypatch.setattr(MetricsLog, "on_record", on_record)
    monkeypatch.setattr(training, "evaluate_model", interrupted)
    with pytest.raises(Interrupted, match="run 3 of 4") as caught:
        ablate(path, VARY, plain=True)
    assert caught.value.exit_code == 130
    monkeypatch.setattr(training, "evaluate_model", evaluate)
    capsys.readouterr()
    assert ablate(path, VARY, plain=True) == straight
    assert capsys.readouterr().out.count("finished before") == 2
    assert {name: (folder / name).read_bytes() for name in files} == files


def test_a_finished_ablation_trains_nothing_again(profile: Any, stub: StubTrainer) -> None:
    first = ablate(profile(), VARY, seeds=2)
    assert len(stub.trained) == 8
    assert ablate(profile(), VARY, seeds=2) == first
    assert len(stub.trained) == 8


def test_rows_hold_means_over_seeds_with_intervals_over_prompts(
    profile: Any, stub: StubTrainer
) -> None:
    result = ablate(profile(), ["loss.lambda_robust=0,1"], seeds=3)
    base, without, robust = result["rows"]
    assert base["attack_success_rate"]["value"] == 0.6
    assert base["causal"]["causal_stability"] == 0.9
    # Rank 4: 3, 4 and 5 of 10 obeyed; the triplet whose phrasing training showed does not count.
    assert [seed["attack_success_rate"] for seed in robust["seeds"]] == [0.3, 0.4, 0.5]
    asr = robust["attack_success_rate"]
    assert asr["value"] == pytest.approx(0.4)
    assert asr["n"] == PROMPTS
    assert 0 < asr["low"] < 0.2 < 0.6 < asr["high"] < 1
    assert [seed["seed"] for seed in robust["seeds"]] == [0, 1, 2]
    assert robust["seeds"][0]["validation"]["val_utility"] == 0.9
    assert robust["utility"]["n"] == PROMPTS, "each distinct benign prompt counts once"
    assert robust["perplexity"] == 3.0
    assert without["attack_success_rate"]["value"] == pytest.approx(0.8)
    assert without["causal"]["representation"] == "projection"


def test_where_all_answers_agree_the_interval_is_not_empty(
    profile: Any, stub: StubTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(StubTrainer.__call__.__globals__, "shares", lambda config: (0, 10))
    row = ablate(profile(), ["loss.lambda_robust=1"], seeds=2)["rows"][1]
    assert row["attack_success_rate"]["low"] == 0
    assert row["attack_success_rate"]["high"] == pytest.approx(0.2775, abs=1e-3)  # Wilson, n = 10
    assert row["utility"]["value"] == 1
    assert row["utility"]["low"] < 0.8


def test_another_grid_in_the_same_folder_is_refused(
    profile: Any, stub: StubTrainer, tmp_path: Path
) -> None:
    ablate(profile(), VARY)
    with pytest.raises(UsageError, match=r"lora\.rank: \['2', '4'\] -> \['2', '8'\]"):
        ablate(profile(), ["loss.lambda_robust=0,1", "lora.rank=2,8"])
    with pytest.raises(UsageError, match="seeds"):
        ablate(profile(), VARY, seeds=2)
    with pytest.raises(UsageError, match=r"train learning_rate: 0\.001 -> 0\.002"):
        ablate(profile(), VARY, overrides=["train.learning_rate=2e-3"])
    data = tmp_path / "train.jsonl"
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UsageError, match="data 01_lambda_robust-0_rank-2_seed-0 train"):
        ablate(profile(), VARY)
    assert len(stub.trained) == 4
    assert len(ablate(profile(), VARY, output_dir=tmp_path / "other")["rows"]) == 5


def test_a_folder_of_something_else_is_left_alone(
    profile: Any, stub: StubTrainer, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"holds no ablation\.json"):
        ablate(profile(), VARY, output_dir=tmp_path)
    assert stub.trained == []


def test_every_bad_combination_is_told_before_anything_runs(
    profile: Any, stub: StubTrainer
) -> None:
    with pytest.raises(ConfigError) as caught:
        ablate(profile(), ["lora.rank=0,2,x", "train.seed=1,2"])
    assert str(caught.value).count("rank=0, seed=") == 2
    assert str(caught.value).count("rank=x, seed=") == 2
    assert "rank=2" not in str(caught.value)
    with pytest.raises(UsageError, match="contradict"):
        ablate(profile(), ["train.seed=1,2"], seeds=2)
    with pytest.raises(ConfigError, match=r"train\.seed.*integer"):
        ablate(profile(), ["train.seed=1,first"])
    with pytest.raises(ConfigError, match="attack_probe"):
        ablate(profile(), ["checkpoint.best_metric=val_loss,val_utility"])
    assert stub.trained == []


def test_a_run_whose_loss_breaks_is_a_result(
    profile: Any, stub: StubTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def train(request: TrainRequest) -> None:
        config = request.config
        calls.append(config.name)
        stub(request)
        if config.train.seed == 1 and config.lora.rank == 2:
            shutil.rmtree(config.run_dir / "evaluation")
            raise NonFiniteLossError("Step 1: loss nan")

    monkeypatch.setattr(training, "train", train)
    result = ablate(profile(), ["lora.rank=2,4"], seeds=2)
    assert [len(row["seeds"]) for row in result["rows"]] == [1, 1, 2]
    (failed,) = result["rows"][1]["failed"]
    assert failed == {"seed": 1, "run": "01_rank-2_seed-1", "error": "Step 1: loss nan"}
    assert "seed 1 failed" in (Path(result["folder"]) / "ablation.md").read_text()
    assert ablate(profile(), ["lora.rank=2,4"], seeds=2) == result
    assert len(calls) == 4


def test_names_fit_and_stay_distinct(profile: Any, stub: StubTrainer) -> None:
    modules = ",".join(
        json.dumps(["q_proj", "v_proj", "k_proj", "o_proj", "up_proj"][:count] * 4)
        for count in (2, 5)
    )
    ablate(profile(), [f"lora.target_modules={modules}"])
    assert len({*stub.trained}) == 2
    assert all(len(name) <= 100 and name.endswith("_seed-0") for name in stub.trained)


SEARCH = ["loss.lambda_robust=0,1", "lora.rank=2,4,8"]


def test_a_search_prefers_resisting_without_lost_utility(
    profile: Any, stub: StubTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = profile(validation={"attack_probe": 2})
    result = ablate(path, SEARCH, trials=12)
    assert "val_attack_success_rate + (1 - val_utility)" in result["search"]["objective"]
    values = {trial["combination"]: trial["value"] for trial in result["search"]["trials"]}
    assert values[result["search"]["best"]] == min(values.values())
    assert len(result["search"]["trials"]) == 12
    assert len(stub.trained) == len(set(stub.trained)) == len(result["rows"]) - 1
    assert "Search: 12 trials" in (Path(result["folder"]) / "ablation.md").read_text()


def test_a_failed_run_is_the_worst_there_is_for_a_search(
    profile: Any, stub: StubTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However good its figures were before the loss broke."""

    def train(request: TrainRequest) -> None:
        config = request.config
        stub(request)
        if config.lora.rank == 2:
            shutil.rmtree(config.run_dir / "evaluation")
            raise NonFiniteLossError("Step 3: loss nan")

    monkeypatch.setattr(training, "train", train)
    result = ablate(profile(validation={"attack_probe": 2}), ["lora.rank=2,4"], trials=6)
    values = {trial["combination"]: trial["value"] for trial in result["search"]["trials"]}
    assert values == {"rank=2": 2.0, "rank=4": pytest.approx(0.4)}
    assert result["search"]["best"] == "rank=4"


def test_an_interrupted_search_continues_as_if_it_had_not_been(
    profile: Any, stub: StubTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = profile(validation={"attack_probe": 2})
    straight = ablate(path, SEARCH, trials=3)
    folder = Path(straight["folder"])
    record = (folder / "ablation.json").read_bytes()
    folder.rename(tmp_path / "straight")

    def train(request: TrainRequest) -> None:
        if len(list(folder.glob("0*"))) == 1:
            raise KeyboardInterrupt
        stub(request)

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(Interrupted):
        ablate(path, SEARCH, trials=3)
    monkeypatch.setattr(training, "train", stub)
    assert ablate(path, SEARCH, trials=3) == straight
    assert (folder / "ablation.json").read_bytes() == record
    more = ablate(path, SEARCH, trials=5)
    assert more["search"]["trials"][:3] == straight["search"]["trials"]
    with pytest.raises(UsageError, match="chosen_by: 'optuna' -> 'grid'"):
        ablate(path, SEARCH)


def test_a_search_needs_optuna_and_the_probe(
    profile: Any, stub: StubTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"validation\.attack_probe"):
        ablate(profile(), VARY, trials=3)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"llmcausal\[search\]"):
        ablate(profile(validation={"attack_probe": 2}), VARY, trials=3)
    assert stub.trained == []
