"""Several processes train one model together: as one process would have."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import typer
from hypothesis import given
from hypothesis import strategies as st

from llmcausal.assembly.build import build_run, check_share, check_shareable
from llmcausal.assembly.prepare import prepare_data
from llmcausal.cli import launch
from llmcausal.config import LossSection, RunConfig
from llmcausal.errors import (
    ConfigError,
    DataError,
    Interrupted,
    LlmcausalError,
    LostProcessError,
    OutOfMemoryError,
    StorageError,
)
from llmcausal.memory.measure import measure_triplets
from llmcausal.train.objective import Objective
from llmcausal.train.processes import SINGLE, Processes, process_group
from llmcausal.train.rng import seed_micro_batch
from llmcausal.train.update import Computed, _gradients, means
from tests.torture.__main__ import make_files
from tests.torture.world import World

REPOSITORY = Path(__file__).parents[2]


@given(st.lists(st.integers()), st.integers(1, 5))
def test_what_is_dealt_comes_back_in_order(items: list[int], count: int) -> None:
    processes = [Processes(index, count) for index in range(count)]
    shares = [each.shard(items) for each in processes]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for each in processes:
        assert each.unshard(shares, len(items)) == items


@given(st.lists(st.integers()), st.integers(1, 5))
def test_those_who_compute_together_take_as_many_each(items: list[int], count: int) -> None:
    processes = [Processes(index, count, sharded=True) for index in range(count)]
    shares = [each.shard(list(enumerate(items))) for each in processes]
    assert len({len(share) for share in shares}) == 1
    owned = [
        place
        for each, share in zip(processes, shares, strict=True)
        for place, _ in share
        if each.owns(place)
    ]
    assert sorted(owned) == list(range(len(items)))
    for each in processes:
        assert [item for _, item in each.unshard(shares, len(items))] == items


def test_alone_there_is_nobody_to_ask() -> None:
    assert SINGLE.is_main
    assert SINGLE.all_gather(3) == [3]
    assert SINGLE.on_main(lambda: 4) == 4
    with pytest.raises(RuntimeError, match="untouched"):
        SINGLE.run_all(lambda: _raise(RuntimeError("untouched")))
    with process_group(torch.device("cpu")) as processes:
        assert processes is SINGLE


class Two(Processes):
    """The second of two, whose partner gives what the test says."""

    def __init__(self, index: int, partner: Any) -> None:
        super().__init__(index, 2)
        object.__setattr__(self, "partner", partner)

    def all_gather(self, value: Any) -> list[Any]:
        mine = pickle.loads(pickle.dumps(value))
        return [mine, self.partner] if self.rank == 0 else [self.partner, mine]  # type: ignore[attr-defined]


@pytest.mark.parametrize("index", [0, 1])
def test_an_error_of_one_ends_both_and_is_told_once(index: int) -> None:
    with pytest.raises(StorageError, match="the disk is full") as caught:
        Two(index, "fine").run_all(lambda: _raise(StorageError("the disk is full")))
    assert caught.value.told == (index == 1)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried")]
)
def test_memory_that_runs_out_on_one_is_recovered_on_both(error: Exception) -> None:
    with pytest.raises(MemoryError, match="process 1: "):
        Two(1, "fine").run_all(lambda: _raise(error))


def test_a_bug_on_one_is_not_taken_for_more() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        Two(1, "fine").run_all(lambda: _raise(RuntimeError("shapes do not fit")))


@pytest.mark.parametrize(
    "error",
    [
        DataError(["a.jsonl:3: id: missing"], "bad"),
        Interrupted("stopped", 15),
        LostProcessError(MemoryError()),
        OutOfMemoryError("m"),
    ],
)
def test_errors_travel_whole(error: LlmcausalError) -> None:
    error.told = True
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.exit_code) == (type(error), str(error), error.exit_code)
    assert vars(copy) == vars(error)


def test_a_step_needs_a_micro_batch_for_each(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config(train={"accumulation_steps": 2})
    check_share(config.train, config.memory, Processes(0, 2))
    with pytest.raises(ConfigError, match=r"accumulation_steps = 2.*1 of 3.*multiple of 3"):
        check_share(config.train, config.memory, Processes(0, 3))


@pytest.mark.parametrize(
    ("memory", "count", "named"),
    [
        ({"shards": 2}, 1, r"memory.shards = 2.*this run has 1; start it with --num-processes 2"),
        ({"shards": 2}, 3, r"memory.shards = 2.*or set memory.shards to 3"),
        ({"shards": 2, "members": "one_by_one"}, 2, r"memory.members = 'one_by_one'"),
        ({"shards": 2, "members": "separate"}, 2, r"memory.members = 'separate'"),
    ],
)
def test_layers_are_shared_by_all_in_whole_passes(
    tiny_config: Callable[..., RunConfig], memory: dict[str, Any], count: int, named: str
) -> None:
    config = tiny_config(memory=memory, train={"accumulation_steps": 6})
    with pytest.raises(ConfigError, match=named):
        check_share(config.train, config.memory, Processes(0, count))
    shared = tiny_config(memory={"shards": 2})
    check_share(shared.train, shared.memory, Processes(0, 2))


def test_what_several_share_is_not_measured_by_one(tiny_config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=r"memory.shards = 2: one process cannot measure"):
        measure_triplets(tiny_config(memory={"shards": 2}), [])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 4),
        (MemoryError(), 4),
        (RuntimeError("shapes do not fit"), 1),
        (DataError(["a.jsonl:3: id: missing"], "bad"), 2),
    ],
)
def test_who_fails_in_a_pass_of_all_ends_at_once(error: Exception, code: int) -> None:
    """Waiting for the others to hear of it would be for good: they wait for its layers."""
    told: list[Any] = []
    processes = Processes(1, 2, sharded=True)
    object.__setattr__(processes, "gather", told.append)
    with pytest.raises(LostProcessError, match="wait for this one's part") as caught:
        processes.forward_all(lambda: _raise(error))
    assert caught.value.exit_code == code
    assert not told


def test_what_is_computed_for_company_has_no_gradient(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = tiny_config(train={"batch_size": 1, "accumulation_steps": 3}, lora={"dropout": 0.0})
    built = build_run(config, prepare_data(config), None)
    run = built.run
    batches = run.batches.step_at(0, 0)
    found = []
    for index in (0, 1):
        run.optimizer.zero_grad()
        run.processes = Alike(index)
        _gradients(run, Mock(), batches)
        found.append([p.grad.clone() for p in run.parameters if p.grad is not None])
    run.optimizer.zero_grad()
    run.processes = SINGLE
    _gradients(run, Mock(), batches)
    whole = [p.grad for p in run.parameters if p.grad is not None]
    assert len(batches) == 3
    for one, other, both in zip(*found, whole, strict=True):
        torch.testing.assert_close(one + other, both)


class Alike(Processes):
    """One of two that compute together, whose partner gives what this one does."""

    def __init__(self, index: int) -> None:
        super().__init__(index, 2, sharded=True)

    def all_gather(self, value: Any) -> list[Any]:
        return [value, value]


def test_a_loss_with_a_memory_is_trained_by_one() -> None:
    loss: Any = torch.nn.Module()
    loss.register_buffer("queue", torch.zeros(3))
    objective = Objective(LossSection(), loss)
    check_shareable(objective, SINGLE)
    with pytest.raises(ConfigError, match="Module has buffers"):
        check_shareable(objective, Processes(0, 2))


def test_figures_do_not_depend_on_who_computed_them() -> None:
    computed = [
        Computed(("a",), 3, {"loss": 0.5, "task_loss": 3.0}, {"loss": 1, "task_loss": 2}),
        Computed(("b",), 4, {"loss": 0.25}, {"loss": 1}),
        Computed(("c",), 4, {"loss": 0.25, "task_loss": 1.0}, {"loss": 1, "task_loss": 2}),
    ]
    assert means(computed) == {"loss": 1.0, "task_loss": 1.0}


def test_draws_are_those_of_the_micro_batch() -> None:
    def draw(*place: int) -> float:
        seed_micro_batch(*place)
        return float(torch.rand(()))

    places = [(seed, step, place) for seed in (0, 1) for step in (0, 1) for place in (0, 1)]
    drawn = {place: draw(*place) for place in places}
    assert len(set(drawn.values())) == len(places)
    assert {place: draw(*place) for place in reversed(places)} == drawn


def test_the_processes_run_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Done:
        returncode = 0

        def __init__(self, command: list[str], **options: Any) -> None:
            started.append((command[1:], options["env"]["RANK"], options["env"]["WORLD_SIZE"]))

        def poll(self) -> int:
            return 0

    arguments = ["train", "p", "--num-processes=2", "--plain"]
    monkeypatch.setattr(launch.subprocess, "Popen", Done)
    monkeypatch.setattr(launch.sys, "argv", ["llmcausal", *arguments])
    with pytest.raises(typer.Exit) as ended:
        launch.launch(2)
    assert ended.value.exit_code == 0
    command = ["-m", "llmcausal", *arguments]
    assert started == [(command, "0", "2"), (command, "1", "2")]


def test_one_process_is_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.subprocess, "Popen", None)
    launch.launch(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    launch.launch(2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_and_four_processes_reach_what_one_does() -> None:
    """In a process of its own, which has no threads when it forks."""
    assert "MISSED" not in _run("-m", "tests.torture.processes").stdout


@pytest.mark.slow
def test_the_command_starts_two(tmp_path: Path) -> None:
    done = _train(tmp_path, "--num-processes", "2", "--set", "train.accumulation_steps=2")
    assert done.stdout.count("completed") == 1
    assert '"memory_bytes_process_1"' in (tmp_path / "profile" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_what_they_cannot_do_is_told_once(tmp_path: Path) -> None:
    done = _train(tmp_path, "--num-processes=2", code=2)
    assert (done.stdout + done.stderr).count("train.accumulation_steps = 1") == 1


def _train(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    world = World(folder)
    world.write_files(make_files)
    command = ("-m", "llmcausal", "train", str(world.profile), "--output-dir", str(folder))
    return _run(*command, "--set", "train.max_steps=2", *arguments, code=code)


def _run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def _raise(error: Exception) -> Any:
    raise error
