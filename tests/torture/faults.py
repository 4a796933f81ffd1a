"""Each kind of fault: what is done to a run, and what must hold afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.torture import trackers
from tests.torture.comparing import difference
from tests.torture.kills import at_file_event, kill_self, pause, wait_for
from tests.torture.world import NAME, STEPS, Process, World

INTERVAL = 2
"""Steps between checkpoints of `world`."""
USAGE, INTERRUPTED, TERMINATED = 2, 130, 143


@dataclass
class Outcome:
    """How one trial ended.

    Attributes:
        wrong: What was not as promised; "" if all was.
        refused: Whether the program declined with a reason in place of going on.
        lost_steps: Steps that had been counted and were done again.
    """

    wrong: str = ""
    refused: bool = False
    lost_steps: int = 0


Fault = Callable[[World, random.Random], Outcome]


def finish(world: World, run_dir: Path, *, lost_steps: int | None = None) -> Outcome:
    """Resumes a run to its end and compares it with the undisturbed one."""
    lost = lost_since_checkpoint(run_dir) if lost_steps is None else lost_steps
    process = world.resume(run_dir)
    code = process.wait()
    if code:
        return Outcome(f"resume ended with {code}: {process.output()[-300:]}", lost_steps=lost)
    wrong = difference(run_dir, world.straight, STEPS)
    if not wrong and lost > INTERVAL:
        wrong = f"{lost} steps were lost; checkpoints are {INTERVAL} apart"
    return Outcome(wrong, lost_steps=lost)


def lost_since_checkpoint(run_dir: Path) -> int:
    """Returns how many steps metrics.jsonl has counted beyond the newest whole checkpoint."""
    metrics = run_dir / "metrics.jsonl"
    reached = 0
    if metrics.is_file():
        for line in metrics.read_text("utf-8", "replace").splitlines():
            try:
                reached = max(reached, json.loads(line)["step"])
            except ValueError:  # the line that was being written
                continue
    saved = [int(path.name.split("-")[1]) for path in run_dir.glob("checkpoint-*")]
    return max(0, reached - max(saved, default=0))


def killed_between_files(world: World, rng: random.Random) -> Outcome:
    """SIGKILL ahead of a random operation on the run's files; a third of them twice."""
    place = world.new_place()
    run_dir = place / NAME
    number = rng.randrange(1, world.file_events + 1)
    world.train(place, at_file_event(run_dir, number, kill_self)).wait()
    return _resumed_after_kill(world, run_dir, rng)


def killed_at_any_time(world: World, rng: random.Random) -> Outcome:
    """SIGKILL at a random time after the run directory appeared."""
    place = world.new_place()
    run_dir = place / NAME
    process = world.train(place)
    wait_for(run_dir / "config.toml")
    pause(rng, world.seconds_of_steps)
    process.send(signal.SIGKILL)
    process.wait()
    return _resumed_after_kill(world, run_dir, rng)


def _resumed_after_kill(world: World, run_dir: Path, rng: random.Random) -> Outcome:
    if not (run_dir / "config.toml").is_file():
        return _refused(world.resume(run_dir), "neither a run directory")
    lost = lost_since_checkpoint(run_dir)
    if rng.random() < 1 / 3:
        number = rng.randrange(1, world.file_events + 1)
        world.resume(run_dir, at_file_event(run_dir, number, kill_self)).wait()
        if lost_since_checkpoint(run_dir) > INTERVAL:
            return Outcome("more steps than one interval were lost by the second kill")
    return finish(world, run_dir, lost_steps=lost)


def _refused(process: Process, reason: str) -> Outcome:
    code, output = process.wait(), process.output()
    if code != USAGE or reason not in output or "Traceback" in output:
        return Outcome(f"expected exit 2 and {reason!r}, got {code}: {output[-300:]}")
    return Outcome(refused=True)


def _signalled(world: World, rng: random.Random, numbers: list[int], expected: set[int]) -> Outcome:
    place = world.new_place()
    run_dir = place / NAME
    process = world.train(place)
    wait_for(run_dir / "config.toml")
    pause(rng, 0.8 * world.seconds_of_steps)
    for number in numbers:
        process.send(number)
        time.sleep(0.01)
    code = process.wait()
    if code not in expected:
        return Outcome(f"ended with {code}: {process.output()[-300:]}")
    if code == 0:  # it had ended before the signal came
        return Outcome(difference(run_dir, world.straight, STEPS))
    return finish(world, run_dir)


def terminated(world: World, rng: random.Random) -> Outcome:
    """SIGTERM: a checkpoint of the very step, exit 143."""
    outcome = _signalled(world, rng, [signal.SIGTERM], {0, TERMINATED})
    return outcome if outcome.wrong or not outcome.lost_steps else Outcome("SIGTERM lost steps")


