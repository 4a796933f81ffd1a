"""What a run does when memory runs out: leaner ways to go on, and advice when none is left."""

from __future__ import annotations

from functools import partial

from llmcausal.assembly.build import Built
from llmcausal.assembly.prepare import PreparedData
from llmcausal.assembly.strategy_choice import data_workload
from llmcausal.config import MemorySection, RunConfig
from llmcausal.evaluation.probe import AttackProbe
from llmcausal.memory.advice import advice_lines, advise, typed
from llmcausal.memory.budget import Device, needed_bytes, within_reach
from llmcausal.memory.plan import Predict, Predictor
from llmcausal.memory.strategies import candidates, switches_of
from llmcausal.model.trunk import find_trunk
from llmcausal.train.batch import fixed_batches
from llmcausal.train.build import build_execution, set_memory
from llmcausal.train.recovery import ADVICE, Fallback, Place
from llmcausal.ui.console import status


def build_fallbacks(built: Built) -> dict[Place, list[Fallback]]:
    """Lists leaner ways to train and to validate, cheapest in time first.

    Smaller micro-batches come first, with the same triplets in an optimizer step; then the
    strategies. Where the contrastive loss compares the triplets of a micro-batch with one
    another, micro-batches stay as they are: smaller ones would be another objective.

    Args:
        built: The run; a fallback changes it in place.

    Returns:
        Nothing where processes compute together: one that fails in a pass cannot tell the others.
    """
    if built.run.processes.sharded:
        return {}
    contrastive = built.step.objective.contrastive
    training: list[Fallback] = []
    validation: list[Fallback] = []
    if contrastive is None or contrastive.per_triplet:
        sizes = _halved(built.run.batches.batch_size)
        training = [
            Fallback(f"micro-batches of {size}", partial(_cut_training, built, size))
            for size in sizes
        ]
        validation = _smaller_validation(built)
    return {"training": [*training, *_leaner_strategies(built)], "validation": validation}


def config_in_force(built: Built) -> RunConfig:
    """Returns the settings as the fallbacks that were taken have left them."""
    run = built.run
    config, size = run.config, run.batches.batch_size
    steps = config.train.batch_size * config.train.accumulation_steps // size
    train = config.train.model_copy(update={"batch_size": size, "accumulation_steps": steps})
    memory = config.memory
    for name, section in _leaner_sections(built).items():
        if name in run.state.fallbacks:
            memory = section
    return config.model_copy(update={"train": train, "memory": memory})


def _leaner_strategies(built: Built) -> list[Fallback]:
    return [
        Fallback(name, partial(_switch, built, section))
        for name, section in _leaner_sections(built).items()
    ]


def _leaner_sections(built: Built) -> dict[str, MemorySection]:
    now = built.run.config.memory
    found: dict[str, MemorySection] = {}
    last = switches_of(now)
    for candidate in candidates(now.model_copy(update=last)):
        section = candidate.section.model_copy(update=_kept(built, candidate.section))
        if switches_of(section) != last:
            found[candidate.name] = section
            last = switches_of(section)
    return found


def _kept(built: Built, wanted: MemorySection) -> dict[str, object]:
    """Returns the switches that stay: the adapters are made, and a CPU has no other memory."""
    now = built.run.config.memory
    kept: dict[str, object] = {"lora_dtype": now.lora_dtype}
    if built.loaded.device.type == "cpu":
        kept |= {"embeddings": now.embeddings, "head": now.head}
        if wanted.activations == "offload":
            kept["activations"] = "offload" if now.activations == "offload" else "recompute"
    return kept


def _switch(built: Built, section: MemorySection) -> None:
    set_memory(built.model, section, built.loaded.device)
    built.step.trunk = find_trunk(built.model)
    built.step.execution = build_execution(section, built.loaded.dtype)


def _cut_training(built: Built, size: int) -> None:
    built.run.batches.batch_size = size


def _smaller_validation(built: Built) -> list[Fallback]:
    config, probe = built.run.config, built.run.probe
    sizes = [config.validation.batch_size, config.evaluation.batch_size if probe else 1]
    found = []
    while max(sizes) > 1:
        sizes = [max(1, size // 2) for size in sizes]
        name = f"validation in batches of {sizes[0]}"
        if probe:
            name += f", {sizes[1]} prompts of the probe together"
        found.append(Fallback(name, partial(_cut_validation, built, *sizes)))
    return found


def _cut_validation(built: Built, size: int, probe_size: int) -> None:
    run = built.run
    needs = built.step.objective.needs
    run.validation = fixed_batches(built.data.validation, size, needs, run.config.loss.pooling)
    if isinstance(run.probe, AttackProbe):
        run.probe.answer_together(probe_size)


def _halved(size: int) -> list[int]:
    sizes = []
    while size > 1:
        size //= 2
        sizes.append(size)
    return sizes


GIB = 2**30
LESS = 0.95
"""Share of what was predicted for the step that failed which a change may take: it was enough by
the prediction and was not, so that a change must take less by more than the prediction's error."""


def advice_after(built: Built, data: PreparedData, *, predict: Predict | None = None) -> str:
    """Writes what helps on top of the fallbacks in force, for the run's own data and device.

    Never fails: where nothing can be predicted, the plain advice stands, with the reason.
    """
    try:
        with status("Memory ran out; predicting what would help"):
            return _predicted(built, data, predict)
    except (Exception, KeyboardInterrupt) as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        return f"{ADVICE}\nTheir memory was not predicted ({reason})."


def _predicted(built: Built, data: PreparedData, predict: Predict | None) -> str:
    device: Device = "cuda" if built.loaded.device.type == "cuda" else "cpu"
    config = config_in_force(built)
    workload = data_workload(config, data.train)
    predictor = Predictor(device, predict)
    needed = needed_bytes(predictor(config, workload))
    budget = within_reach(config.memory, device)
    advice = advise(config, workload, min(budget.bytes, round(LESS * needed)), predictor=predictor)
    lines = [
        f"The longest micro-batch was predicted to need {needed / GIB:.2f} GiB; the budget is "
        f"{budget.bytes / GIB:.2f} GiB ({budget.source})."
    ]
    if needed <= budget.bytes:
        lines.append("Something else took memory: close other programs, then resume; or:")
    if not advice:
        return "\n".join([*lines, ADVICE])
    lines.append("What helps in a new run, cheapest first:")
    if settings := _in_force(built.run.config, config):
        lines[-1] = f"What helps in a new run, on top of {typed(settings)}, cheapest first:"
    return "\n".join([*lines, *advice_lines(advice)])


def _in_force(before: RunConfig, now: RunConfig) -> list[str]:
    """Lists the settings that fallbacks have changed."""
    old, new = switches_of(before.memory), switches_of(now.memory)
    changed = [f"memory.{name}={value}" for name, value in new.items() if old[name] != value]
    if before.train.batch_size != now.train.batch_size:
        sizes = ("batch_size", "accumulation_steps")
        changed += [f"train.{name}={getattr(now.train, name)}" for name in sizes]
    return changed
