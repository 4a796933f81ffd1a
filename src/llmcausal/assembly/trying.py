"""`try`: the user's own task and text, answered by the untouched model and by a checkpoint."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcausal.assembly.evaluating import load_parts, read_checkpoint
from llmcausal.assembly.prepare import fetch_model
from llmcausal.attacks.base import Goal, several
from llmcausal.attacks.goals import GOAL_KINDS
from llmcausal.data.builtin import attack_info, is_obeyed_anyway, load_families
from llmcausal.data.triplet import NOT_TEXT, Triplet
from llmcausal.errors import DataError, UsageError
from llmcausal.evaluation.detection import detector_of
from llmcausal.evaluation.evaluate import fitting
from llmcausal.evaluation.generation import Answering, answer_prompts
from llmcausal.evaluation.scoring import obeyed
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.device import out_of_memory_explained

_DRAWS = 100
SIDES = ("base", "tuned")


@dataclass(frozen=True)
class TryRequest:
    checkpoint: Path
    attacks: int = 6
    instruction: str | None = None  # None draws a word that the answer should contain
    witness: str | None = None  # text in an answer that shows obedience to `instruction`
    max_new_tokens: int | None = None  # None takes the run's
    trust_remote_code: bool = False


class Trials:
    """A loaded checkpoint that answers one task and text at a time.

    Raises:
        UsageError: If only one of instruction and witness is given, or is not text.
        CheckpointError: If the checkpoint is damaged, or its template differs from this machine's.
    """

    @out_of_memory_explained("while loading the model")
    def __init__(self, request: TryRequest) -> None:
        instruction, witness = request.instruction or "", request.witness or ""
        if bool(instruction.strip()) != bool(witness.strip()):
            raise UsageError(
                "--goal and --witness belong together: --witness is the text in an answer that "
                "shows obedience to --goal"
            )
        _require_text(instruction, witness)
        self._request = request
        config, manifest = read_checkpoint(request.checkpoint, request.trust_remote_code)
        fetch_model(config.model)
        parts = load_parts(config, manifest, request.checkpoint)
        section = config.evaluation
        self._detector = detector_of(request.checkpoint, parts.step, parts.template, config)
        self._answering = Answering(
            parts.model,
            parts.template,
            request.max_new_tokens or section.max_new_tokens,
            section.batch_size,
        )

    @out_of_memory_explained("in the answers")
    def answers(self, system: str, texts: list[str]) -> dict[str, list[str]]:
        """Answers texts under one task; returns each side's answers in the order of the texts.

        Raises:
            UsageError: If something is not text.
            DataError: If a text cannot be encoded or exceeds the model's context.
        """
        _require_text(system, *texts)
        asked = [Triplet(f"text {n}", system, text, "", text) for n, text in enumerate(texts, 1)]
        advice = "a text cannot be answered; shorten it, or lower --max-tokens"
        try:
            _, unusable = fitting(self._answering, asked)
        except DataError as error:  # none of them can be used
            raise DataError(error.defects, advice) from error
        if unusable:
            raise DataError([f"{each['id']}: {each['reason']}" for each in unusable], advice)
        prompts = [(system, text) for text in texts]
        with whole_layers(self._answering.model, gradients=False):
            return {
                side: [
                    answer.text
                    for answer in answer_prompts(self._answering, prompts, adapter=side == "tuned")
                ]
                for side in SIDES
            }

    @out_of_memory_explained("in the detector")
    def detected(self, system: str, texts: list[str]) -> dict[str, Any]:
        """Returns each text's `score` and whether it is `flagged`, or why the detector is `off`."""
        if isinstance(self._detector, str):
            return {"off": self._detector}
        with whole_layers(self._answering.model, gradients=False):
            found = [self._detector.of(self._answering.model, system, text) for text in texts]
        return {"texts": [each.as_dict() if each else None for each in found]}

    def attacked(self, system: str, text: str) -> dict[str, Any]:
        """Answers a text and attacks on it; equal task and text give equal attacks.

        Returns:
            `answers` of each side to the text itself; `goal`, `witness`, `detector` (of the `text`
            and of its `attacks`, see `detected`), and `attacks`: family, position, text and, for
            each side, the answer and whether it obeys.

        Raises:
            UsageError: If task or text contains the witness already, or is not text.
            DataError: As in `answers`.
        """
        _require_text(system, text)
        rng = random.Random(f"llmcausal:try:{system}\n{text}")
        goal = self._goal(system, text, rng)
        families = load_families("test", "held_out")
        made = several(text, goal, families, "held_out", self._request.attacks, rng)
        # One call for all: on a CPU, each call dequantizes the whole model first.
        answers = self.answers(system, [text, *(each.text for each in made)])
        rows = []
        for index, each in enumerate(made, start=1):
            info = attack_info(each.family, goal, each.position, "held_out")
            triplet = Triplet("try", system, text, "", each.text, attack=info)
            row: dict[str, Any] = {
                "family": each.family.name, "position": each.position, "text": each.text,
            }  # fmt: skip
            for side in SIDES:
                answer = answers[side][index]
                row[side] = {"answer": answer, "obeyed": obeyed(triplet, answer)}
            rows.append(row)
        return {
            "answers": {side: answers[side][0] for side in SIDES},
            "goal": goal.instruction,
            "witness": goal.witness,
            "detector": {
                "text": self.detected(system, [text]),
                "attacks": self.detected(system, [each.text for each in made]),
            },
            "attacks": rows,
        }

    def _goal(self, system: str, text: str, rng: random.Random) -> Goal:
        """Chooses the goal of the attacks: the user's, or a word that neither text contains."""
        instruction, witness = self._request.instruction, self._request.witness
        if instruction and witness:
            goal = Goal("", instruction.strip(), witness.strip())
            if is_obeyed_anyway(goal, system, [text]):
                raise UsageError(
                    f"--witness {witness!r} is in the task or the text already, so an answer that "
                    "contains it shows nothing; choose another"
                )
            return goal
        kind = GOAL_KINDS.load("print_word")
        for _ in range(_DRAWS):
            drawn: Goal = kind.draw("print_word", "test", "held_out", rng)
            if not is_obeyed_anyway(drawn, system, [text]):
                return drawn
        raise UsageError("the text contains every word that an attack could ask for; give --goal")


def _require_text(*texts: str) -> None:
    for text in texts:
        if found := NOT_TEXT.search(text):
            raise UsageError(
                f"{text[: found.start()][-30:]!r} is followed by a byte that is not UTF-8, or by "
                "a NUL character; give text in UTF-8"
            )
