"""A run's memory: its plan before the model is loaded, and its fallbacks when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from peft import PeftModel

from llmcausal.config import MemorySection, RunConfig
from llmcausal.data.tokenization import EncodedTriplet
from llmcausal.errors import DoesNotFitError
from llmcausal.launched import in_wsl, more_wsl_memory
from llmcausal.memory.budget import GIB, Budget, find_budget, free_host_bytes, within_reach
from llmcausal.memory.plan import Case, Plan, Predictor, advise, changed_settings, plan, typed
from llmcausal.memory.prediction import (
    CONTEXT_BYTES,
    Device,
    Workload,
    end_child,
    kept_of,
    switches_of,
    traits_here,
)
from llmcausal.memory.spare import (
    Choice,
    keep_layers,
    raise_batch_size,
    taken,
    with_batch_size,
)
from llmcausal.memory.strategies import candidates, settled
from llmcausal.memory.workload import data_workload
from llmcausal.model.device import choose_device
from llmcausal.model.factory import LoadedModel
from llmcausal.model.trunk import find_trunk
from llmcausal.train.batch import fixed_batches
from llmcausal.train.build import build_execution, set_memory
from llmcausal.train.recovery import ADVICE, Fallback, Place
from llmcausal.train.step import TripletStep
from llmcausal.train.update import Run

Watch = Callable[[str], AbstractContextManager[None]]
"""Shows progress while its context is open."""


@dataclass(frozen=True)
class Planned:
    """A run's settings with its strategy in place, notes for the user, and the plan to keep."""

    config: RunConfig
    notes: list[str]
    record: dict[str, Any] | None = None


def plan_run(config: RunConfig, triplets: Sequence[EncodedTriplet], watch: Watch) -> Planned:
    """Chooses a run's strategy before its model is loaded.

    On a CPU without `memory.budget_gb`, nothing changes. The chosen switches become settings as if
    set by hand, so resuming uses the same.

    Raises:
        DoesNotFitError: If no strategy fits and `memory.force` is off; names changes that help.
    """
    device: Device = "cuda" if choose_device(config.model.device).type == "cuda" else "cpu"
    if device == "cpu" and config.memory.budget_gb is None:
        return Planned(config, [])
    workload = data_workload(config, triplets)
    budget = find_budget(config.memory, device)
    host = free_host_bytes() if device == "cuda" else None
    case = Case(config, workload, budget.bytes, Predictor(device), host)
    with watch("Predicting memory"):
        plain = plan(case)
        if not (plain.fits or config.memory.force):
            raise DoesNotFitError(_refusal(case, plain, budget))
        chosen = keep_layers(case, plain)
        raised = raise_batch_size(case, chosen, lambda larger: data_workload(larger, triplets))
    end_child()
    if raised is not None:
        config = raised.config
        larger = Choice(raised.option, raised.prediction)
        chosen = taken(replace(case, config=config), plain, larger, raised=True)
    forced = "" if chosen.fits else "; started anyway, by memory.force"
    note = f"memory: strategy {chosen.option.name}: {chosen.reason}; budget {budget}{forced}"
    notes = [note, *(traits_here().notes(config.train.optimizer) if device == "cuda" else [])]
    if raised is not None:
        notes.append(raised.gain)
    return Planned(settled(config, chosen.option.switches), notes, _record(chosen, budget))


def _record(chosen: Plan, budget: Budget) -> dict[str, Any]:
    values = chosen.values()
    predicted = (
        "needed_bytes",
        "allocated_bytes",
        "reserved_bytes",
        "context_bytes",
        "host_bytes",
        "components",
        "peak_phase",
    )
    return {
        "strategy": values.pop("name"),
        **values,
        "fits": chosen.fits,
        "forced": not chosen.fits,
        "budget": asdict(budget),
        "workload": asdict(chosen.prediction.workload),
        "predicted": {name: getattr(chosen.prediction, name) for name in predicted},
    }


def _refusal(case: Case, chosen: Plan, budget: Budget) -> str:
    """Explains why a run is refused, and what would make it fit."""
    name, needed = chosen.option.name, chosen.prediction.needed_bytes
    if needed <= budget.bytes:
        host = f"{chosen.prediction.host_bytes / GIB:.2f} GiB of host memory (predicted)"
        lines = [
            f"This run does not fit: {name} needs {host}, more than is free.",
            f"What helps: {more_wsl_memory() if in_wsl() else 'close other programs'}.",
        ]
    else:
        gib = f"{needed / GIB:.2f} GiB"
        lines = [f"This run does not fit: {name} needs {gib} (predicted), the budget is {budget}."]
        if advice := advise(case):
            lines += ["What helps, cheapest first:", *map(str, advice)]
    return "\n".join([*lines, "--set memory.force=true starts it anyway."])


ROOM_BYTES = GIB
"""For the keys and values of prompts that the model answers together, and for activations."""


def memory_to_answer(config: RunConfig, budget: Budget) -> MemorySection:
    """Places the weights of a model that only answers on CUDA, if the user leaves the choice.

    Embeddings in host memory cost next to nothing. A head there crosses for every token, so it
    stays with the layers if that leaves `ROOM_BYTES`. The predicted step is a short one: before
    the answers exist, the longest micro-batch is unknown.
    """
    memory = config.memory
    if memory.strategy == "manual":
        return memory
    memory = memory.model_copy(update={"embeddings": "host"})
    short = config.model_copy(update={"memory": memory})
    weights = Predictor("cuda")(short, Workload(16)).components["base_model"]
    end_child()
    fits = weights + ROOM_BYTES + CONTEXT_BYTES <= budget.bytes
    return memory if fits else memory.model_copy(update={"head": "host"})


