"""Advice, against a predictor in which every change has its known effect."""

from __future__ import annotations

import shlex
from typing import Any

from llmcausal.config import RunConfig
from llmcausal.memory.advice import advice_lines, advise
from llmcausal.memory.plan import Predictor
from llmcausal.memory.prediction import Prediction, Workload
from llmcausal.profile import load_config
from tests.predictions import made_prediction

GIB = 2**30


def predict(config: RunConfig, workload: Workload, **options: Any) -> Prediction:
    """1 GiB of weights, 2 MiB a token and triplet, 64 MiB a rank; a tenth of a layer offloaded."""
    tokens = workload.triplets * workload.member_tokens * 2 * 2**20
    if config.memory.activations == "offload":
        tokens //= 2
    modules = len(config.lora.target_modules)
    needed = GIB + tokens + config.lora.rank * modules * 2**24
    return made_prediction(workload, needed, strategy=options["strategy"])


def ask(config: RunConfig, workload: Workload, gib: float) -> Any:
    predictor = Predictor("cuda", predict)
    return advise(config, workload, round(gib * GIB), predictor=predictor)


def config(**sections: Any) -> RunConfig:
    return RunConfig.model_validate(sections)


def test_each_change_is_predicted_alone_and_the_length_is_the_largest() -> None:
    found = ask(config(), Workload(2048), 4)
    assert [entry.settings for entry in found] == [
        ("lora.rank=8",),
        ('lora.target_modules=["q_proj", "v_proj"]',),
        ("data.max_length=1280",),
    ]
    # 1 + 2 GiB of tokens offloaded + 16 or 7 modules of adapters
    assert [entry.needed_bytes / GIB for entry in found] == [3.875, 3.5, 4.0]
    assert [entry.fits for entry in found] == [True, True, True]
    assert found[2].prediction.workload.member_tokens == 1280


def test_smaller_micro_batches_come_first_and_keep_the_optimizer_step() -> None:
    wide = config(train={"batch_size": 4, "accumulation_steps": 2})
    found = ask(wide, Workload(1024, triplets=4), 4.5)
    assert found[0].settings == ("train.batch_size=1", "train.accumulation_steps=8")
    assert found[0].fits


def test_where_nothing_helps_alone_all_of_it_is_tried_together() -> None:
    found = ask(config(), Workload(2048), 1.45)
    alone, together = found[:2], found[2:]
    assert not any(entry.fits for entry in alone)
    assert together[0].settings == tuple(s for entry in alone for s in entry.settings)
    assert not together[0].fits
    assert together[1].fits
    assert together[1].settings[:-1] == together[0].settings
    assert not any("max_length" in setting for entry in alone for setting in entry.settings)


def test_switches_set_by_hand_are_made_leaner_before_anything_else() -> None:
    manual = config(memory={"strategy": "manual", "activations": "recompute"})
    found = ask(manual, Workload(2048), 5)
    assert found[0].settings == ("memory.embeddings=host",)
    assert found[-1].settings == ("memory.activations=offload", "memory.embeddings=host")
    assert [entry.fits for entry in found] == [False, True]


def test_the_text_can_be_typed_as_it_stands() -> None:
    found = ask(config(), Workload(2048), 4)
    for entry, line in zip(found, advice_lines(found), strict=True):
        assert entry.arguments in line
        words = shlex.split(entry.arguments)
        changed = load_config("rtx4050", words[1::2])
        assert set(words[::2]) == {"--set"}
        if "rank" in entry.arguments:
            assert changed.lora.rank == 8
        if "modules" in entry.arguments:
            assert changed.lora.target_modules == ("q_proj", "v_proj")
