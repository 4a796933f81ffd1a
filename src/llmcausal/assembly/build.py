"""RunConfig and data to Run: model, objective, optimizer and callbacks, in that order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from llmcausal.assembly.prepare import PreparedData
from llmcausal.assembly.probing import build_probe, check_selection
from llmcausal.config import MemorySection, ModelSection, RunConfig, TrainSection
from llmcausal.errors import ConfigError
from llmcausal.evaluation.answer_store import weights_fingerprint
from llmcausal.evaluation.generation import evaluation_mode, without_adapter
from llmcausal.memory.budget import enforce, find_budget
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.device import choose_device
from llmcausal.model.factory import LoadedModel, load_model
from llmcausal.model.gguf import cache_dir
from llmcausal.model.placement import shard_layers
from llmcausal.model.trunk import Trunk
from llmcausal.train.batch import EpochBatches, fixed_batches
from llmcausal.train.build import build_adapters, build_step
from llmcausal.train.callback import Callback, TrainState
from llmcausal.train.callbacks import CALLBACKS
from llmcausal.train.callbacks.monitors import MemoryMonitor
from llmcausal.train.callbacks.tracking import Tracking, load_trackers
from llmcausal.train.checkpoint import Snapshot
from llmcausal.train.objective import Objective
from llmcausal.train.optimizer import build_optimizer, build_scaler, build_scheduler
from llmcausal.train.processes import SINGLE, Processes
from llmcausal.train.reference import with_references
from llmcausal.train.rng import seed_everything
from llmcausal.train.step import TripletStep
from llmcausal.train.update import Run
from llmcausal.ui.console import ProgressLine, show_notes, status

Screen = Callable[[MemoryMonitor], Callback]
"""Makes the callback that shows the run; it reads the memory limit from the monitor."""


def build_tracking(config: RunConfig) -> Tracking | None:
    """Builds the owner of the run's trackers, if it has any.

    Raises:
        ConfigError: If one is unknown, not installed, or cannot do what `tracking.mode` asks.
    """
    kinds = load_trackers(config.tracking)
    return Tracking(config, kinds) if kinds else None


def build_callbacks(
    config: RunConfig, optimizer: Any, screen: Screen | None, tracking: Tracking | None = None
) -> list[Callback]:
    """Lists the run's callbacks in the order of their calls."""
    stopping = config.early_stopping
    memory = CALLBACKS.load("memory_monitor")()
    callbacks: list[Callback] = [
        CALLBACKS.load("learning_rate_monitor")(optimizer),
        memory,
        CALLBACKS.load("causal_metrics")(),
    ]
    if stopping.enabled:
        kind = CALLBACKS.load("early_stopping")
        callbacks.append(
            kind(stopping.metric, stopping.mode, stopping.patience, stopping.min_delta)
        )
    for name in config.callbacks:
        kind = CALLBACKS.load(name)
        if not (isinstance(kind, type) and issubclass(kind, Callback)):
            raise ConfigError(
                f"callbacks: {name!r}: derive it from llmcausal.train.callback.Callback"
            )
        callbacks.append(kind())
    callbacks.append(CALLBACKS.load("metrics_log")())
    if tracking is not None:
        callbacks.append(tracking)
    if screen is not None:
        callbacks.append(screen(memory))
    checkpoint = config.checkpoint
    callbacks.append(
        CALLBACKS.load("model_checkpoint")(
            checkpoint.every_steps,
            checkpoint.keep,
            checkpoint.best_metric,
            checkpoint.best_mode,
            checkpoint.guard_metric,
            checkpoint.guard_within,
        )
    )
    return callbacks


@dataclass(frozen=True)
class Built:
    """A run and the parts of it that evaluation needs afterwards."""

    run: Run
    model: PeftModel
    loaded: LoadedModel
    step: TripletStep
    data: PreparedData


def build_run(
    config: RunConfig,
    data: PreparedData,
    run_dir: Path,
    screen: Screen | None,
    processes: Processes = SINGLE,
) -> Built:
    """Loads the model and builds the run; nothing is written yet."""
    check_selection(config)
    check_share(config.train, config.memory, processes)
    processes = replace(processes, sharded=config.memory.shards > 1)
    tracking = build_tracking(config)
    seed_everything(config.train.seed)
    loaded, peft_model = _load(config, processes)
    step = build_step(config, loaded, peft_model)
    objective = step.objective
    if config.loss.lambda_preference:
        data = _with_references(config, data, loaded, peft_model, step, processes)
    groups: dict[str, list[torch.nn.Parameter]] = {
        "adapter": [p for p in peft_model.parameters() if p.requires_grad],
        "projection": list(objective.projection.parameters()) if objective.projection else [],
        "loss": list(objective.contrastive.parameters()) if objective.contrastive else [],
    }
    trained = [parameter for group in groups.values() for parameter in group]
    optimizer = build_optimizer(config.train, groups)
    batches = build_batches(config, data, objective)
    total_steps = batches.steps_per_epoch * config.train.epochs
    if config.train.max_steps is not None:
        total_steps = min(total_steps, config.train.max_steps)
    check_shareable(objective, processes)
    probe, probe_notes = build_probe(config, data, peft_model, processes)
    if tracking is not None and probe is not None:
        tracking.answers = probe.rows
    run = Run(
        config=config,
        run_dir=run_dir,
        modules=[peft_model, *objective.modules],
        step=step,
        batches=batches,
        validation=fixed_batches(
            data.validation, config.validation.batch_size, objective.needs, config.loss.pooling
        ),
        parameters=trained,
        optimizer=optimizer,
        scheduler=build_scheduler(config.train, optimizer, total_steps),
        scaler=build_scaler(loaded.dtype, loaded.device),
        state=TrainState(),
        callbacks=(
            build_callbacks(config, optimizer, screen, tracking)
            if processes.is_main
            else [MemoryMonitor()]
        ),
        device=loaded.device,
        total_steps=total_steps,
        notes=[_describe(config, loaded, step.trunk, trained), *data.notes, *probe_notes],
        probe=probe,
        processes=processes,
    )
    return Built(run, peft_model, loaded, step, data)


