"""The planner keeps the activations of as many last layers as fit, where that saves time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmcausal.config import MemorySection, RunConfig
from llmcausal.memory.plan import UNKNOWN_SHARED, Case, Plan, Predictor, plan
from llmcausal.memory.prediction import Kernel, Prediction, Workload
from llmcausal.memory.spare import (
    keep_layers,
    kept_text,
    most_kept,
    raise_batch_size,
    seconds,
)
from llmcausal.memory.strategies import COSTS, STRATEGIES, candidates
from tests.predictions import made_prediction

GIB = 2**30
LAYERS = 30
"""Of the model by default, SmolLM2-135M."""
LAYER_FLOPS = 10**12
MOVED = Kernel("copy", 0, 10**9, crosses=True)


@dataclass
class Layered:
    """Predicts what grows by `each` with every kept layer, from the `first` that shows on.

    Keeping nothing takes 6 GiB on the device, less 1 GiB each for embeddings and head on the host.
    The copies of embeddings take time, those of the head none.
    """

    each: float = 0.25
    first: float = 1
    crossing: int = 1
    read: int = 10**8
    host: int = 0
    device: str = "cuda"
    alike: bool = True
    asked: list[int] = field(default_factory=list)

    def __call__(self, config: RunConfig, workload: Workload, **_: Any) -> Prediction:
        memory, triplets = config.memory, workload.triplets
        kept = LAYERS if memory.activations == "keep" else memory.kept_layers
        self.asked.append(kept)
        moved = memory.embeddings == "host"
        needed = (
            5
            - moved
            - (memory.head == "host")
            + triplets
            + max(0, kept - self.first) * self.each * triplets
        )
        needed += workload.shared_tokens / 64
        again = LAYERS - kept
        kernels = [(Kernel("mm", LAYER_FLOPS * triplets, 1), 3 * LAYERS + again)]
        kernels += [(Kernel("dequantize_4bit", 0, self.read), 2 * LAYERS + again)]
        kernels += [(MOVED, self.crossing)] * moved
        return made_prediction(
            workload,
            round(needed * GIB),
            device=self.device,
            kernels=tuple(kernels),
            host_bytes=self.host * moved,
            extrapolated=self.alike,
        )


def case_of(fake: Layered, gib: float, **memory: Any) -> Case:
    config = RunConfig(memory=MemorySection(**memory))
    device: Any = fake.device
    return Case(config, Workload(2048), round(gib * GIB), Predictor(device, fake))


def planned(case: Case) -> Plan:
    return keep_layers(case, plan(case))


def switches(chosen: Plan) -> tuple[str, int]:
    return chosen.option.name, chosen.option.switches["kept_layers"]


@given(st.integers(1, 64), st.integers(0, 9), st.integers(600, 1500))
def test_as_many_as_fit_with_some_room_are_kept(sixty_fourths: int, first: int, cent: int) -> None:
    fake = Layered(sixty_fourths / 64, first)
    case = case_of(fake, cent / 100)
    option = candidates(case.config.memory)[1]
    assert option.name == "recompute"
    limit = 0.95 * cent / 100
    fits = [6 + max(0, kept - first) * fake.each <= limit + 1e-9 for kept in range(LAYERS + 1)]
    found = most_kept(case, option)
    assert found.option.switches["kept_layers"] == (sum(fits) - 1 if fits[0] else 0)
    assert len(set(fake.asked)) <= 9


def test_a_plan_says_what_it_keeps_and_what_that_gains() -> None:
    chosen = planned(case_of(Layered(), 8, embeddings="device", head="device"))
    # 6 GiB, and 1.6 within 95% of 8: seven layers, the first of which does not show
    assert switches(chosen) == ("offload", 11)
    assert "recompute fits too, but this is faster" in chosen.reason
    assert "it keeps the activations of the last 11 of 30 layers: predicted 7.50 GiB" in (
        chosen.reason
    )
    plain = plan(case_of(Layered(), 8))
    gain = 1 - seconds(chosen.prediction) / seconds(plain.prediction)
    assert f"RTX 4050 Laptop, {gain:.1%} less" in chosen.reason
    assert (chosen.tried[-1].name, chosen.tried[-1].fits) == (
        "offload, 11 of 30 layers kept", True
    )  # fmt: skip


def test_a_plan_says_what_the_other_layers_cost() -> None:
    some = planned(case_of(Layered(crossing=10**6), 8))
    assert switches(some) == ("recompute", 7)
    assert some.reason.endswith("; it costs: a second forward pass of the other 23 layers")
    moved = planned(case_of(Layered(), 8))
    assert "costs: the input of each of the other 19 layers crosses to host memory" in moved.reason
    every = planned(case_of(Layered(crossing=10**6), 16, activations="recompute"))
    assert switches(every) == ("recompute", LAYERS)
    assert "costs" not in every.reason
    all_moved = planned(case_of(Layered(each=1 / 29), 6.35))
    assert all_moved.reason.endswith(f"it costs: {COSTS['host_embeddings']}")


def test_the_head_stays_where_it_is() -> None:
    """The run's model also answers: a head on the host crosses for every token of an answer."""
    chosen = planned(case_of(Layered(), 8))
    assert chosen.option.section.head == "device"
    there = planned(case_of(Layered(), 4.5))
    assert (*switches(there), there.option.section.head) == ("streamed_head", 2, "host")


def test_labels_stay_as_they_are() -> None:
    by_hand = {"token_chunk": 256, "head": "host"}  # `lean` adds fewer labels at a time alone
    chosen = planned(case_of(Layered(), 8, **by_hand))
    assert chosen.option.section.embeddings == "host"
    assert chosen.option.section.label_chunk == MemorySection().label_chunk


