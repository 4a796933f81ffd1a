"""The detector at work: how much a prompt looks injected, where that has been shown to hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llmcausal.config import RunConfig
from llmcausal.data.spans import Content, emptied, in_words
from llmcausal.data.template import ChatTemplate
from llmcausal.data.tokenization import TripletEncoder
from llmcausal.data.triplet import NOT_TEXT, Member, Triplet
from llmcausal.evaluation import statistics
from llmcausal.evaluation.forward import encode, read
from llmcausal.evaluation.generation import evaluation_mode
from llmcausal.losses.base import ProjectionHead
from llmcausal.train.step import TripletStep

CALIBRATION = "detector.json"
NEEDED = 0.8
"""Least lower end of the area's 95% interval, on every kind of validation text."""
FALSE_ALARMS = 0.02
"""Share of harmless validation prompts that score above the threshold."""


@dataclass(frozen=True)
class Detection:
    """A prompt's score: 0 for a prompt like harmless ones, 1 at most."""

    score: float
    threshold: float

    @property
    def flagged(self) -> bool:
        return self.score > self.threshold

    def as_dict(self) -> dict[str, Any]:
        return {"score": self.score, "threshold": self.threshold, "flagged": self.flagged}


def calibrate(representations: Mapping[Member, Tensor], kinds: Sequence[str]) -> dict[str, Any]:
    """Measures a detector on validation triplets.

    Args:
        representations: Of each member, projected [triplets, width].
        kinds: The kind of text of each triplet; the detector must work on every kind.

    Returns:
        `centroid` of the counterfactuals, which are harmless and not scored themselves;
        `threshold`; `auroc` by kind, as estimates.
    """
    unit = {member: normalize(values, dim=-1) for member, values in representations.items()}
    centroid = normalize(unit["benign_cf"].mean(0), dim=0)
    harmless, injected = (_scores(unit[member], centroid) for member in ("benign", "injection"))
    auroc = {}
    for kind in dict.fromkeys(kinds):
        chosen = [index for index, each in enumerate(kinds) if each == kind]
        sides = ([scores[index].item() for index in chosen] for scores in (injected, harmless))
        auroc[kind] = statistics.auroc(*sides)
    return {
        "centroid": centroid.tolist(),
        "threshold": float(torch.quantile(harmless, 1 - FALSE_ALARMS)),
        "auroc": auroc,
    }


@torch.no_grad()
def calibrate_head(
    head: ProjectionHead, states: Mapping[Member, Tensor], ids: Sequence[str]
) -> dict[str, Any]:
    """Calibrates a head on the pooled states of validation triplets, given their ids."""
    projected = {member: head(values) for member, values in states.items()}
    return calibrate(projected, [kind_of_text(each) for each in ids])


def kind_of_text(identity: str) -> str:
    """Returns what kind of text a validation triplet has, by its id."""
    kinds = {"natural-": "natural", "builtin-": "built-in"}
    return next((kind for start, kind in kinds.items() if identity.startswith(start)), "own")


def _scores(unit: Tensor, centroid: Tensor) -> Tensor:
    return (1 - unit @ centroid) / 2


def why_off(calibration: Mapping[str, Any]) -> str:
    """Returns why a detector must not be used; "" if it carries over to all kinds of text."""
    for kind, figure in calibration["auroc"].items():
        value, low, n = figure["value"], figure["low"], figure["n"]
        if value is None or low is None or low < NEEDED:
            shown = "unknown" if value is None else f"{value:.2f}"
            interval = "" if low is None else f" [{low:.2f}, {figure['high']:.2f}]"
            return (
                f"it does not carry over to {kind} texts: AUROC {shown}{interval} on {n} "
                f"validation prompts, and the interval must be above {NEEDED:g}"
            )
    return ""


@dataclass(frozen=True)
class Calibration:
    """What a detector compares with, where it has been shown to work."""

    centroid: Tensor
    threshold: float


class Detector:
    """A calibrated detector over the model that it was trained on, with its adapter."""

    def __init__(
        self, step: TripletStep, template: ChatTemplate, config: RunConfig, found: Calibration
    ) -> None:
        self._step, self._template, self._calibration = step, template, found
        self._pooling, self._max_length = config.loss.pooling, config.data.max_length

    def of(self, model: Any, system: str, content: Content) -> Detection | None:
        """Scores a prompt.

        Returns:
            The score; None if the prompt is longer than the training's texts, cannot be encoded or
            has no untrusted text.
        """
        if NOT_TEXT.search(system + in_words(content)) or (found := emptied(content)) is None:
            return None
        spans, text = found
        # One pass: a tree shares all tokens.
        same = Triplet("prompt", system, text, text, text, spans=spans)
        encoder = TripletEncoder(self._template, self._max_length)
        readable, _ = encode(encoder, [same])
        if not readable:
            return None
        with evaluation_mode(model):
            measured = read(
                self._step, readable, pooling=self._pooling, batch_size=1, projected=True
            )
        unit = normalize(measured.representations["benign"], dim=-1)
        score = float(_scores(unit, self._calibration.centroid)[0])
        return Detection(score, self._calibration.threshold)


def calibration_of(checkpoint: Path, config: RunConfig) -> Calibration | str:
    """Returns a verified checkpoint's calibration, or why its detector must not be used."""
    if config.loss.pooling == "suffix":
        return (
            "it reads what differs between a triplet's inputs (loss.pooling), and a prompt is one"
        )
    try:
        found = json.loads((checkpoint / CALIBRATION).read_bytes())
        calibration = Calibration(torch.tensor(found["centroid"]), float(found["threshold"]))
        return why_off(found) or calibration
    except FileNotFoundError:
        return f"nothing shows that it works: no {CALIBRATION}, which needs validation data"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{checkpoint / CALIBRATION}: cannot be read: {type(error).__name__}"


def detector_of(
    checkpoint: Path, step: TripletStep, template: ChatTemplate, config: RunConfig
) -> Detector | str:
    """Returns a verified checkpoint's detector, or why there is none to be used."""
    if step.objective.projection is None:
        return "the checkpoint has none"
    found = calibration_of(checkpoint, config)
    return found if isinstance(found, str) else Detector(step, template, config, found)
