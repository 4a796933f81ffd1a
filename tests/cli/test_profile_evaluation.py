"""`profile-memory --eval` with predictions that follow a known line; no model, no GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmcausal.config import RunConfig
from llmcausal.memory import evaluation, prediction
from llmcausal.memory.prediction import AnswerLoad, Kernel, Prediction, Workload
from tests.cli.test_profile_memory import called
from tests.predictions import made_prediction

MIB = 2**20
Run = Callable[..., tuple[int, str, str]]


def predict(config: RunConfig, workload: Workload, **values: Any) -> Prediction:
    return made_prediction(workload, 4096 * MIB, strategy=values.get("strategy", "custom"))


def predict_answers(
    config: RunConfig, load: AnswerLoad, _rehearsal: object, *, device: str
) -> Prediction:
    """4 GiB, 128 MiB for each prompt, 1 MiB for each token beyond 64; the head is 1 GiB.

    Its kernel takes as long as 1 GB from memory.
    """
    kernels = ((Kernel("mm", 0, 10**9), 1), (Kernel("copy_", 0, 10**6, crosses=True), 2))
    needed = 4096 + 128 * load.prompts + load.prompts * max(0, load.new_tokens - 64)
    needed -= 1024 * (config.memory.head == "host")
    return made_prediction(load, needed * MIB, kernels=kernels, peak_phase="tokens")


def predict_reading(config: RunConfig, workload: Workload, *, device: str) -> Prediction:
    return made_prediction(workload, (4096 + 800 * workload.triplets) * MIB)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    monkeypatch.setattr(prediction, "predict", predict)
    monkeypatch.setattr(evaluation, "predict_answers", predict_answers)
    monkeypatch.setattr(evaluation, "predict_reading", predict_reading)
    yield from called(monkeypatch, capsys, "rtx4050", "--eval")


def test_what_does_not_fit_ends_with_3_and_the_largest_batch(run: Run) -> None:
    arguments = ("--vram-gb", "6", "--seq-len", "1024", "--set", "evaluation.batch_size=32")
    code, out, _ = run(*arguments, "--set", "validation.batch_size=2", "--json")
    result = json.loads(out)
    assert (code, result["fits"], result["kind"]) == (3, False, "predicted")
    assert result["workload"]["answers"]["prompts"] == 32
    assert result["workload"]["answers"]["prompt_tokens"] == 1024
    assert result["workload"]["source"] == "--seq-len; the worst of 0, 1, 64 shared tokens"
    # 5340 - 4096 MiB leave 1244: nine prompts of 128, or one triplet of 800.
    assert result["limits"]["batch_size"] == 9
    assert result["parts"]["answers"] == {"needed_bytes": 8192 * MIB, "fits": False}
    assert result["parts"]["reading"]["fits"] is False
    advice = {entry["arguments"]: entry for entry in result["advice"]}
    assert list(advice) == ["--set evaluation.batch_size=9", "--set validation.batch_size=1"]
    assert all(entry["fits"] for entry in advice.values())
    assert result["time"]["prompts_per_batch"] == 9  # that of what fits
    code, out, _ = run(*arguments, "--set", "validation.batch_size=2")
    assert code == 3
    assert "9 prompts" in out
    assert "--set evaluation.batch_size=9" in " ".join(out.split())


def test_one_answer_that_does_not_fit_is_told_what_would_help(run: Run) -> None:
    arguments = ("--vram-gb", "5", "--seq-len", "64", "--set", "evaluation.max_new_tokens=200")
    code, out, _ = run(*arguments, "--set", "evaluation.batch_size=4", "--json")
    result = json.loads(out)
    assert result["budget"]["bytes"] // MIB == 4316  # 44 MiB less than one answer
    assert (code, result["limits"]["batch_size"], result["time"]) == (3, 0, None)
    alone, host, shorter = result["advice"]
    assert alone["arguments"] == "--set evaluation.batch_size=1"
    assert alone["predicted_bytes"] == (4096 + 128 + 136) * MIB
    assert host["arguments"].startswith("--set evaluation.batch_size=1 --set memory.")
    assert "--set memory.head=host" in host["arguments"]
    # 4096 + 128 + 156 - 64
    assert shorter["arguments"].endswith("batch_size=1 --set evaluation.max_new_tokens=156")
    assert [entry["fits"] for entry in result["advice"]] == [False, True, True]


def test_what_fits_ends_with_0_and_predicted_tokens_a_second(run: Run) -> None:
    arguments = ("--vram-gb", "6", "--seq-len", "512", "--shared", "0.5")
    arguments += ("--set", "evaluation.batch_size=4", "--set", "evaluation.max_new_tokens=10")
    code, out, _ = run(*arguments, "--json")
    result = json.loads(out)
    assert (code, result["fits"], result["advice"]) == (0, True, [])
    assert result["workload"]["answers"]["shared_tokens"] == 256
    assert result["workload"]["source"] == "--seq-len; 50% of it shared"
    # 4608 MiB of answers, 4896 of reading.
    assert result["prediction"]["total_bytes"] == result["parts"]["reading"]["needed_bytes"]
    assert result["prediction"]["peak_phase"] == "backward"
    time = result["time"]
    assert (time["new_tokens_per_batch"], time["moved_bytes_per_batch"]) == (40, 2 * 10**6)
    laptop = next(row for row in time["cards"] if row["card"] == "RTX 4050 Laptop")
    # 1 GB at 192 GB/s, and three launches of 5 us; half of the rates, and 15 us, at worst.
    least, most = laptop["batch_seconds"]
    assert least == pytest.approx(1 / 192)
    assert most == pytest.approx(2 / 192 + 4 * 10**6 / 15.8e9 + 3 * 15e-6, rel=1e-3)
    assert laptop["tokens_per_second"] == pytest.approx([40 / most, 40 / least])
    code, out, _ = run(*arguments)
    assert code == 0
    assert "measured by nobody" in out
    assert "new tokens a second" in out


def test_fp32_has_no_predicted_time(run: Run) -> None:
    _, out, _ = run(
        "--vram-gb", "12", "--seq-len", "512", "--set", "model.precision=fp32", "--json"
    )
    assert json.loads(out)["time"] is None


@pytest.mark.parametrize("option", ["--sweep", "--measure", "--plot", "--strategy"])
def test_options_of_a_step_are_refused(run: Run, option: str) -> None:
    value = {"--plot": ["x.svg"], "--strategy": ["lean"]}.get(option, [])
    code, _, err = run(option, *value)
    assert code == 2
    assert f"--eval and {option}" in err
