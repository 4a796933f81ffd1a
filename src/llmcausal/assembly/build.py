"""Builds a run from settings and data: model, objective, optimizer, attack probe, callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel

from llmcausal.assembly.prepare import PreparedData
from llmcausal.config import MemorySection, ModelSection, RunConfig, TrainSection
from llmcausal.data.triplet import Triplet
from llmcausal.errors import ConfigError
from llmcausal.evaluation.answer_store import weights_fingerprint
from llmcausal.evaluation.generation import Answering, evaluation_mode, without_adapter
from llmcausal.evaluation.probe import PROBE_METRICS, AttackProbe, choose_triplets_to_probe
from llmcausal.memory.budget import enforce, find_budget
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.device import choose_device
from llmcausal.model.factory import LoadedModel, load_model
from llmcausal.model.gguf import cache_dir
from llmcausal.model.placement import shard_layers
from llmcausal.train.batch import EpochBatches, fixed_batches
from llmcausal.train.build import build_adapters, build_step
from llmcausal.train.callback import Callback, TrainState
from llmcausal.train.callbacks import CALLBACKS
from llmcausal.train.callbacks.early_stopping import EarlyStopping
from llmcausal.train.callbacks.metrics_log import MetricsLog
from llmcausal.train.callbacks.model_checkpoint import ModelCheckpoint
from llmcausal.train.callbacks.monitors import CausalMetrics, LearningRateMonitor, MemoryMonitor
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
"""Makes the callback that shows the run; the monitor gives it the memory limit."""


@dataclass(frozen=True)
class Built:
    """A run, and the parts that evaluation needs after it."""

    run: Run
    model: PeftModel
    loaded: LoadedModel
    step: TripletStep
    data: PreparedData
    tracking: Tracking | None


def build_run(
    config: RunConfig, data: PreparedData, screen: Screen | None, processes: Processes = SINGLE
) -> Built:
    """Loads the model and builds the run, without writing anything.

    Raises:
        ConfigError: If settings contradict each other, the data or the number of processes.
    """
    check_selection(config)
    check_share(config.train, config.memory, processes)
    processes = replace(processes, sharded=config.memory.shards > 1)
    trackers = load_trackers(config.tracking)
    tracking = Tracking(config, trackers) if trackers else None
    seed_everything(config.train.seed)
    if choose_device(config.model.device).type == "cuda" and not config.memory.force:
        enforce(find_budget(config.memory, "cuda"))
    loaded = load_model(config.model, config.memory, onto_host=processes.sharded)
    model = build_adapters(config, loaded)
    if processes.sharded:
        shard_layers(model, config.memory, loaded.device)
    step = build_step(config, loaded, model)
    objective = step.objective
    if config.loss.lambda_preference:
        data = _with_references(config, data, loaded, model, step, processes)
    groups: dict[str, list[torch.nn.Parameter]] = {
        "adapter": [p for p in model.parameters() if p.requires_grad],
        "projection": list(objective.projection.parameters()) if objective.projection else [],
        "loss": list(objective.contrastive.parameters()) if objective.contrastive else [],
    }
    trained = [parameter for group in groups.values() for parameter in group]
    optimizer = build_optimizer(config.train, groups)
    batches = EpochBatches(
        data.train,
        batch_size=config.train.batch_size,
        accumulation_steps=config.train.accumulation_steps,
        seed=config.train.seed,
        needs=objective.needs,
        pooling=config.loss.pooling,
    )
    total_steps = batches.steps_per_epoch * config.train.epochs
    if config.train.max_steps is not None:
        total_steps = min(total_steps, config.train.max_steps)
    check_shareable(objective, processes)
    probe, probe_notes = _build_probe(config, data, model, processes)
    if tracking is not None and probe is not None:
        tracking.answers = probe.rows
    run = Run(
        config=config,
        run_dir=config.run_dir,
        modules=[model, *objective.modules],
        step=step,
        batches=batches,
        validation=fixed_batches(
            data.validation,
            config.validation.batch_size,
            replace(objective.needs, attack=None),
            config.loss.pooling,
        ),
        parameters=trained,
        optimizer=optimizer,
        scheduler=build_scheduler(config.train, optimizer, total_steps),
        scaler=build_scaler(loaded.dtype, loaded.device),
        state=TrainState(),
        callbacks=(
            _build_callbacks(config, optimizer, screen, tracking)
            if processes.is_main
            else [MemoryMonitor()]
        ),
        device=loaded.device,
        total_steps=total_steps,
        notes=[_describe(config, loaded, step, trained), *data.notes, *probe_notes],
        probe=probe,
        processes=processes,
    )
    return Built(run, model, loaded, step, data, tracking if processes.is_main else None)


def check_selection(config: RunConfig, measured: Sequence[str] | None = None) -> None:
    """Raises a ConfigError if a figure selects checkpoints that the attack probe cannot measure.

    `measured` has the probe's metrics on the run's data; None before they are known.
    """
    checkpoint, stopping = config.checkpoint, config.early_stopping
    selecting = {
        "checkpoint.best_metric": checkpoint.best_metric,
        "checkpoint.guard_metric": checkpoint.guard_metric,
        "early_stopping.metric": stopping.metric if stopping.enabled else None,
    }
    for setting, metric in selecting.items():
        if metric not in {f"val_{name}" for name in PROBE_METRICS}:
            continue
        if not config.validation.attack_probe:
            raise ConfigError(
                f"{setting} = {metric!r}: only the attack probe measures it, and it is "
                "off; set validation.attack_probe, such as to 24, or choose another metric"
            )
        if measured is not None and metric.removeprefix("val_") not in measured:
            lacking = "attack.witness" if "attack_success" in metric else "check"
            raise ConfigError(
                f"{setting} = {metric!r}: no validation triplet that the probe can answer has "
                f"{lacking!r}; add it to the data, or choose another metric"
            )


def check_share(train: TrainSection, memory: MemorySection, processes: Processes) -> None:
    """Raises a ConfigError if the processes cannot share the micro-batches or the layers."""
    steps, count = train.accumulation_steps, processes.world_size
    if steps < count:
        raise ConfigError(
            f"train.accumulation_steps = {steps}: it counts an optimizer step's micro-batches over "
            f"all processes, so {count - steps} of {count} would have none; set it to a multiple "
            f"of {count}"
        )
    if memory.shards == 1:
        return
    if memory.shards != count:
        raise ConfigError(
            f"memory.shards = {memory.shards}: all processes of a run share the layers, "
            f"and this run has {count}; start it with --num-processes {memory.shards}, or set "
            f"memory.shards to {count}"
        )
    if memory.members != "tree":
        raise ConfigError(
            f"memory.members = {memory.members!r} with memory.shards = {memory.shards}: each "
            "member takes a separate pass, and all processes must make the same number of passes; "
            "set memory.members to 'tree'"
        )


def check_shareable(objective: Objective, processes: Processes) -> None:
    """Raises a ConfigError for a loss with state: each process sees only its own micro-batches."""
    loss = objective.contrastive
    if processes.world_size > 1 and loss is not None and any(True for _ in loss.buffers()):
        raise ConfigError(
            f"loss.contrastive: {type(loss).__name__} has buffers, which would differ between the "
            f"{processes.world_size} processes; train it with one"
        )


def computed_whole(
    section: ModelSection, model: PeftModel, device: torch.device, processes: Processes
) -> AbstractContextManager[object]:
    """Computes Llama's layers whole inside, on a CPU where processes do not share them."""
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
        train, validation = (
            with_references(
                step,
                triplets,
                batch_size=config.validation.batch_size,
                folder=cache_dir() / "references",
                weights=f"{weights} {loaded.dtype}",
                progress=ProgressLine("reading answers of the model without adapter"),
            )
            for triplets in (data.train, data.validation)
        )
    return replace(data, train=train, validation=validation)