def interrupted(world: World, rng: random.Random) -> Outcome:
    """SIGINT: a checkpoint of the very step, exit 130."""
    outcome = _signalled(world, rng, [signal.SIGINT], {0, INTERRUPTED})
    return outcome if outcome.wrong or not outcome.lost_steps else Outcome("SIGINT lost steps")


def interrupted_twice(world: World, rng: random.Random) -> Outcome:
    """SIGINT twice: it ends at once."""
    killed = {0, INTERRUPTED, -signal.SIGINT}
    return _signalled(world, rng, [signal.SIGINT, signal.SIGINT], killed)


def asleep(world: World, rng: random.Random) -> Outcome:
    """SIGSTOP and SIGCONT, as a laptop that sleeps: the run just goes on."""
    place = world.new_place()
    process = world.train(place)
    wait_for(place / NAME / "config.toml")
    for _ in range(3):
        pause(rng, world.seconds_of_steps / 4)
        process.send(signal.SIGSTOP)
        time.sleep(0.05)
        process.send(signal.SIGCONT)
    code = process.wait()
    wrong = f"ended with {code}" if code else difference(place / NAME, world.straight, STEPS)
    return Outcome(wrong)


def clock_jumps(world: World, rng: random.Random) -> Outcome:
    """The wall clock jumps by up to a year, back and forth, at every reading."""
    place = world.new_place()
    seed = rng.random()

    def jump() -> None:
        real, jumps = time.time, random.Random(seed)
        time.time = lambda: real() + jumps.uniform(-3e7, 3e7)

    code = world.train(place, jump).wait()
    wrong = f"ended with {code}" if code else difference(place / NAME, world.straight, STEPS)
    return Outcome(wrong)


def _stopped_halfway(world: World, rng: random.Random) -> Path:
    """Returns the directory of a run that was killed with at least two checkpoints written."""
    while True:
        place = world.new_place()
        process = world.train(place)
        wait_for(place / NAME / "checkpoint-4" / "manifest.json")
        pause(rng, world.seconds_of_steps / 4)
        process.send(signal.SIGKILL)
        process.wait()
        saved = [path for path in (place / NAME).glob("checkpoint-*") if path.is_dir()]
        if len(saved) >= INTERVAL and not (place / NAME / f"checkpoint-{STEPS}").exists():
            return place / NAME


def _checkpoints(run_dir: Path) -> list[Path]:
    found = run_dir.glob("checkpoint-*")
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def _one_file(run_dir: Path, rng: random.Random) -> Path:
    files = sorted(path for path in _checkpoints(run_dir)[0].iterdir() if path.stat().st_size)
    return rng.choice(files)


def flipped_bit(world: World, rng: random.Random) -> Outcome:
    """One bit of one file of the newest checkpoint is flipped: the one before it is taken."""
    run_dir = _stopped_halfway(world, rng)
    file = _one_file(run_dir, rng)
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return finish(world, run_dir, lost_steps=0)


def truncated_file(world: World, rng: random.Random) -> Outcome:
    """One file of the newest checkpoint is cut short."""
    run_dir = _stopped_halfway(world, rng)
    file = _one_file(run_dir, rng)
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])
    return finish(world, run_dir, lost_steps=0)


def missing_file(world: World, rng: random.Random) -> Outcome:
    """One file of the newest checkpoint is gone."""
    run_dir = _stopped_halfway(world, rng)
    _one_file(run_dir, rng).unlink()
    return finish(world, run_dir, lost_steps=0)


def every_checkpoint_damaged(world: World, rng: random.Random) -> Outcome:
    """No checkpoint is whole: refused, each by its name."""
    run_dir = _stopped_halfway(world, rng)
    for folder in _checkpoints(run_dir):
        rng.choice([path for path in folder.iterdir() if path.stat().st_size]).write_bytes(b"x")
    return _refused(world.resume(run_dir), "no checkpoint is intact")


def stale_folders(world: World, rng: random.Random) -> Outcome:
    """Half-written and half-swapped folders lie about, as an older kill leaves them."""
    run_dir = _stopped_halfway(world, rng)
    newest = _checkpoints(run_dir)[0]
    stale = run_dir / f".checkpoint-{STEPS}.tmp-{rng.randrange(1 << 30):x}"
    shutil.copytree(newest, stale)
    rng.choice(list(stale.iterdir())).unlink()
    lost = lost_since_checkpoint(run_dir)
    newest.rename(run_dir / f".{newest.name}.old")
    return finish(world, run_dir, lost_steps=lost)


def torn_metrics(world: World, rng: random.Random) -> Outcome:
    """A row of metrics.jsonl was half written when the power went."""
    run_dir = _stopped_halfway(world, rng)
    metrics = run_dir / "metrics.jsonl"
    content = metrics.read_bytes()
    last = content.splitlines()[-1]
    metrics.write_bytes(content + last[: rng.randrange(1, len(last))])
    return finish(world, run_dir)


