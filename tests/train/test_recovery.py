"""Planted failures of memory at each kind of moment: the leaner retry gives the same bits."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from llmcausal.config import LossSection, MemorySection, RunConfig, TrainSection
from llmcausal.errors import OutOfMemoryError
from llmcausal.losses.base import ContrastiveLoss, ProjectionHead
from llmcausal.losses.contrastive import CausalContrastive
from llmcausal.model.trunk import find_trunk
from llmcausal.train.batch import EpochBatches, fixed_batches
from llmcausal.train.build import build_execution, set_memory
from llmcausal.train.callback import Callback, FitContext, Record, TrainState
from llmcausal.train.loop import fit
from llmcausal.train.objective import Objective
from llmcausal.train.optimizer import build_optimizer, build_scaler, build_scheduler
from llmcausal.train.recovery import Fallback, is_out_of_memory
from llmcausal.train.rng import rng_state, seed_everything
from llmcausal.train.step import TripletStep
from llmcausal.train.update import Run

STEPS = 3
SHARES = 4
KEEPING = {"activations": "keep"}
RECOMPUTING = {"activations": "recompute", "head": "host"}
OFFLOADING = {"activations": "offload", "head": "host", "embeddings": "host", "token_chunk": 8}


class Queue(CausalContrastive):
    """A loss whose buffers change in a forward pass, as a queue of negatives does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, representations: Any) -> torch.Tensor:
        self.calls += 1
        self.seen += representations["benign"].detach().sum(0)
        return super().forward(representations) + 1e-3 * self.calls