def _build_probe(
    config: RunConfig, data: PreparedData, model: PeftModel, processes: Processes
) -> tuple[AttackProbe | None, list[str]]:
    """Builds the attack probe of validations, if the settings ask for one, and notes on it."""
    count = config.validation.attack_probe
    if not count:
        return None, []

    def fits(triplet: Triplet) -> bool:
        prompts = (triplet.prompt("benign"), triplet.prompt("injection"))
        lengths = (len(data.template.encode_prompt(*prompt)) for prompt in prompts)
        return max(lengths) <= config.data.max_length

    chosen = choose_triplets_to_probe(data.validation_triplets, count, fits)
    section = config.evaluation
    answering = Answering(
        model, data.template, section.max_new_tokens, section.batch_size, processes=processes
    )
    probe = AttackProbe(answering, chosen)
    check_selection(config, probe.metrics)
    notes = []
    if len(chosen) < count:
        notes.append(
            f"validation.attack_probe = {count}, but only {len(chosen)} validation triplets have "
            "an attack or an answer that can be verified, at full length"
        )
    return (probe if chosen else None), notes


def _build_callbacks(
    config: RunConfig, optimizer: Any, screen: Screen | None, tracking: Tracking | None
) -> list[Callback]:
    """Returns the run's callbacks in the order of their calls."""
    stopping, checkpoint = config.early_stopping, config.checkpoint
    memory = MemoryMonitor()
    callbacks: list[Callback] = [LearningRateMonitor(optimizer), memory, CausalMetrics()]
    if stopping.enabled:
        callbacks.append(
            EarlyStopping(stopping.metric, stopping.mode, stopping.patience, stopping.min_delta)
        )
    for name in config.callbacks:
        kind = CALLBACKS.load(name)
        if not (isinstance(kind, type) and issubclass(kind, Callback)):
            raise ConfigError(
                f"callbacks: {name!r}: derive it from llmcausal.train.callback.Callback"
            )
        callbacks.append(kind())
    callbacks.append(MetricsLog())
    if tracking is not None:
        callbacks.append(tracking)
    if screen is not None:
        callbacks.append(screen(memory))
    callbacks.append(
        ModelCheckpoint(
            checkpoint.every_steps,
            checkpoint.keep,
            checkpoint.best_metric,
            checkpoint.best_mode,
            checkpoint.guard_metric,
            checkpoint.guard_within,
        )
    )
    return callbacks


def build_snapshot(built: Built) -> Snapshot:
    tokenizer, fingerprints = built.loaded.tokenizer, built.data.fingerprints
    return Snapshot(built.run, built.model, built.step.objective, tokenizer, fingerprints)


def _describe(
    config: RunConfig, loaded: LoadedModel, step: TripletStep, trained: Sequence[torch.Tensor]
) -> str:
    count = sum(parameter.numel() for parameter in trained)
    shards = config.memory.shards
    shared = f" shared by {shards} processes" if shards > 1 else ""
    return (
        f"model: {config.model.name} on {loaded.device}, {config.model.quantization}, "
        f"{str(loaded.dtype).removeprefix('torch.')}, {step.trunk.layers} layers{shared}; "
        f"training {count / 1e6:.2f} M parameters"
    )


@contextmanager
def trackers_closed(tracking: Tracking | None) -> Iterator[None]:
    """Closes the run's trackers, however the run ends."""
    try:
        yield
    finally:
        if tracking is not None and tracking.active:
            with status("Sending the trackers' last figures"):
                notes = tracking.close()
            show_notes(notes)
