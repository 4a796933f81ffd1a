"""`profile-memory` with a predictor whose figures follow a known line; no model, no GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from llmcausal.cli import app
from llmcausal.config import RunConfig
from llmcausal.memory import prediction
from llmcausal.memory.prediction import (
    COMPONENTS,
    HeldTensors,
    Moment,
    Prediction,
    Workload,
    switches_of,
)
from llmcausal.memory.strategies import STRATEGIES
from llmcausal.ui.console import console
from tests.predictions import made_prediction

MIB = 2**20
NAMES = list(STRATEGIES)


def predict(
    config: RunConfig, workload: Workload, *, device: Any, strategy: str = "custom", **_: Any
) -> Prediction:
    """3 GiB of weights; per token 2 MiB, less with each strategy of the table."""
    switches = switches_of(config.memory)
    rank = next(
        (
            index
            for index, wanted in enumerate(STRATEGIES.values())
            if all(switches[key] == value for key, value in wanted.items())
        ),
        1,
    )
    per_token = 8 * MIB if strategy == "naive" else 2 * MIB >> rank
    activations = workload.member_tokens * workload.triplets * per_token
    components = {**dict.fromkeys(COMPONENTS, 0), "base_model": 3072 * MIB}
    components["activations"] = activations
    before = {**components, "activations": 0}
    allocated = 3072 * MIB + activations
    return made_prediction(
        workload,
        allocated,
        architecture=config.model.name,
        device=device,
        strategy=strategy,
        switches=switches,
        components=components,
        reserved_bytes=allocated + 64 * MIB,
        context_bytes=400 * MIB,
        host_bytes=1000 * MIB,
        peak_tensors=(HeldTensors("activations", "layer inputs [bold]", 32, activations),),
        timeline=(
            Moment("weights", before),
            Moment("forward", before),
            Moment("backward", components),
            Moment("optimizer", before),
        ),
        extrapolated=True,
    )


def called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *first: str
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Yields a function that calls the command with further arguments: exit code, both outputs."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    console.cache_clear()  # it reads the width once

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llmcausal", "profile-memory", *first, *arguments])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        shown = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, shown.out, shown.err

    yield call
    console.cache_clear()


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    monkeypatch.setattr(prediction, "predict", predict)
    yield from called(monkeypatch, capsys)


Run = Callable[..., tuple[int, str, str]]


def test_a_sweep_plans_for_other_lengths_and_micro_batches(run: Run) -> None:
    code, out, _ = run("--seq-len", "2048", "--vram-gb", "6", "--sweep", "--json")
    rows = json.loads(out)["sweep"]
    assert code == 0
    assert [(row["member_tokens"], row["triplets"]) for row in rows] == [
        *((tokens, 1) for tokens in (512, 1024, 2048, 4096, 8192, 16384)),
        *((2048, triplets) for triplets in (2, 4, 8)),
    ]
    by_size = {row["member_tokens"] * row["triplets"]: row for row in rows}
    # 1804 MiB for tokens: of 1 MiB each (the profile recomputes), of 0.5 MiB, of 0.25 MiB
    assert [by_size[2**power]["strategy"] for power in (9, 10, 11, 12)] == [
        "recompute",
        "recompute",
        "host_embeddings",
        "offload",
    ]
    assert by_size[512]["predicted_bytes"] == (3072 + 512 + 64 + 400) * MIB
    assert all(row["fits"] for row in rows)


def test_json_is_one_object_with_the_plan_for_a_named_card(run: Run) -> None:
    code, out, _ = run("--seq-len", "2048", "--vram-gb", "6", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["model"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert (result["fits"], result["kind"], result["device"]) == (True, "predicted", "cuda")
    assert result["workload"]["member_tokens"] == 2048
    assert result["workload"]["shared_tokens"] == 0
    assert result["workload"]["source"] == "--seq-len; the worst of 0, 1, 64 shared tokens"
    assert result["budget"]["bytes"] == 5340 * MIB
    assert "6 GB card" in result["budget"]["source"]
    # 5340 - 3072 - 400 - 64 MiB leave 1804 for 2048 tokens: 0.5 MiB a token fits, 1 does not
    assert result["strategy"]["name"] == "host_embeddings"
    predicted = result["prediction"]
    assert sum(predicted["components"].values()) == predicted["allocated_bytes"]
    assert predicted["total_bytes"] == (3072 + 1024 + 64 + 400) * MIB
    assert predicted["margin_bytes"] == result["budget"]["bytes"] - predicted["total_bytes"]
    assert 3608 * 31 / 32 - 64 <= result["limits"]["max_length"] <= 3608
    assert result["limits"]["batch_size"] == 1
    assert result["naive"] is None
    assert (result["advice"], result["sweep"], result["measured"]) == ([], [], None)
    ratios = {row["strategy"]: row["flops_ratio"] for row in result["costs"]}
    assert ratios["keep"] == 1
    assert 1.3 < ratios["recompute"] < 1.6
    # The first chunk of tokens computes its last product again.
    assert ratios["recompute"] < ratios["lean"] < ratios["one_by_one"]
    assert result["time"]["flops_per_second"] is None  # another machine's card
    assert result["time"]["floor_seconds"] is None


def test_what_does_not_fit_ends_with_3_and_advice(run: Run) -> None:
    code, out, _ = run("--seq-len", "2048", "--vram-gb", "4.2", "--json")
    result = json.loads(out)
    assert code == 3
    assert result["fits"] is False
    assert result["advice"]
    assert all("--set" in entry["arguments"] for entry in result["advice"])


def test_the_usual_recipe_stands_beside_ours(run: Run) -> None:
    code, out, _ = run("--seq-len", "2048", "--vram-gb", "6", "--strategy", "naive")
    assert code == 3
    assert "usual recipe" in out
    total = next(line for line in out.splitlines() if line.strip().startswith("total"))
    assert total.split()[1:] == ["4.45", "GiB", "19.45", "GiB"]
    told = " ".join(out.split())
    assert "exit code 3: it describes the requested strategy, the usual recipe" in told
    assert "host_embeddings fits" in told


def test_the_table_tells_everything_and_nothing_as_measured(run: Run) -> None:
    code, out, err = run("--seq-len", "2048", "--vram-gb", "6", "--sweep")
    assert code == 0
    for text in (
        "predicted, not measured",
        "base model",
        "LoRA adapters",
        "optimizer state",
        "gradients",
        "activations",
        "logits",
        "dequantization",
        "CUDA context",
        "safety margin",
        "host memory",
        "layer inputs [bold]",
        "strategy: host_embeddings",
        "longest members that fit",
        "largest micro-batch",
        " 1 triplet ",
        "Other lengths and micro-batches",
        "no time measured",
    ):
        assert text in out, text
    assert "a 6 GB card, less 804 MiB" in out
    assert max(map(len, out.splitlines())) <= 100
    assert "Predicting memory" in err
    for name in NAMES:
        assert name in out


def test_a_strategy_of_ones_own_is_predicted_as_it_is(run: Run) -> None:
    code, out, _ = run("--seq-len", "2048", "--vram-gb", "6", "--strategy", "keep", "--json")
    result = json.loads(out)
    assert (code, result["strategy"]["name"]) == (3, "keep")
    assert len(result["strategy"]["tried"]) == 1


def test_the_shared_share_and_settings_are_passed_on(run: Run) -> None:
    options = ("--seq-len", "1000", "--shared", "0.5", "--vram-gb", "8", "--json")
    _, out, _ = run("minimal-4gb", *options, "--set", "train.batch_size=2")
    workload = json.loads(out)["workload"]
    assert (workload["member_tokens"], workload["shared_tokens"]) == (1000, 500)
    assert workload["triplets"] == 2


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_timeline_is_drawn_to_a_file(run: Run, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"memory.{suffix}"
    assert run("--seq-len", "512", "--vram-gb", "6", "--plot", str(file))[0] == 0
    if suffix == "svg":
        assert "budget less CUDA context" in file.read_text()
        ElementTree.parse(file)
    else:
        assert file.read_bytes().startswith(b"\x89PNG")


def test_bad_arguments_are_refused_before_anything_is_predicted(run: Run, tmp_path: Path) -> None:
    code, _, err = run("--plot", str(tmp_path / "memory.gif"))
    assert (code, "memory.svg" in err) == (2, True)
    code, _, err = run("--strategy", "offlod")
    assert code == 2
    assert "did you mean offload" in err
