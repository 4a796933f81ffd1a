"""`profile-memory --eval` with the tokenizer at hand: the load is the suite's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmcausal.assembly.evaluating import choose_suite
from llmcausal.assembly.memory_report import profile_memory
from llmcausal.assembly.prepare import load_template, prepare_data
from llmcausal.config import RunConfig
from llmcausal.data.template import ChatTemplate
from llmcausal.data.tokenization import TripletEncoder
from llmcausal.errors import ConfigError, DataError
from llmcausal.evaluation.evaluate import prompts_of
from llmcausal.evaluation.forward import encode
from llmcausal.memory import evaluation, prediction
from llmcausal.memory.prediction import Kernel, Prediction, Workload
from llmcausal.memory.report import MemoryRequest
from llmcausal.memory.workload import READ, data_workload
from llmcausal.train.batch import collate
from tests.predictions import made_prediction


@pytest.fixture(autouse=True)
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Workload]:
    """Predicts instantly; the micro-batches that training was planned with."""
    loads: list[Workload] = []

    def predict(_config: RunConfig, load: Any, *_: object, **__: object) -> Prediction:
        return made_prediction(load, 2**20, device="cpu")

    def predict_training(config: RunConfig, load: Workload, **_: object) -> Prediction:
        loads.append(load)
        return predict(config, load)

    monkeypatch.setattr(prediction, "predict", predict_training)
    monkeypatch.setattr(evaluation, "predict_answers", predict)
    monkeypatch.setattr(evaluation, "predict_reading", predict)
    return loads


def test_lengths_are_those_of_the_suite(tiny_config: Any, tmp_path: Path) -> None:
    data = {"max_length": 2048, "test": str(tmp_path / "train.jsonl")}
    config = tiny_config(data=data, evaluation={"batch_size": 4, "max_new_tokens": 9})
    result = profile_memory(config, MemoryRequest(evaluation=True))
    template = load_template(config.model)
    pairs = prompts_of(choose_suite(config.data, config.evaluation).triplets)
    lengths = [len(template.encode_prompt(*pair)) for pair in pairs]
    answers, reading = (result["workload"][part] for part in ("answers", "reading"))
    assert (answers["prompts"], answers["new_tokens"]) == (4, 9)
    assert answers["prompt_tokens"] == max(lengths)
    assert 0 < answers["shared_tokens"] < max(lengths)
    assert reading["triplets"] == config.validation.batch_size
    assert max(lengths) - 1 <= reading["member_tokens"] <= 2048
    assert result["workload"]["source"] == f"the longest of {len(lengths)} prompts of file"
    assert result["fits"]
    assert "dequantizes the weights" in " ".join(result["notes"])
    shared = profile_memory(config, MemoryRequest(evaluation=True, shared=0.5))["workload"]
    assert shared["answers"]["shared_tokens"] == max(lengths) // 2
    assert shared["source"].endswith("; 50% of it shared")


def test_switches_are_those_that_training_chooses(
    tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And advice for answers names no kept layers, which only a backward pass needs."""

    def predict(config: RunConfig, load: Any, *_: object, **__: object) -> Prediction:
        memory = config.memory
        kept = 2 if memory.activations == "keep" else memory.kept_layers
        kernels = ((Kernel("mm", 10**9, 1), 9 - kept),)
        return made_prediction(load, 2**29 + kept * 2**28, kernels=kernels)

    def predict_answers(config: RunConfig, load: Any, *_: object, **__: object) -> Prediction:
        return made_prediction(load, (7 if config.memory.head == "host" else 9) * 2**30)

    monkeypatch.setattr(prediction, "predict", predict)
    monkeypatch.setattr(evaluation, "predict_answers", predict_answers)
    config = tiny_config(model={"unpack_on_cpu": False}, memory={"budget_gb": 0.85})
    training = profile_memory(config, MemoryRequest())
    result = profile_memory(config, MemoryRequest(evaluation=True))
    assert training["strategy"]["switches"]["kept_layers"] == 1
    assert result["strategy"]["switches"] == training["strategy"]["switches"]
    assert result["advice"]
    assert "kept_layers" not in str(result["advice"])


