"""The planner, against a predictor whose figures are set by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.config import MemorySection, RunConfig
from llmcausal.memory import budget
from llmcausal.memory.limits import largest_that_fits
from llmcausal.memory.plan import Predictor, plan
from llmcausal.memory.prediction import Prediction, Workload
from llmcausal.memory.strategies import COSTS, STRATEGIES, SWITCHES, candidates, switches_of
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
    predictor = Predictor("cuda", fake)
    return plan(config, WORKLOAD, round(gib * GIB), predictor=predictor, **options)


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
    assert chosen.name == (fitting[0] if fitting else NAMES[-1])
    assert len(fake.asked) <= 4
    assert chosen.switches.items() >= STRATEGIES[chosen.name].items()
    assert chosen.margin_bytes == gib * GIB - needs[NAMES.index(chosen.name)] * GIB
    assert [attempt.name for attempt in chosen.tried] == sorted(set(fake.asked), key=NAMES.index)


def test_the_reason_names_the_next_faster_and_the_cost() -> None:
    chosen = choose(ByStrategy(falling(20, 12, 11, 9, 6, 5, 4)), 7)
    assert chosen.name == "streamed_head"
    assert "where offload needs 9.00 GiB" in chosen.reason
    assert COSTS["streamed_head"] in chosen.reason
    assert "nothing fits" in choose(ByStrategy(falling(20, 12, 11, 9, 6, 5, 4)), 3).reason


def test_what_the_host_lacks_is_passed_over() -> None:
    fake = ByStrategy(falling(9, 8, 7, 6, 5, 4, 3), {"offload": 8, "streamed_head": 2})
    assert choose(fake, 6.5).name == "offload"
    assert choose(fake, 6.5, host_budget_bytes=4 * GIB).name == "streamed_head"
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
    assert (fake.asked, chosen.name, chosen.fits) == (["keep"], "keep", False)


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
    assert (predictor.made, first.strategy, again.strategy) == (1, "custom", "recompute")
    predictor(config, Workload(4096))
    assert predictor.made == 2


@pytest.mark.parametrize("gb", [4, 6, 12])
def test_a_card_is_what_the_driver_leaves_of_it(gb: int) -> None:
    left = budget.card_budget(gb)
    assert left.bytes == gb * GIB - 804 * 2**20
    assert f"{gb} GB card" in left.source
    if gb == 6:
        assert left.bytes == 5340 * 2**20


def test_the_budget_is_the_named_card_then_the_setting_then_what_is_free() -> None:
    config = RunConfig(memory=MemorySection(budget_gb=3))

    def free() -> tuple[int, str]:
        return 7 * GIB, "NVML"

    found = budget.find_budget(config.memory, "cuda", card_gb=8, free_vram=free)
    assert "8 GB card" in found.source
    assert budget.find_budget(config.memory, "cuda", free_vram=free).bytes == 3 * GIB
    assert budget.find_budget(RunConfig().memory, "cuda", free_vram=free).bytes == 7 * GIB
    assumed = budget.find_budget(RunConfig().memory, "cuda", free_vram=lambda: None)
    assert "no GPU here" in assumed.source
    assert assumed.bytes == 5340 * 2**20
    assert "host memory" in budget.find_budget(RunConfig().memory, "cpu").source


def test_expandable_segments_count_where_they_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    made = prediction(WORKLOAD, 8 * GIB)
    assert budget.needed_bytes(made) == 8 * GIB
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert budget.needed_bytes(made) == 7 * GIB


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