class Planted(TorchDispatchMode):
    """Runs out of memory at the operations of given numbers, counted while `counting`.

    What takes none (a copy into memory that is there, anything of no elements) cannot fail, so it
    is the operation after it that does.

    Attributes:
        names: Of the operations counted.
        update_from: Number of the optimizer's first operation.
        validation_from: Number of the first operation of the validation.
        made: What the operations counted made, not what they changed in place.
    """

    def __init__(self, at: tuple[int, ...], error: Callable[[], Exception]) -> None:
        super().__init__()
        self.at = at
        self.error = error
        self.counting = False
        self.names: list[str] = []
        self.update_from = self.validation_from = self.due = 0
        self.made: list[weakref.ref[torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.counting:
            self.names.append(str(func))
            self.due += len(self.names) - 1 in self.at
            if self.due and not takes_none(func, args):
                self.due -= 1
                raise self.error()
        result = func(*args, **(kwargs or {}))
        in_place = any(result is given for given in args)
        if self.counting and isinstance(result, torch.Tensor) and not in_place:
            self.made.append(weakref.ref(result))
        return result

    def at_update(self, *_: Any) -> None:
        if self.counting:
            self.update_from = self.update_from or len(self.names)

    def elements_alive(self) -> int:
        return sum(tensor.numel() for each in self.made if (tensor := each()) is not None)


def takes_none(func: Any, args: Any) -> bool:
    empty = any(isinstance(given, torch.Tensor) and not given.numel() for given in args)
    nothing = func is torch.ops.aten.empty.memory_format and args[0] == [0]
    return empty or nothing or func is torch.ops.aten.copy_.default


class Watch(Callback):
    """Starts counting at a step, keeps records, and calls `at_start_of` a step or validation."""

    def __init__(self, planted: Planted | None, from_step: int) -> None:
        self.planted, self.from_step = planted, from_step
        self.records: list[Record] = []
        self.notes: list[str] = []
        self.actions: dict[str, Callable[[], None]] = {}
        self.ended = False

    def on_fit_end(self, context: FitContext, outcome: str) -> None:
        self.ended = True

    def on_record(self, context: FitContext, record: Record) -> None:
        self.records.append({k: v for k, v in record.items() if k != "seconds"})
        self.notes = context.notes
        step = context.state.step
        if self.planted is not None:
            self.planted.counting = step + 1 == self.from_step and not self.planted.names
        self.actions.pop(f"step {step + 1}", lambda: None)()

    def on_validation_start(self, context: FitContext, batches: int) -> None:
        if self.planted is not None and self.planted.counting:
            self.planted.validation_from = self.planted.validation_from or len(self.planted.names)
        self.actions.pop(f"validation {context.state.step}", lambda: None)()


class Saved:
    """A fake snapshot that keeps a checkpoint's content."""

    def __init__(self, run: Run) -> None:
        self.run, self.states = run, []

    def write(self, folder: Path) -> Path:
        self.states.append((folder.name, everything(self.run)))
        return folder


def everything(run: Run) -> dict[str, Any]:
    """Copies of all that decides a run's next steps."""
    state = run.state.state_dict()
    del state["train_seconds"]
    return {
        "weights": [parameter.detach().clone() for parameter in run.parameters],
        "buffers": [buffer.clone() for module in run.modules for buffer in module.buffers()],
        "optimizer": [
            {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in states.items()}
            for states in run.optimizer.state.values()
        ],
        "scheduler": run.scheduler.last_epoch,
        "scaler": run.scaler.state_dict(),
        "rng": rng_state(),
        "state": state,
    }


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def trained(captured: dict[str, Any]) -> dict[str, Any]:
    """`everything` without the fallbacks' counts."""
    counted = {"fallbacks", "out_of_memory_count"}
    state = {key: value for key, value in captured["state"].items() if key not in counted}
    return {**captured, "state": state}


@pytest.fixture(scope="module")
def make_run(
    random_model: Any, token_triplets: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    """Makes a run of 3 steps of 2 micro-batches of 2 triplets, with dropout and a queue."""
    triplets = token_triplets(12, 6, 6, seed=3)
    run_dir = tmp_path_factory.mktemp("run")

    def make(
        optimizer: str = "adamw",
        *,
        scaled: bool = False,
        dropout: float = 0.2,
        memory: Mapping[str, Any] = MappingProxyType({}),
    ) -> Run:
        seed_everything(5)
        model = random_model("llama", torch.float32, num_hidden_layers=1)
        for name, module in model.named_modules():
            if name.endswith("lora_dropout"):
                module["default"] = torch.nn.Dropout(dropout)
        contrastive: ContrastiveLoss = Queue()
        projection = ProjectionHead(48, 8, 6, seed=0)
        objective = Objective(LossSection(), contrastive, projection)
        section = MemorySection.model_validate(
            {"strategy": "manual", "activations": "keep", "members": "tree", **memory}
        )
        set_memory(model, section, torch.device("cpu"))
        execution = build_execution(section, torch.float32)
        step = TripletStep(find_trunk(model), objective, execution)
        adapter = [p for p in model.parameters() if p.requires_grad]
        parameters = [*adapter, *projection.parameters()]
        train = TrainSection.model_validate(
            {"optimizer": optimizer, "learning_rate": 0.01, "scheduler": "cosine"}
        )
        config = RunConfig.model_validate({"validation": {"every_steps": 1, "at_start": False}})
        built = build_optimizer(train, {"adapter": adapter, "head": list(projection.parameters())})
        run = Run(
            config=config,
            run_dir=run_dir,
            modules=[model, projection, contrastive],
            step=step,
            batches=EpochBatches(
                triplets[:8], batch_size=2, accumulation_steps=2, seed=0,
                needs=objective.needs, pooling="mean",
            ),
            validation=fixed_batches(triplets[8:], 2, objective.needs, "mean"),
            parameters=parameters,
            optimizer=built,
            scheduler=build_scheduler(train, built, STEPS),
            scaler=torch.amp.GradScaler("cpu", enabled=True, init_scale=64.0)
            if scaled
            else build_scaler(torch.float32, torch.device("cpu")),
            state=TrainState(),
            callbacks=[],
            device=torch.device("cpu"),
            total_steps=STEPS,
            notes=[],
        )  # fmt: skip
        run.fallbacks = {"training": [smaller(run, 1)], "validation": []}
        return run

    return make


def smaller(run: Run, size: int, check: Callable[[], None] = lambda: None) -> Fallback:
    """Cuts the same steps into smaller micro-batches, with other dropout masks and rounding."""

    def apply() -> None:
        check()
        run.batches.batch_size = size

    return Fallback(f"micro-batches of {size}", apply)


def torch_error() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.\nmore")


def allocator_error() -> Exception:
    return RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes.")


def with_failures(
    run: Run, step: int, *at: int, error: Callable[[], Exception] = torch_error
) -> tuple[Planted, Watch, Saved]:
    planted = Planted(at, error)
    watch, saved = Watch(planted, step), Saved(run)
    planted.counting = step == 1
    run.callbacks = [watch]
    run.optimizer.register_step_pre_hook(planted.at_update)
    with planted:
        fit(run, saved)
    return planted, watch, saved


def reference(run: Run, moment: str) -> tuple[Watch, Saved]:
    """Runs without a failure and switches to the fallback itself, without `Recovery`."""
    watch, saved = Watch(None, 0), Saved(run)
    switch = run.fallbacks["training"][0].apply
    if moment == "step 1":
        switch()
    else:
        watch.actions[moment] = switch
    run.callbacks = [watch]
    fit(run, saved)
    return watch, saved


def without_told(records: list[Record]) -> list[Record]:
    counted = {"strategy", "out_of_memory_count"}
    return [{k: v for k, v in record.items() if k not in counted} for record in records]


@pytest.mark.parametrize(
    ("optimizer", "step", "scaled"),
    [
        ("adamw_8bit", 1, False),
        ("adamw", 2, False),
        ("adamw", 2, True),
        pytest.param("adamw", 1, False, marks=pytest.mark.slow),
        pytest.param("adamw_8bit", 2, False, marks=pytest.mark.slow),
    ],
)
def test_any_moment_of_a_step(make_run: Any, optimizer: str, step: int, scaled: bool) -> None:
    """Forward, loss, backward, clipping, optimizer and validation of a first and a later step."""
    run = make_run(optimizer, scaled=scaled)
    counted, *_ = with_failures(run, step)
    names = counted.names
    expected = {
        moment: reference(make_run(optimizer, scaled=scaled), f"{moment} {step}")
        for moment in ("step", "validation")
    }
    update = counted.update_from
    assert 0 < update < counted.validation_from < len(names)
    # Each case begins elsewhere, so that together they lie three times as close.
    start = (step - 1 + scaled) * len(names) // 12
    whole = [*range(start, len(names), len(names) // 4), len(names) - 1]
    updating = range(update, counted.validation_from, (counted.validation_from - update) // 2)
    for at in sorted({*whole, *updating}):
        run = make_run(optimizer, scaled=scaled)
        _, watch, saved = with_failures(run, step, at)
        where = f"operation {at} of {len(names)}, {names[at]}"
        assert run.state.fallbacks == ["micro-batches of 1"], where
        marked = [record for record in watch.records if "strategy" in record]
        assert [record["step"] for record in marked] == list(range(step, STEPS + 1)), where
        assert {record["out_of_memory_count"] for record in marked} == {1}, where
        moment = "validation" if "in the validation" in watch.notes[-1] else "step"
        assert at < counted.validation_from or moment == "validation", where
        assert at > update or moment == "step", where
        expected_watch, expected_saved = expected[moment]
        assert without_told(watch.records) == without_told(expected_watch.records), where
        assert same(trained(saved.states[-1][1]), trained(expected_saved.states[-1][1])), where


@given(fraction=st.floats(0, 1, exclude_max=True), later=st.floats(0, 1))
@settings(max_examples=3)
def test_twice_in_one_step(make_run: Any, fraction: float, later: float) -> None:
    """The second failure happens during the first one's retry, or after it."""

    run = make_run()
    counted, *_ = with_failures(run, 2)
    first = int(fraction * counted.update_from)
    second = first + 1 + int(later * (counted.update_from - 1) / 2)
    run = make_run()
    run.fallbacks = {"training": [smaller(run, 4), smaller(run, 1)]}
    *_, saved = with_failures(run, 2, first, second, error=allocator_error)
    assert run.state.fallbacks == ["micro-batches of 4", "micro-batches of 1"]
    assert run.state.out_of_memory_count == 2
    _, expected = reference(make_run(), "step 2")
    assert same(trained(saved.states[-1][1]), trained(expected.states[-1][1]))


def kept_when_applied(run: Run, at: int) -> int:
    """Fails at an operation of the only step; returns the live elements at the fallback."""
    planted = Planted((at,), torch_error)
    kept = []
    fallback = smaller(run, 1, check=lambda: kept.append(planted.elements_alive()))
    run.fallbacks = {"training": [fallback]}
    run.callbacks = [Watch(planted, 1)]
    planted.counting = True
    with planted:
        fit(run, Saved(run))
    (alive,) = kept
    return alive


@pytest.mark.parametrize(
    ("members", "switches"),
    [
        ("tree", KEEPING),
        ("one_by_one", RECOMPUTING),
        ("tree", OFFLOADING),
        pytest.param("one_by_one", KEEPING, marks=pytest.mark.slow),
        pytest.param("tree", RECOMPUTING, marks=pytest.mark.slow),
        pytest.param("one_by_one", OFFLOADING, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_failed_attempt_is_freed_before_the_next(
    make_run: Any, members: str, switches: dict[str, Any]
) -> None:
    """Nothing keeps a tensor when the fallback is applied: frames, graphs, autograd's queue."""

    def short() -> Run:
        run = make_run(memory={"members": members, **switches})
        run.total_steps, run.validation = 1, []
        return run

    counted, *_ = with_failures(short(), 1)
    buffers = sum(buffer.numel() for module in short().modules for buffer in module.buffers())
    for at in range(3, counted.update_from, counted.update_from // SHARES):
        where = f"operation {at} of {len(counted.names)}, {counted.names[at]}"
        assert kept_when_applied(short(), at) <= buffers, where  # the marked point


def test_nothing_left_saves_the_last_finished_step(make_run: Any) -> None:
    straight = make_run()
    straight.total_steps = 1
    saved_straight = Saved(straight)
    straight.callbacks = [Watch(None, 0)]
    fit(straight, saved_straight)
    run = make_run()
    planted, saved = Planted((200, 201), torch_error), Saved(run)
    watch = Watch(planted, 2)
    run.callbacks = [watch]

    def advice() -> str:
        assert saved.states
        assert watch.ended
        return "1. shorter sequences: 4.1 GiB"

    run.advice = advice
    with planted, pytest.raises(OutOfMemoryError) as caught:
        fit(run, saved)
    assert caught.value.exit_code == 4
    assert "at step 2: CUDA out of memory" in str(caught.value)
    assert "1. shorter sequences: 4.1 GiB" in str(caught.value)
    assert [name for name, _ in saved.states] == ["checkpoint-1"]
    assert run.state.out_of_memory_count == 2
    assert same(trained(saved.states[0][1]), trained(saved_straight.states[0][1]))


def test_a_validation_that_cannot_be_made_leaves_its_step_recorded(make_run: Any) -> None:
    run = make_run()
    run.fallbacks = {}
    counted, *_ = with_failures(make_run(), 2)
    planted, saved = Planted((counted.validation_from + 9,), torch_error), Saved(run)
    watch = Watch(planted, 2)
    run.callbacks = [watch]
    with planted, pytest.raises(OutOfMemoryError, match="in the validation after step 2"):
        fit(run, saved)
    assert [record["step"] for record in watch.records] == [0, 1, 2]
    assert "val_loss" not in watch.records[-1]
    assert [name for name, _ in saved.states] == ["checkpoint-2"]


def test_validation_takes_its_own_fallbacks_first(make_run: Any) -> None:
    run = make_run()
    applied: list[str] = []
    run.fallbacks = {
        "training": [Fallback("leaner", lambda: applied.append("leaner"))],
        "validation": [Fallback("smaller", lambda: applied.append("smaller"))],
    }
    counted, *_ = with_failures(make_run(), 2)
    with_failures(run, 2, counted.validation_from, counted.validation_from + 50)
    assert applied == ["smaller", "leaner"]
    assert run.state.fallbacks == ["smaller", "leaner"]


def test_a_resumed_run_goes_on_with_its_fallbacks(make_run: Any) -> None:
    run = make_run()
    run.state.load_state_dict({"fallbacks": ["micro-batches of 1"], "out_of_memory_count": 1})
    run.callbacks = [Watch(None, 0)]
    saved = Saved(run)
    fit(run, saved)
    _, expected = reference(make_run(), "step 1")
    assert same(trained(saved.states[-1][1]), trained(expected.states[-1][1]))
    assert {record["strategy"] for record in run.callbacks[0].records} == {"micro-batches of 1"}


def test_other_errors_pass_and_undo_nothing(make_run: Any) -> None:
    run = make_run()
    with pytest.raises(RuntimeError, match="shape"):
        with_failures(run, 1, 50, error=lambda: RuntimeError("shape mismatch"))
    assert run.state.fallbacks == []


def test_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)  # torch's allocator raised it, not the test
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access"))
    assert not is_out_of_memory(ValueError("out of memory"))