def test_layers_that_differ_are_tried_by_quarters() -> None:
    assert switches(planned(case_of(Layered(), 8))) == ("offload", 11)
    fake = Layered(alike=False)
    assert switches(planned(case_of(fake, 8))) == ("recompute", 7)
    # plan: none and all; two strategies of at most three tries
    assert set(fake.asked) <= {0, 7, 15, 22, 30}
    assert len(fake.asked) <= 9


def test_keeping_everything_with_embeddings_on_the_host_is_considered() -> None:
    fake = Layered(each=1 / 29)
    case = case_of(fake, 6.35)
    assert plan(case).option.name == "recompute"
    chosen = planned(case)
    assert switches(chosen) == ("offload", LAYERS)
    assert chosen.prediction.needed_bytes == 6 * GIB


def test_data_move_only_for_a_shorter_time_and_to_a_host_with_room() -> None:
    assert switches(planned(case_of(Layered(crossing=60), 8)))[0] == "recompute"
    small = replace(case_of(Layered(host=2 * GIB), 8), host_budget_bytes=GIB)
    assert switches(planned(small)) == ("recompute", 7)
    on_cpu = case_of(Layered(device="cpu"), 8)
    assert planned(on_cpu) == plan(on_cpu)  # its weights are dequantized, which is not predicted
    model = on_cpu.config.model.model_copy(update={"unpack_on_cpu": False})
    packed = replace(on_cpu, config=on_cpu.config.model_copy(update={"model": model}))
    chosen = planned(packed)
    assert switches(chosen) == ("recompute", 7)  # a CPU has no second memory
    assert "5.8% fewer operations" in chosen.reason


def test_a_number_set_by_hand_is_the_most() -> None:
    assert switches(planned(case_of(Layered(), 8, kept_layers=3)))[1] == 3
    assert switches(planned(case_of(Layered(), 8, kept_layers=0)))[1] == 0
    fewer = planned(case_of(Layered(), 6.3, kept_layers=99))
    assert switches(fewer)[1] == 4
    assert "; of memory.kept_layers = 99, it uses 4: no more fit" in fewer.reason
    for enough in (3, 11):
        assert "no more" not in planned(case_of(Layered(), 8, kept_layers=enough)).reason
    by_hand = case_of(Layered(), 8, strategy="manual", **STRATEGIES["recompute"], kept_layers=99)
    chosen = planned(by_hand)
    assert switches(chosen) == ("recompute", 99)
    assert chosen.reason.endswith("; it keeps the activations of the last 30 of 30 layers")
    assert not chosen.fits
    for option in candidates(by_hand.config.memory):
        assert option.switches["kept_layers"] == 0  # leaner than set by hand


def test_a_number_by_hand_that_is_not_used_is_said() -> None:
    keeps = planned(case_of(Layered(), 20, kept_layers=3))
    assert switches(keeps) == ("keep", 0)
    unused = "; of memory.kept_layers = 3, it uses 0: "
    assert keeps.reason.endswith(f"{unused}every layer keeps its activations")
    on_cpu = planned(case_of(Layered(device="cpu"), 8, kept_layers=3))
    assert f"{unused}the planner keeps some on a CPU only with model.unpack" in on_cpu.reason
    full = planned(case_of(Layered(), 2, kept_layers=3))
    assert not full.fits
    assert full.reason.endswith(f"{unused}no more fit")
    manual = case_of(Layered(), 20, strategy="manual", **STRATEGIES["keep"], kept_layers=3)
    assert planned(manual).reason.endswith(f"{unused}every layer keeps its activations")


def test_what_members_share_at_worst_holds_for_all_kept_layers() -> None:
    fake = Layered()
    case = replace(case_of(fake, 9), predictor=Predictor("cuda", fake, shared=UNKNOWN_SHARED))
    chosen = planned(case)
    assert chosen.prediction.workload.shared_tokens == 64
    assert switches(chosen) == switches(planned(case_of(fake, 8 + 0.05 / 0.95)))


def raised(case: Case) -> tuple[int, int] | None:
    """Returns the larger micro-batch and its kept layers, of eight triplets in a step."""
    train = case.config.train.model_copy(update={"accumulation_steps": 8})
    case = replace(case, config=case.config.model_copy(update={"train": train}))
    chosen = planned(case)
    found = raise_batch_size(
        case, chosen, lambda config: Workload(2048, triplets=config.train.batch_size)
    )
    if found is None:
        return None
    assert found.config.train.accumulation_steps * seconds(found.prediction) < 8 * seconds(
        chosen.prediction
    )
    kept = found.option.switches["kept_layers"]
    assert found.gain.endswith(kept_text(kept, LAYERS))
    return found.config.train.batch_size, kept


def test_layers_and_triplets_compete_for_memory_by_time() -> None:
    """Two triplets read the weights half as often, but take twice the memory for a layer."""

    def case(fake: Layered) -> Case:
        return case_of(fake, 7.9, activations="recompute")

    assert raised(case(Layered(1.0, first=0, crossing=10**6, read=10**9))) == (2, 0)
    assert raised(case(Layered(1 / 200, first=0, crossing=10**6))) == (2, LAYERS)
    # 30 layers with one triplet or 5 with two: the others' second passes cost more than the reads.
    few_reads = Layered(1 / 20, first=0, crossing=10**6)
    assert switches(planned(case(few_reads))) == ("recompute", 30)
    assert raised(case(few_reads)) is None
    assert raised(case(replace(few_reads, read=10**11))) == (2, 5)
