"""The attack probe of a run's validations, and whether what selects will be measured."""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftModel

from llmcausal.assembly.prepare import PreparedData
from llmcausal.config import RunConfig
from llmcausal.data.triplet import Triplet
from llmcausal.errors import ConfigError
from llmcausal.evaluation.generation import Answering
from llmcausal.evaluation.probe import PROBE_METRICS, AttackProbe, choose_triplets_to_probe
from llmcausal.train.processes import SINGLE, Processes


def check_selection(config: RunConfig, measured: Sequence[str] | None = None) -> None:
    """Refuses to select by a figure of the attack probe that will never be measured.

    Args:
        config: Settings.
        measured: What the probe measures on the run's data; None before that is known.

    Raises:
        ConfigError: Naming the setting and what to do.
    """
    checkpoint, stopping = config.checkpoint, config.early_stopping
    asked = {
        "checkpoint.best_metric": checkpoint.best_metric,
        "checkpoint.guard_metric": checkpoint.guard_metric,
        "early_stopping.metric": stopping.metric if stopping.enabled else None,
    }
    for setting, metric in asked.items():
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


def build_probe(
    config: RunConfig, data: PreparedData, model: PeftModel, processes: Processes = SINGLE
) -> tuple[AttackProbe | None, list[str]]:
    """Builds the probe that validations include, if they do, and says what it will lack.

    Raises:
        ConfigError: If the run selects by a figure that these triplets cannot give.
    """
    count = config.validation.attack_probe
    if not count:
        return None, []

    def fits(triplet: Triplet) -> bool:
        prompts = (triplet.user_text("benign"), triplet.user_text("injection"))
        longest = max(len(data.template.encode_prompt(triplet.system, text)) for text in prompts)
        return longest <= config.data.max_length

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
