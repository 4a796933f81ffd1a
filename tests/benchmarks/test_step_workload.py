"""The benchmark's triplets are what a case says, and the loop beside ours has the same loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.step_workers import check_losses, compare
from benchmarks.step_workload import (
    LENGTHS,
    RESPONSE_TOKENS,
    SHARES,
    Case,
    make_triplets,
    make_workload,
    random_stream,
    write_workload,
)
from llmcausal.data.triplet import MEMBERS

STREAM = random_stream(500, seed=1, tokens=10_000)


def common(prompts: list[list[int]]) -> int:
    return next(i for i, each in enumerate(zip(*prompts, strict=True)) if len({*each}) > 1)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("share", SHARES)
def test_prompts_have_the_length_and_share_of_the_case(length: int, share: float) -> None:
    for row in make_triplets(Case(length, share, 3), STREAM, seed=0):
        prompts = [row[member]["prompt"] for member in MEMBERS]
        assert {len(prompt) for prompt in prompts} == {length}
        assert abs(common(prompts) - share * length) <= 0.5
        for one, other in zip(prompts, prompts[1:] + prompts[:1], strict=True):
            assert common([one, other]) == common(prompts)  # no two share more than all three
        assert [len(row[member]["response"]) for member in MEMBERS] == [
            RESPONSE_TOKENS, 0, RESPONSE_TOKENS,
        ]  # fmt: skip


def test_a_seed_decides_everything() -> None:
    def made(seed: int) -> dict[str, Any]:
        return make_workload([Case(64, 0.25)], STREAM, model="m", rank=4, seed=seed)

    assert made(3) == made(3)
    assert made(3)["cases"] != made(4)["cases"]
    assert made(3)["cases"]["64 tokens, 25% shared, 2 by 1"]["counted_share"] == 0.25


def row(name: str, ours: bool, seconds: float, loss: float, norm: float = 1.0) -> dict[str, Any]:
    return {
        "variant": name, "ours": ours, "ranked": True, "case": "c", "length": 1, "share": 0.0,
        "count": 2, "loss": loss, "gradient_norm": norm, "seconds_per_triplet": seconds,
        "cpu_seconds_per_triplet": seconds,
        "allocated_peak_bytes": seconds, "peak_rss_bytes": seconds,
        "weights_bytes": seconds / 2,
    }  # fmt: skip


def test_only_rows_of_equal_loss_and_gradient_are_ranked() -> None:
    rows = [
        row("tree", True, 2.0, 5.0), row("plain", False, 6.0, 5.0 + 4e-4),
        row("wrong loss", False, 1.0, 5.1), row("wrong gradient", True, 0.1, 5.0, 1.01),
    ]  # fmt: skip
    check_losses(rows, "fp32")
    assert [each["ranked"] for each in rows] == [True, True, False, False]
    rounded = [row("tree", True, 2.0, 5.1, 1.03), row("plain", False, 6.0, 5.0)]
    check_losses(rounded, "bf16")
    assert all(each["ranked"] for each in rounded), "bf16 rounds by more"
    found = compare(rows)
    assert (found["fastest"]["variant"], found["other"]) == ("tree", "plain")
    assert found["fastest"]["times_faster"] == pytest.approx(3)
    assert found["fastest"]["memory"] == pytest.approx(1 / 3)
    assert found["weights"] == pytest.approx(1 / 2)


def test_the_fastest_within_the_memory_goal_is_not_the_leanest() -> None:
    rows = [
        {**row(name, ours, seconds, 5.0), "allocated_peak_bytes": peak, "weights_bytes": 10}
        for name, ours, seconds, peak in (
            ("fast", True, 1.0, 60), ("within", True, 2.0, 50), ("lean", True, 3.0, 20),
            ("other", False, 4.0, 100), ("lean other", False, 5.0, 40),
        )
    ]  # fmt: skip
    found = compare(rows)
    names = [found[kind]["variant"] for kind in ("fastest", "within", "leanest")]
    assert names == ["fast", "within", "lean"]
    assert (found["other"], found["leanest_other"]) == ("other", "lean other")
    assert found["within"]["times_faster"] == pytest.approx(2)
    assert found["memory_of_leanest"] == pytest.approx(1 / 2)
    assert found["memory_of_leanest_beyond_weights"] == pytest.approx(1 / 3)
    assert compare([each for each in rows if each["variant"] != "within"])["within"] is not None
    assert compare([each for each in rows if each["variant"] in ("fast", "other")])[
        "within"
    ] is None  # fmt: skip


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_loop_of_transformers_and_peft_has_our_loss_and_gradient(
    tmp_path: Path, tiny_files: tuple[Path, Path]
) -> None:
    import torch

    from benchmarks.peers.ours import Ours
    from benchmarks.peers.plain import Plain

    vocabulary = 256
    cases = [Case(24, 0.5, 2, 1), Case(24, 0.5, 2, 2)]
    workload = make_workload(
        cases, random_stream(vocabulary, 0, 1000), model=str(tiny_files[0]), rank=4, seed=0
    )
    write_workload(tmp_path / "made", workload)
    triplets = workload["cases"][cases[0].name]["triplets"]

    def results(variant: Any) -> tuple[float, float, int]:
        loss, tokens = variant.run(triplets)
        grads = [p.grad for m in variant.modules for p in m.parameters() if p.grad is not None]
        return loss, float(torch.cat([g.flatten() for g in grads]).norm()), tokens

    expected, norm, padded = results(Plain(tmp_path / "made", workload, {"passes": "three"}))
    others = [Plain(tmp_path / "made", workload, {"passes": "one"})]
    for strategy in ("keep", "lean", "one_by_one"):
        options = {"strategy": strategy, "unpack": strategy == "keep"}
        others.append(Ours(tmp_path / "made", workload, options))
    for variant in others:
        loss, found_norm, _ = results(variant)
        assert loss == pytest.approx(expected, abs=1e-4)
        assert found_norm == pytest.approx(norm, rel=1e-3)
    assert results(others[1])[2] < padded
