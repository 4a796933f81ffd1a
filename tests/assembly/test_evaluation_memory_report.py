"""`profile-memory --eval` with the tokenizer at hand: the load is the suite's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmcausal.assembly.evaluating import choose_suite
from llmcausal.assembly.memory_report import profile_memory
from llmcausal.assembly.prepare import load_template
from llmcausal.config import RunConfig
from llmcausal.errors import ConfigError, DataError
from llmcausal.evaluation.evaluate import prompts_of
from llmcausal.memory import evaluation, prediction
from llmcausal.memory.prediction import Prediction
from llmcausal.memory.report import MemoryRequest
from tests.predictions import made_prediction


@pytest.fixture(autouse=True)
def instant_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(_config: RunConfig, load: Any, *_: object, **__: object) -> Prediction:
        return made_prediction(load, 2**20, device="cpu")

    monkeypatch.setattr(prediction, "predict", predict)
    monkeypatch.setattr(evaluation, "predict_answers", predict)
    monkeypatch.setattr(evaluation, "predict_reading", predict)


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


def test_a_suite_without_readable_texts_and_shared_layers_are_refused(
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
    with pytest.raises(DataError, match="every prompt exceeds the model's context of 2048"):
        profile_memory(config, MemoryRequest(evaluation=True))