LESS = 0.95
"""A change helps if it needs at most this share of the failed step's prediction. That step fitted
by its prediction, so a change must save more than the prediction's error."""


@dataclass(frozen=True)
class Fallbacks:
    """A run's answers when memory runs out: leaner ways to continue, and advice after the last."""

    run: Run
    step: TripletStep
    loaded: LoadedModel
    model: PeftModel
    validation: Sequence[EncodedTriplet]

    def ladder(self) -> dict[Place, list[Fallback]]:
        """Lists leaner ways to train and to validate, fastest first; they change the run.

        Smaller micro-batches come first, with the same triplets in an optimizer step; then the
        strategies. If the contrastive loss compares triplets within a micro-batch, micro-batches
        keep their size: smaller ones would change the objective.

        Returns:
            Nothing if processes compute together: one that fails in a pass cannot warn the others.
        """
        if self.run.processes.sharded:
            return {}
        training = [
            Fallback(name, partial(self._switch, section))
            for name, section in self._leaner_sections().items()
        ]
        contrastive = self.step.objective.contrastive
        if contrastive is not None and not contrastive.per_triplet:
            return {"training": training, "validation": []}
        smaller = []
        size = self.run.batches.batch_size
        while size > 1:
            size //= 2
            smaller.append(Fallback(f"micro-batches of {size}", partial(self._cut_training, size)))
        # Kept layers take what is left over, so they go before anything else.
        first = 1 if self._kept() else 0
        training[first:first] = smaller
        return {"training": training, "validation": self._smaller_validation()}

    def _kept(self) -> int:
        return kept_of(self.run.config.memory, self.step.trunk.layers)

    def _leaner_sections(self) -> dict[str, MemorySection]:
        now = self.run.config.memory
        kept: dict[str, object] = {"lora_dtype": now.lora_dtype}  # the adapters exist already
        on_cpu = self.loaded.device.type == "cpu"  # a CPU has no second memory
        if on_cpu:
            kept |= {"embeddings": now.embeddings, "head": now.head}
        found: dict[str, MemorySection] = {}
        last = {**switches_of(now), "kept_layers": self._kept()}
        for candidate in candidates(now.model_copy(update=last)):
            section = candidate.section.model_copy(update=kept)
            if on_cpu and now.activations != "offload" and section.activations == "offload":
                section = section.model_copy(update={"activations": "recompute"})
            if switches_of(section) != last:
                found[candidate.name] = section
                last = switches_of(section)
        return found

    def _switch(self, section: MemorySection) -> None:
        set_memory(self.model, section, self.loaded.device)
        self.step.trunk = find_trunk(self.model)
        self.step.execution = build_execution(section, self.loaded.dtype)

    def _cut_training(self, size: int) -> None:
        self.run.batches.batch_size = size

    def _smaller_validation(self) -> list[Fallback]:
        config, probe = self.run.config, self.run.probe
        sizes = [config.validation.batch_size, config.evaluation.batch_size if probe else 1]
        found = []
        while max(sizes) > 1:
            sizes = [max(1, size // 2) for size in sizes]
            name = f"validation in batches of {sizes[0]}"
            if probe:
                name += f", {sizes[1]} prompts of the probe together"
            found.append(Fallback(name, partial(self._cut_validation, *sizes)))
        return found

    def _cut_validation(self, size: int, probe_size: int) -> None:
        run = self.run
        needs, pooling = self.step.objective.needs, run.config.loss.pooling
        run.validation = fixed_batches(self.validation, size, needs, pooling)
        if run.probe is not None:
            run.probe.answer_together(probe_size)

    def advice(self, triplets: Sequence[EncodedTriplet], watch: Watch) -> str:
        """Explains what helps in addition to the fallbacks in force, for the run's data and device.

        Never fails: if a prediction fails, the result is the plain advice with the reason.
        """
        try:
            with watch("Memory ran out; predicting what would help"):
                return self._predicted_advice(triplets)
        except (Exception, KeyboardInterrupt) as error:
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            return f"{ADVICE}\nTheir memory was not predicted ({reason})."

    def _predicted_advice(self, triplets: Sequence[EncodedTriplet]) -> str:
        device: Device = "cuda" if self.loaded.device.type == "cuda" else "cpu"
        config = self._config_in_force()
        workload = data_workload(config, triplets)
        predictor = Predictor(device)
        needed = predictor(config, workload).needed_bytes
        budget = within_reach(config.memory, device)
        limit = min(budget.bytes, round(LESS * needed))
        advice = advise(Case(config, workload, limit, predictor))
        lines = [
            f"The longest micro-batch was predicted to need {needed / GIB:.2f} GiB; the budget is "
            f"{budget}."
        ]
        if needed <= budget.bytes:
            lines.append("Something else took memory: close other programs, then resume; or:")
        if not advice:
            return "\n".join([*lines, ADVICE])
        changed = changed_settings(self.run.config, config)
        on_top = f", on top of {typed(changed)}" if changed else ""
        lines.append(f"What helps in a new run{on_top}, cheapest first:")
        return "\n".join([*lines, *map(str, advice)])

    def _config_in_force(self) -> RunConfig:
        """Returns the settings with the fallbacks in force."""
        config = with_batch_size(self.run.config, self.run.batches.batch_size)
        leaner = self._leaner_sections().items()
        taken = [section for name, section in leaner if name in self.run.state.fallbacks]
        memory = [config.memory, *taken][-1]
        return config.model_copy(update={"memory": memory})
