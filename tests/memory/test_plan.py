"""The planner and its advice, against predictors whose figures are set by hand."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.config import MemorySection, RunConfig
from llmcausal.memory import budget
from llmcausal.memory.plan import UNKNOWN_SHARED, Case, Predictor, advise, largest_that_fits, plan
from llmcausal.memory.prediction import SWITCHES, Prediction, Workload, switches_of
from llmcausal.memory.strategies import COSTS, STRATEGIES, candidates
from llmcausal.profile import load_config
from tests.predictions import made_prediction

GIB = 2**30
WORKLOAD = Workload(2048)
NAMES = list(STRATEGIES)


def prediction(workload: Workload, needed: int, host: int = 0) -> Prediction:
    """Of `needed` bytes the context has 1 GiB; expandable segments save as much."""
    return made_prediction(
        workload,
        needed - GIB,
        reserved_expandable_bytes=needed - 2 * GIB,
        context_bytes=GIB,
        host_bytes=host,
    )


class ByStrategy:
    """Predicts a set figure for each strategy, in GiB; the order of the table is that of names."""

    def __init__(self, gib: dict[str, float], host: dict[str, float] | None = None) -> None:
        self.gib, self.host = gib, host or {}
        self.asked: list[str] = []

    def __call__(self, config: RunConfig, workload: Workload, **options: Any) -> Prediction:
        switches = switches_of(config.memory)
        name = next(
            name
            for name, wanted in STRATEGIES.items()
            if all(switches[key] == value for key, value in wanted.items())
        )
        self.asked.append(name)
        return prediction(
            workload, round(self.gib[name] * GIB), round(self.host.get(name, 0) * GIB)
        )


def falling(*gib: float) -> dict[str, float]:
    return dict(zip(NAMES, gib, strict=True))


def choose(fake: Any, gib: float, memory: MemorySection | None = None, **options: Any) -> Any:
    config = RunConfig(memory=memory or MemorySection())
    return plan(Case(config, WORKLOAD, round(gib * GIB), Predictor("cuda", fake), **options))


@given(
    st.lists(st.integers(2, 40), min_size=len(NAMES), max_size=len(NAMES), unique=True),
    st.integers(1, 41),
)
def test_the_fastest_that_fits_is_found_in_few_predictions(needs: list[int], gib: int) -> None:
    needs.sort(reverse=True)
    fake = ByStrategy(falling(*needs))
    chosen = choose(fake, gib)
    fitting = [name for name, need in zip(NAMES, needs, strict=True) if need <= gib]
    assert chosen.fits == bool(fitting)
    assert chosen.option.name == (fitting[0] if fitting else NAMES[-1])
    assert len(fake.asked) <= 4
    assert chosen.option.switches.items() >= STRATEGIES[chosen.option.name].items()
    assert chosen.prediction.needed_bytes == needs[NAMES.index(chosen.option.name)] * GIB
    assert [attempt.name for attempt in chosen.tried] == sorted(set(fake.asked), key=NAMES.index)


def test_the_reason_names_the_next_faster_and_the_cost() -> None:
    chosen = choose(ByStrategy(falling(20, 12, 11, 9, 6, 5, 4)), 7)
    assert chosen.option.name == "streamed_head"
    assert "where offload needs 9.00 GiB" in chosen.reason
    assert COSTS["streamed_head"] in chosen.reason
    assert "nothing fits" in choose(ByStrategy(falling(20, 12, 11, 9, 6, 5, 4)), 3).reason


def test_what_the_host_lacks_is_passed_over() -> None:
    fake = ByStrategy(falling(9, 8, 7, 6, 5, 4, 3), {"offload": 8, "streamed_head": 2})
    assert choose(fake, 6.5).option.name == "offload"
    assert choose(fake, 6.5, host_budget_bytes=4 * GIB).option.name == "streamed_head"
    all_large = ByStrategy(falling(9, 8, 7, 6, 5, 4, 3), dict.fromkeys(NAMES, 8.0))
    assert not choose(all_large, 6.5, host_budget_bytes=4 * GIB).fits


def test_switches_set_by_hand_are_never_made_less_lean() -> None:
    section = MemorySection(activations="offload", label_chunk=64)
    for option in candidates(section):
        assert option.section.activations == "offload"
        assert option.section.label_chunk == 64
    names = [option.name for option in candidates(section)]
    assert "offload" in names
    assert "lean with your switches" in names  # its label_chunk is larger
    assert len({tuple(option.switches.items()) for option in candidates(section)}) == len(names)
    assert [option.name for option in candidates(MemorySection())] == NAMES
    kept = candidates(MemorySection(members="separate"))
    assert {option.section.members for option in kept} == {"separate", "one_by_one"}


def test_layers_that_are_shared_stay_so_and_take_whole_passes() -> None:
    found = candidates(MemorySection(shards=3, head="host"))
    assert {each.section.shards for each in found} == {3}
    assert {each.section.members for each in found} == {"tree"}
    assert found[-1].name == "lean"
    assert candidates(MemorySection())[-1].name == "one_by_one"


def test_manual_predicts_what_is_set_and_nothing_else() -> None:
    fake = ByStrategy(falling(9, 8, 7, 6, 5, 4, 3))
    chosen = choose(fake, 1, MemorySection(strategy="manual", activations="keep"))
    assert (fake.asked, chosen.option.name, chosen.fits) == (["keep"], "keep", False)


def test_every_strategy_says_its_cost_and_adds_to_the_one_before() -> None:
    assert list(COSTS) == NAMES
    for before, after in pairwise(NAMES):
        changed = {
            key for key, value in STRATEGIES[after].items() if STRATEGIES[before].get(key) != value
        }
        assert changed
        assert changed <= set(SWITCHES)


def test_nothing_is_predicted_twice() -> None:
    fake = ByStrategy(falling(9, 8, 7, 6, 5, 4, 3))
    predictor = Predictor("cuda", fake)
    config = RunConfig()
    first = predictor(config, WORKLOAD)
    again = predictor(config.model_copy(update={"name": "other"}), WORKLOAD, "recompute")
    assert (len(fake.asked), first.strategy, again.strategy) == (1, "custom", "recompute")
    predictor(config, Workload(4096))
    assert len(fake.asked) == 2


def test_what_members_share_is_taken_at_its_worst() -> None:
    asked: list[int] = []

    def masked(config: RunConfig, workload: Workload, **_: Any) -> Prediction:
        """Masks take 1 GiB as soon as anything is shared, and each shared token saves 10 MiB."""
        asked.append(workload.shared_tokens)
        shared = workload.shared_tokens
        return prediction(workload, 5 * GIB + bool(shared) * GIB - shared * 10 * 2**20)

    worst = Predictor("cuda", masked, shared=UNKNOWN_SHARED)
    config = RunConfig()
    assert worst(config, WORKLOAD).needed_bytes == 6 * GIB - 10 * 2**20
    assert asked == list(UNKNOWN_SHARED)
    assert worst(config, WORKLOAD).workload.shared_tokens == 1
    asked.clear()
    apart = config.model_copy(update={"memory": MemorySection(members="one_by_one")})
    worst(apart, WORKLOAD)  # passes of their own share nothing
    Predictor("cuda", masked)(config, Workload(2048, 30))  # as the data are
    assert asked == [0, 30]


@pytest.mark.parametrize("gb", [4, 6, 12])
def test_a_card_is_what_the_driver_leaves_of_it(gb: int) -> None:
    left = budget.card_budget(gb)
    assert left.bytes == gb * GIB - 804 * 2**20
    assert f"{gb} GB card" in left.source
    if gb == 6:
        assert left.bytes == 5340 * 2**20


def test_the_budget_is_the_named_card_then_the_setting_then_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = RunConfig(memory=MemorySection(budget_gb=3))
    monkeypatch.setattr(budget, "free_vram_bytes", lambda: (7 * GIB, "NVML"))
    assert "8 GB card" in budget.find_budget(config.memory, "cuda", 8).source
    assert budget.find_budget(config.memory, "cuda").bytes == 3 * GIB
    assert budget.find_budget(RunConfig().memory, "cuda").bytes == 7 * GIB
    monkeypatch.setattr(budget, "free_vram_bytes", lambda: None)
    assumed = budget.find_budget(RunConfig().memory, "cuda")
    assert "no GPU here" in assumed.source
    assert assumed.bytes == 5340 * 2**20
    assert "host memory" in budget.find_budget(RunConfig().memory, "cpu").source


def test_expandable_segments_count_where_they_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    made = prediction(WORKLOAD, 8 * GIB)
    assert made.needed_bytes == 8 * GIB
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert made.needed_bytes == 7 * GIB


@given(
    st.integers(0, 10**6),
    st.integers(1, 10**4),
    st.integers(0, 3),
    st.integers(1, 10**8),
    st.sampled_from([0.0, 1 / 32]),
)
def test_the_largest_size_is_the_largest(
    base: int, slope: int, bend: int, limit: int, tolerance: float
) -> None:
    asked = []

    def needed(size: int) -> int:
        asked.append(size)
        return base + slope * size + bend * size * size

    found = largest_that_fits(needed, limit, start=2048, step=64, most=131072, tolerance=tolerance)
    more = max(64, int(found / 64 * tolerance) * 64)
    assert found % 64 == 0
    assert found == 0 or found in asked
    assert found == 0 or needed(found) <= limit
    assert found + more > 131072 or needed(found + more) > limit
    if bend == 0:
        assert len(set(asked)) <= 6


def by_size(config: RunConfig, workload: Workload, **options: Any) -> Prediction:
    """1 GiB of weights, 2 MiB a token and triplet, 64 MiB a rank; a tenth of a layer offloaded."""
    tokens = workload.triplets * workload.member_tokens * 2 * 2**20
    if config.memory.activations == "offload":
        tokens //= 2
    modules = len(config.lora.target_modules)
    needed = GIB + tokens + config.lora.rank * modules * 2**24
    return made_prediction(workload, needed, strategy=options["strategy"])


def ask(config: RunConfig, workload: Workload, gib: float) -> Any:
    return advise(Case(config, workload, round(gib * GIB), Predictor("cuda", by_size)))


def settings(**sections: Any) -> RunConfig:
    return RunConfig.model_validate(sections)


def test_each_change_is_predicted_alone_and_the_length_is_the_largest() -> None:
    found = ask(settings(), Workload(2048), 4)
    assert [entry.settings for entry in found] == [
        ("lora.rank=8",),
        ('lora.target_modules=["q_proj", "v_proj"]',),
        ("data.max_length=1280",),
    ]
    # 1 + 2 GiB of tokens offloaded + 16 or 7 modules of adapters
    assert [entry.prediction.needed_bytes / GIB for entry in found] == [3.875, 3.5, 4.0]
    assert [entry.fits for entry in found] == [True, True, True]
    assert found[2].prediction.workload.member_tokens == 1280


def test_smaller_micro_batches_come_first_and_keep_the_optimizer_step() -> None:
    wide = settings(train={"batch_size": 4, "accumulation_steps": 2})
    found = ask(wide, Workload(1024, triplets=4), 4.5)
    assert found[0].settings == ("train.batch_size=1", "train.accumulation_steps=8")
    assert found[0].fits


@pytest.mark.parametrize(("stored", "advised"), [(None, True), ({"quant_method": "gptq"}, False)])
def test_weights_that_another_program_quantized_are_not_quantized_again(
    tmp_path: Path, stored: Any, advised: bool
) -> None:
    shape = {"model_type": "llama", **({"quantization_config": stored} if stored else {})}
    (tmp_path / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    model = {"name": str(tmp_path), "quantization": "none"}
    found = ask(settings(model=model), Workload(2048), 4)
    assert (("model.quantization=nf4",) in [entry.settings for entry in found]) == advised


def test_where_nothing_helps_alone_all_of_it_is_tried_together() -> None:
    found = ask(settings(), Workload(2048), 1.45)
    alone, together = found[:2], found[2:]
    assert not any(entry.fits for entry in alone)
    assert together[0].settings == tuple(s for entry in alone for s in entry.settings)
    assert not together[0].fits
    assert together[1].fits
    assert together[1].settings[:-1] == together[0].settings
    assert not any("max_length" in setting for entry in alone for setting in entry.settings)


def test_switches_set_by_hand_are_made_leaner_before_anything_else() -> None:
    manual = settings(memory={"strategy": "manual", "activations": "recompute"})
    found = ask(manual, Workload(2048), 5)
    assert found[0].settings == ("memory.embeddings=host",)
    assert found[-1].settings == ("memory.activations=offload", "memory.embeddings=host")
    assert [entry.fits for entry in found] == [False, True]


def test_the_text_can_be_typed_as_it_stands() -> None:
    found = ask(settings(), Workload(2048), 4)
    for entry in found:
        assert entry.arguments in str(entry)
        words = shlex.split(entry.arguments)
        changed = load_config("rtx4050", words[1::2])
        assert set(words[::2]) == {"--set"}
        if "rank" in entry.arguments:
            assert changed.lora.rank == 8
        if "modules" in entry.arguments:
            assert changed.lora.target_modules == ("q_proj", "v_proj")