def test_lengths_of_the_request_are_the_evaluations_only(
    tiny_config: Any, tmp_path: Path, planned: list[Workload]
) -> None:
    data = {"max_length": 2048, "test": str(tmp_path / "train.jsonl")}
    config = tiny_config(data=data)
    request = MemoryRequest(seq_len=77, shared=0.5, evaluation=True)
    workload = profile_memory(config, request)["workload"]
    assert workload["answers"]["prompt_tokens"] == workload["reading"]["member_tokens"] == 77
    of_training = data_workload(config, prepare_data(config, answer=False).train)
    assert of_training.member_tokens > 77
    assert set(planned) == {of_training}


def test_texts_are_read_as_an_evaluation_reads_them(tiny_config: Any, tmp_path: Path) -> None:
    """Training on clean pairs needs one member; an evaluation reads three of each triplet."""
    data = {"max_length": 2048, "test": str(tmp_path / "train.jsonl")}
    off = dict.fromkeys(("lambda_robust", "lambda_contrastive"), 0.0)
    config = tiny_config(data=data, loss=off, validation={"batch_size": 1})
    workload = profile_memory(config, MemoryRequest(evaluation=True))["workload"]
    reading = Workload(**workload["reading"])
    suite = choose_suite(config.data, config.evaluation).triplets
    encoded, _ = encode(TripletEncoder(load_template(config.model), 2048), suite)
    real = max(len(collate([each.encoded], READ, "mean").tokens) for each in encoded)
    assert real <= len(collate(reading.made_up(), READ, "mean").tokens)
    assert reading.shared_tokens > 0


def test_what_an_evaluation_leaves_out_is_left_out(
    tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    long, test = '"system": "' + "word " * 250, tmp_path / "test.jsonl"
    test.write_text("\n".join(each.replace('"system": "', long) for each in lines[:3]), "utf-8")
    config = tiny_config(data={"max_length": 1024, "test": str(test)})
    pairs = prompts_of(choose_suite(config.data, config.evaluation).triplets)
    refused, encode_prompt = pairs[0], ChatTemplate.encode_prompt

    def encode(template: ChatTemplate, *pair: Any) -> list[int]:
        if pair == refused:
            raise DataError(["system: it is itself a control token"])
        return encode_prompt(template, *pair)

    monkeypatch.setattr(ChatTemplate, "encode_prompt", encode)
    result = profile_memory(config, MemoryRequest(evaluation=True))
    fewer = result["workload"]["source"].split()[3]
    assert 0 < int(fewer) < len(pairs)
    # The prompts fit the model's context, and no triplet fits data.max_length.
    assert result["workload"]["reading"] is None
    assert list(result["parts"]) == ["answers"]
    assert result["workload"]["source"].endswith("none is read whole: data.max_length")
    shared = profile_memory(config, MemoryRequest(evaluation=True, shared=0.5))["workload"]
    assert shared["source"].endswith("; 50% of it shared")


def test_a_suite_without_prompts_that_fit_and_shared_layers_are_refused(
    tiny_config: Any, tmp_path: Path
) -> None:
    test = str(tmp_path / "train.jsonl")
    sharded = tiny_config(data={"max_length": 2048, "test": test}, memory={"shards": 2})
    with pytest.raises(ConfigError, match=r"--set memory\.shards=1"):
        profile_memory(sharded, MemoryRequest(evaluation=True))
    long = tmp_path / "long.jsonl"
    first = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()[0]
    long.write_text(first.replace('"system": "', '"system": "' + "word " * 800), encoding="utf-8")
    config = tiny_config(data={"max_length": 2048, "test": str(long)})
    with pytest.raises(DataError, match=r"none of the test prompts can be used\n.*context of 2048"):
        profile_memory(config, MemoryRequest(evaluation=True))
