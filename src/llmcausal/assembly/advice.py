"""What to change after memory ran out with no fallback left, with predictions."""

from __future__ import annotations

from llmcausal.assembly.build import Built
from llmcausal.assembly.fallbacks import config_in_force
from llmcausal.assembly.prepare import PreparedData
from llmcausal.assembly.strategy_choice import data_workload
from llmcausal.config import RunConfig
from llmcausal.memory.advice import advice_lines, advise, typed
from llmcausal.memory.budget import Device, needed_bytes, within_reach
from llmcausal.memory.plan import Predict, Predictor
from llmcausal.memory.strategies import switches_of
from llmcausal.train.recovery import ADVICE
from llmcausal.ui.status import status

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