def computed_whole(
    section: ModelSection, model: PeftModel, device: torch.device, processes: Processes
) -> AbstractContextManager[object]:
    """Computes the layers whole meanwhile, on a CPU where no process shares them."""
    whole = section.unpack_on_cpu and device.type == "cpu" and not processes.sharded
    return whole_layers(model) if whole else nullcontext()


def _with_references(
    config: RunConfig,
    data: PreparedData,
    loaded: LoadedModel,
    model: PeftModel,
    step: TripletStep,
    processes: Processes,
) -> PreparedData:
    weights = weights_fingerprint(model, adapter=False)
    with (
        computed_whole(config.model, model, loaded.device, processes),
        evaluation_mode(model),
        without_adapter(model),
    ):
        found = [
            with_references(
                step,
                triplets,
                batch_size=config.validation.batch_size,
                folder=cache_dir() / "references",
                weights=f"{weights} {loaded.dtype}",
                progress=ProgressLine("reading answers of the model without adapter"),
            )
            for triplets in (data.train, data.validation)
        ]
    return replace(data, train=found[0], validation=found[1])


def _load(config: RunConfig, processes: Processes) -> tuple[LoadedModel, PeftModel]:
    if choose_device(config.model.device).type == "cuda" and not config.memory.force:
        enforce(find_budget(config.memory, "cuda"))
    loaded = load_model(config.model, config.memory, onto_host=processes.sharded)
    peft_model = build_adapters(config, loaded)
    if processes.sharded:
        shard_layers(peft_model, config.memory, loaded.device)
    return loaded, peft_model


def check_share(train: TrainSection, memory: MemorySection, processes: Processes) -> None:
    """Refuses more processes than an optimizer step has micro-batches.

    Raises:
        ConfigError: With the setting that fixes it.
    """
    steps, count = train.accumulation_steps, processes.world_size
    if steps < count:
        raise ConfigError(
            f"train.accumulation_steps = {steps}: it counts the micro-batches of an optimizer step "
            f"over all processes, so {count - steps} of {count} would have none; set it to a "
            f"multiple of {count}"
        )
    check_shards(memory, processes)


def check_shards(memory: MemorySection, processes: Processes) -> None:
    """Refuses layers that are shared by more or fewer processes than there are.

    Raises:
        ConfigError: With the setting that fixes it.
    """
    if memory.shards == 1:
        return
    count = processes.world_size
    if memory.shards != count:
        raise ConfigError(
            f"memory.shards = {memory.shards}: all processes of a run share the layers, "
            f"and this run has {count}; start it with --num-processes {memory.shards}, or set "
            f"memory.shards to {count}"
        )
    if memory.members != "tree":
        raise ConfigError(
            f"memory.members = {memory.members!r} with memory.shards = {memory.shards}: each "
            "member is a pass of its own, and all processes must make the same number of passes; "
            "set memory.members to 'tree'"
        )


def check_shareable(objective: Objective, processes: Processes) -> None:
    """Refuses a loss that remembers micro-batches, of which each process sees only its own.

    Raises:
        ConfigError: Naming the loss.
    """
    loss = objective.contrastive
    if processes.world_size > 1 and loss is not None and any(True for _ in loss.buffers()):
        raise ConfigError(
            f"loss.contrastive: {type(loss).__name__} has buffers, which would differ between the "
            f"{processes.world_size} processes; train it with one"
        )


def build_batches(config: RunConfig, data: PreparedData, objective: Objective) -> EpochBatches:
    return EpochBatches(
        data.train,
        batch_size=config.train.batch_size,
        accumulation_steps=config.train.accumulation_steps,
        seed=config.train.seed,
        needs=objective.needs,
        pooling=config.loss.pooling,
    )


def build_snapshot(built: Built, fingerprints: dict[str, Any]) -> Snapshot:
    """Builds what writes and restores the run's checkpoints."""
    tokenizer = built.loaded.tokenizer
    return Snapshot(built.run, built.model, built.step.objective, tokenizer, fingerprints)


def _describe(
    config: RunConfig, loaded: LoadedModel, trunk: Trunk, trained: Sequence[torch.nn.Parameter]
) -> str:
    count = sum(parameter.numel() for parameter in trained)
    shards = config.memory.shards
    shared = f" shared by {shards} processes" if shards > 1 else ""
    return (
        f"model: {config.model.name} on {loaded.device}, {config.model.quantization}, "
        f"{str(loaded.dtype).removeprefix('torch.')}, {trunk.layers} layers{shared}; "
        f"training {count / 1e6:.2f} M parameters"
    )


def track_evaluation(run: Run, result: Mapping[str, Any]) -> None:
    """Hands the final evaluation to the run's trackers, if it has any."""
    for callback in run.callbacks:
        if isinstance(callback, Tracking):
            callback.log_evaluation(result, run.state.step)


@contextmanager
def trackers_closed(run: Run) -> Iterator[None]:
    """Ends the run's trackers, whatever ends the run."""
    try:
        yield
    finally:
        for callback in run.callbacks:
            if isinstance(callback, Tracking) and callback.active:
                with status("Sending what the trackers hold"):
                    notes = callback.close()
                show_notes(notes)