def two_processes(world: World, rng: random.Random) -> Outcome:
    """A second process on the same run is refused; the first is not disturbed."""
    place = world.new_place()
    run_dir = place / NAME
    first = world.train(place)
    wait_for(run_dir / "metrics.jsonl")
    outcome = _refused(world.resume(run_dir), "another process")
    code = first.wait()
    if not outcome.wrong:
        outcome.wrong = f"ended with {code}" if code else difference(run_dir, world.straight, STEPS)
    return outcome


def data_changed(world: World, rng: random.Random) -> Outcome:
    """The data changed between stop and resume: refused, and exact when they are back."""
    run_dir = _stopped_halfway(world, rng)
    content = world.data.read_bytes()
    lines = content.splitlines(keepends=True)
    try:
        world.data.write_bytes(b"".join(lines[: rng.randrange(2, len(lines))]))
        outcome = _refused(world.resume(run_dir), "data")
    finally:
        world.data.write_bytes(content)
    if not outcome.wrong:
        outcome.wrong = finish(world, run_dir).wrong
    return outcome


def _on_small_disk(
    world: World,
    size_bytes: int,
    meanwhile: Callable[[Process, Path], None],
    afterwards: list[str],
) -> Outcome:
    """Trains on a tmpfs; whatever the disk refuses ends in exit 2, and resumes when it may."""
    place = world.new_place()
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", place], check=True)
    try:
        process = world.train(place)
        meanwhile(process, place)
        code, output = process.wait(), process.output()
        if "Traceback" in output:
            return Outcome(f"a traceback: {output[-300:]}")
        if code not in (0, USAGE, TERMINATED):
            return Outcome(f"ended with {code}: {output[-300:]}")
        subprocess.run(["mount", "-o", ",".join(["remount", *afterwards]), place], check=True)
        if code == 0:
            return Outcome(difference(place / NAME, world.straight, STEPS))
        if not (place / NAME / "config.toml").is_file():
            return Outcome(refused=True)
        outcome = finish(world, place / NAME)
        return Outcome(outcome.wrong, refused=True, lost_steps=outcome.lost_steps)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def disk_full(world: World, rng: random.Random) -> Outcome:
    """The disk is full at a random point of the run: exit 2, and exact once there is room."""
    used = sum(path.stat().st_size for path in world.straight.rglob("*") if path.is_file())
    size = rng.randrange(used // 8, used)
    return _on_small_disk(world, size, lambda *_: None, [f"size={8 * used}"])


def read_only(world: World, rng: random.Random) -> Outcome:
    """The disk becomes read-only during the run, as ext4 does after an error."""

    def protect(process: Process, place: Path) -> None:
        wait_for(place / NAME / "metrics.jsonl")
        pause(rng, world.seconds_of_steps / 2)
        done = subprocess.run(["mount", "-o", "remount,ro", place], capture_output=True)
        if done.returncode:  # a file was open for writing: so it is on real disks
            process.send(signal.SIGTERM)

    return _on_small_disk(world, 1 << 26, protect, ["rw"])


def tracker_down(world: World, rng: random.Random) -> Outcome:
    """A tracker fails, or hangs, at a random call: the run is the same, and says so."""
    place, calls, hangs = world.new_place(), rng.randrange(STEPS), rng.random() < 0.5
    process = world.train(
        place,
        lambda: trackers.goes_down(calls, hangs=hangs),
        {"tracking.trackers": json.dumps([trackers.NAME])},
    )
    code, output = process.wait(), process.output()
    if code or "is switched off" not in output or "Traceback" in output:
        return Outcome(f"ended with {code}, expected 0 and a note: {output[-300:]}")
    return Outcome(difference(place / NAME, world.straight, STEPS))


def may_mount() -> bool:
    """Whether this process can make a small disk."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


FAULTS: dict[str, Fault] = {
    "SIGKILL ahead of a file operation": killed_between_files,
    "SIGKILL at any time": killed_at_any_time,
    "SIGTERM": terminated,
    "SIGINT": interrupted,
    "SIGINT twice": interrupted_twice,
    "asleep (SIGSTOP, SIGCONT)": asleep,
    "clock jumps": clock_jumps,
    "flipped bit in a checkpoint": flipped_bit,
    "truncated file in a checkpoint": truncated_file,
    "missing file in a checkpoint": missing_file,
    "every checkpoint damaged": every_checkpoint_damaged,
    "stale temporary folders": stale_folders,
    "torn row of metrics.jsonl": torn_metrics,
    "two processes on one run": two_processes,
    "data changed before resume": data_changed,
    "tracker down": tracker_down,
    "disk full": disk_full,
    "disk becomes read-only": read_only,
}
NEED_MOUNT = ("disk full", "disk becomes read-only")
