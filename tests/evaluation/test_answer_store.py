from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcausal.evaluation import generation
from llmcausal.evaluation.answer_store import (
    AnswerStore,
    Shelf,
    answer_key,
    weights_fingerprint,
)
from llmcausal.evaluation.decoding import TreeDecoder
from llmcausal.evaluation.generation import Answering, answer_prompts, without_adapter

PAIRS = [("Be brief.", "x" * n) for n in (3, 50, 1, 20, 7)]


def ask(model: Any, template: Any, store: AnswerStore | None, **changes: Any) -> Any:
    pairs = changes.pop("pairs", PAIRS)
    return answer_prompts(Answering(model, template, 6, 2, store), pairs, **changes)


@pytest.fixture
def store(tmp_path: Path) -> AnswerStore:
    return AnswerStore(tmp_path / "answers")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The batches that were computed, in order."""
    batches: list[list[Any]] = []

    class Counted(TreeDecoder):
        def __call__(self, prompts: Any, *args: Any, **kwargs: Any) -> Any:
            batches.append(list(prompts))
            return super().__call__(prompts, *args, **kwargs)

    monkeypatch.setattr(generation, "TreeDecoder", Counted)
    return batches


def only_file(store: AnswerStore) -> Path:
    (path,) = store.folder.glob("*.jsonl")
    return path


def test_the_second_time_nothing_is_computed(
    peft_model: Any, template: Any, store: AnswerStore, computed: list[Any]
) -> None:
    plain = ask(peft_model, template, None)
    assert ask(peft_model, template, store) == plain
    computed.clear()
    seen: list[tuple[int, int]] = []
    again = ask(
        peft_model, template, store, progress=lambda done, total: seen.append((done, total))
    )
    assert again == plain
    assert computed == []
    assert seen == [(5, 5)]
    # A new prompt is computed alone, the others are not.
    more = ask(peft_model, template, store, pairs=[*PAIRS, ("Be brief.", "new")])
    assert more[:5] == plain
    assert [len(batch) for batch in computed] == [1]


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_only_the_user_may_read_it(peft_model: Any, template: Any, store: AnswerStore) -> None:
    ask(peft_model, template, store)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert only_file(store).stat().st_mode & 0o777 == 0o600


def test_an_interrupted_run_goes_on_with_the_same_batches(
    peft_model: Any, template: Any, store: AnswerStore, computed: list[Any]
) -> None:
    whole = ask(peft_model, template, None)
    batches = list(computed)
    computed.clear()

    def interrupt(done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(peft_model, template, store, progress=interrupt)
    seen: list[tuple[int, int]] = []
    answers = ask(
        peft_model, template, store, progress=lambda done, total: seen.append((done, total))
    )
    assert answers == whole
    assert computed == batches  # two of them before, one after
    assert seen == [(4, 5), (5, 5)]


@pytest.mark.parametrize(
    "tail",
    [
        b'{"0123": [1, 2',
        b"\xff\xfe\n",
        b"[1, 2]\n",
        b'{"a": "b", "c": [], "d": [1.5]}\n',
        b"\0" * 9,
    ],
)
def test_torn_and_foreign_lines(
    peft_model: Any, template: Any, store: AnswerStore, computed: list[Any], tail: bytes
) -> None:
    plain = ask(peft_model, template, store)
    path = only_file(store)
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    path.write_bytes(b"\n".join(lines[:-1]) + b"\n" + tail)
    computed.clear()
    assert ask(peft_model, template, store) == plain
    assert len(computed) == 1  # the batch whose line is lost
    computed.clear()
    assert ask(peft_model, template, store) == plain
    assert computed == []


def test_what_decides_an_answer_decides_its_key(peft_model: Any) -> None:
    assert answer_key([1, 2], [3, 4], 5) == answer_key((1, 2), [4, 3, 3], 5)
    keys = {
        answer_key(*content)
        for content in [([1, 2], [3], 5), ([1, 2], [3], 6), ([1, 2], [4], 5), ([12], [3], 5)]
    }
    assert len(keys) == 4


def test_fingerprint_follows_the_weights(peft_model: Any, tiny_llama: Any) -> None:
    def prints() -> tuple[str, str]:
        return (
            weights_fingerprint(peft_model, adapter=True),
            weights_fingerprint(peft_model, adapter=False),
        )

    tuned, base = prints()
    assert tuned != base
    assert base == weights_fingerprint(tiny_llama(seed=0), adapter=False)
    with without_adapter(peft_model):
        assert weights_fingerprint(peft_model, adapter=False) == base
    assert prints() == (tuned, base)
    parameters = dict(peft_model.named_parameters())
    lora = next(p for name, p in parameters.items() if "lora_B" in name)
    lora.data[0, 0] += 1e-3
    changed, same = prints()
    assert changed != tuned
    assert same == base
    lora.data[0, 0] -= 1e-3
    scaled = next(m for m in peft_model.modules() if hasattr(m, "lora_A"))
    scaled.scaling["default"] *= 2
    assert prints()[0] not in (tuned, changed)
    norm = next(p for name, p in parameters.items() if name.endswith("model.norm.weight"))
    norm.data[3] += 1e-6
    assert prints()[1] != base
    assert len({weights_fingerprint(tiny_llama(seed=0, rope_theta=t), adapter=False)
                for t in (1e4, 2e4)}) == 2  # fmt: skip


def test_four_bit_weights_have_a_fingerprint() -> None:
    from bitsandbytes.nn import Linear4bit, Params4bit

    def model(seed: int) -> Any:
        from transformers import LlamaConfig

        linear = Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
        weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(seed))
        linear.weight = Params4bit(weight, requires_grad=False, quant_type="nf4")
        module = torch.nn.Module()
        module.linear = linear.to("cpu")
        module.config = LlamaConfig()
        return module

    prints = [weights_fingerprint(model(seed), adapter=False) for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_a_folder_that_cannot_be_written_is_told_and_not_fatal(
    peft_model: Any, template: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    plain = ask(peft_model, template, None)
    assert ask(peft_model, template, AnswerStore(tmp_path / "file" / "answers")) == plain
    assert "no answers are kept" in caplog.text


def test_a_full_disk_is_told_once_and_not_fatal(
    peft_model: Any,
    template: Any,
    store: AnswerStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = ask(peft_model, template, None)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:20]))
    with caplog.at_level(logging.WARNING):
        assert ask(peft_model, template, store) == plain
    assert sum("no more answers" in record.message for record in caplog.records) == 1
    monkeypatch.setattr(os, "write", real)
    assert ask(peft_model, template, store) == plain
    assert ask(peft_model, template, store) == plain


def test_old_weights_are_forgotten(
    peft_model: Any, template: Any, store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmcausal.evaluation import answer_store

    monkeypatch.setattr(answer_store, "_FILES", 3)
    store.folder.mkdir()
    for age in range(5):
        path = store.folder / f"{age}.jsonl"
        path.write_text("")
        os.utime(path, (1000 - age, 1000 - age))
    ask(peft_model, template, store)
    names = {path.name for path in store.folder.iterdir()}
    assert len(names) == 3
    assert {"0.jsonl", "1.jsonl"} < names


def test_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMCAUSAL_CACHE", str(tmp_path))
    assert AnswerStore().folder == tmp_path / "answers"


def write_many(path: Path, writer: int) -> None:
    shelf = Shelf(path, {})
    for count in range(50):
        shelf.add({f"{writer}-{count}": [writer, count] * 500})


def test_two_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "shared.jsonl"
    with ThreadPoolExecutor(2) as writers:
        list(writers.map(partial(write_many, path), range(2)))
    rows = [json.loads(line) for line in path.read_bytes().splitlines() if line]
    assert len(rows) == 100
    assert {key for row in rows for key in row} == {f"{w}-{c}" for w in range(2) for c in range(50)}
