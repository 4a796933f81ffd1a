"""`profile-memory --eval`: an evaluation's predicted memory, what fits, and tokens a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from llmcausal.config import RunConfig
from llmcausal.errors import ConfigError
from llmcausal.memory.plan import UNKNOWN_SHARED, WORST_SHARED, Advice, largest_that_fits, plan
from llmcausal.memory.prediction import (
    AnswerLoad,
    Prediction,
    Rehearsal,
    Workload,
    predict_answers,
    predict_reading,
    switches_of,
    traits_here,
)
from llmcausal.memory.report import MemoryReport, MemoryRequest, prediction_values
from llmcausal.memory.roofline import card_seconds, known_cards
from llmcausal.memory.runs import Watch
from llmcausal.memory.spare import keep_layers
from llmcausal.memory.strategies import candidates, settled

MOST_PROMPTS = 64
"""Limit of the search for the largest batch."""
Load = TypeVar("Load", AnswerLoad, Workload)
Change = tuple[str, list[str], Prediction]
"""A change for people, its settings as `key=value`, and what is predicted with it."""


@dataclass(frozen=True)
class EvaluationLoad:
    """The most that an evaluation holds: a batch of answers, and triplets that are read."""

    answers: AnswerLoad
    reading: Workload | None  # None: no triplet is short enough to be read
    source: str  # for people
    # Shared prefixes to try instead of the batch's, if that is not known; the worst one counts.
    shared: tuple[int, ...] = ()


def unknown_load(config: RunConfig, request: MemoryRequest) -> EvaluationLoad:
    """Describes an evaluation whose texts are not at hand; their lengths are assumed."""
    section, source = config.evaluation, "--seq-len"
    if request.seq_len is None:
        source = "data.max_length, assumed for prompts too: the tokenizer is not on this machine"
    length = request.seq_len or config.data.max_length
    answers = AnswerLoad(section.batch_size, length, 0, section.max_new_tokens)
    reading = Workload(length, 0, min(256, length // 4), config.validation.batch_size)
    return EvaluationLoad(answers, reading, f"{source}; {WORST_SHARED}", UNKNOWN_SHARED)


def with_share(load: EvaluationLoad, share: float) -> EvaluationLoad:
    """Sets which share of each text is a common prefix, as far as its answer leaves room."""
    answers, reading = load.answers, load.reading
    shared = min(int(share * answers.prompt_tokens), answers.prompt_tokens - 1)
    if reading is not None:
        most = reading.member_tokens - reading.response_tokens - 1
        reading = replace(reading, shared_tokens=min(int(share * reading.member_tokens), most))
    source = f"{load.source.partition(';')[0]}; {share:.0%} of it shared"
    return EvaluationLoad(replace(answers, shared_tokens=shared), reading, source)


@dataclass
class EvaluationReport:
    """Predicts an evaluation with the memory strategy that training would choose."""

    training: MemoryReport  # with its own lengths
    load: EvaluationLoad
    rehearsal: Rehearsal  # runs the passes of answers
    watch: Watch

    def values(self) -> dict[str, Any]:
        """Returns plain values, for JSON and for `ui.memory_table`.

        Raises:
            ModelError: If the architecture is unknown.
            ConfigError: If several processes share the layers.
        """
        training = self.training
        if training.config.memory.shards > 1:
            raise ConfigError(
                f"memory.shards = {training.config.memory.shards}: --eval predicts one process; "
                "leave it out, or give --set memory.shards=1"
            )
        with self.watch("Predicting training"):
            chosen = keep_layers(training.case, plan(training.case))
        config = settled(training.config, chosen.option.switches)
        with self.watch("Predicting the evaluation"):
            answers = self._answers(config, self.load.answers)
            texts = self.load.reading
            reading = None if texts is None else self._reading(config, texts)
            limit = self._largest_batch(config, answers)
            budget, possible = training.budget.bytes, answers
            if answers.needed_bytes > budget:
                load = replace(self.load.answers, prompts=max(1, limit))
                possible = self._answers(config, load)
        parts = {"answers": answers, **({"reading": reading} if reading else {})}
        peak = max(parts.values(), key=lambda each: each.needed_bytes)
        device, train = training.device, config.train
        return {
            "model": config.model.name,
            "profile": config.name,
            "kind": "predicted",
            "fits": peak.needed_bytes <= budget,
            "device": device,
            "workload": {
                "answers": asdict(answers.workload),
                "reading": reading and asdict(reading.workload),
                "source": self.load.source,
            },
            "budget": asdict(training.budget),
            "notes": self._notes(traits_here().notes(train.optimizer) if device == "cuda" else []),
            "strategy": {
                "name": chosen.option.name,
                "switches": chosen.option.switches,
                "training_fits": chosen.fits,
            },
            "parts": {
                name: {"needed_bytes": each.needed_bytes, "fits": each.needed_bytes <= budget}
                for name, each in parts.items()
            },
            "prediction": prediction_values(peak, budget),
            "limits": {"batch_size": limit, "batch_size_searched": MOST_PROMPTS},
            "advice": self._advice(config, parts, possible),
            "time": self._time(possible) if limit else None,
        }

    def _notes(self, notes: list[str]) -> list[str]:
        notes = [note for note in notes if not note.startswith("optimizer:")]
        if self.training.device == "cpu" and self.training.config.model.quantization == "nf4":
            notes.append(
                "on a CPU the evaluation also dequantizes the weights, if they fit into half of "
                "the free memory; the prediction leaves that out"
            )
        return notes

    def _answers(self, config: RunConfig, load: AnswerLoad) -> Prediction:
        loads = self._with_prefixes(load, load.prompt_tokens - 1)
        device = self.training.device
        found = (predict_answers(config, each, self.rehearsal, device=device) for each in loads)
        return max(found, key=lambda each: each.needed_bytes)

    def _reading(self, config: RunConfig, load: Workload) -> Prediction:
        loads = self._with_prefixes(load, load.member_tokens - load.response_tokens - 1)
        found = (predict_reading(config, each, device=self.training.device) for each in loads)
        return max(found, key=lambda each: each.needed_bytes)

    def _with_prefixes(self, load: Load, most: int) -> list[Load]:
        """Lists a load with each prefix of `load.shared`, at most `most` tokens, or as it is."""
        shared = dict.fromkeys(min(each, most) for each in self.load.shared)
        return [replace(load, shared_tokens=each) for each in shared] or [load]

    def _largest_batch(self, config: RunConfig, answers: Prediction) -> int:
        worst = _answered(answers)

        def needed(count: int) -> int:
            load = replace(worst, prompts=count)
            found = predict_answers(config, load, self.rehearsal, device=self.training.device)
            return found.needed_bytes

        return largest_that_fits(
            needed, self.training.budget.bytes, start=worst.prompts, step=1, most=MOST_PROMPTS
        )

    def _advice(
        self, config: RunConfig, parts: dict[str, Prediction], possible: Prediction
    ) -> list[dict[str, Any]]:
        budget = self.training.budget.bytes
        found: list[Change] = []
        if possible.needed_bytes > budget:  # one prompt
            found += self._smaller_answers(config, possible)
        elif possible is not parts["answers"]:
            size = _answered(possible).prompts
            text = f"{size} prompt(s) answered together; memory that runs out halves them too"
            found.append((text, [f"evaluation.batch_size={size}"], possible))
        reading = self.load.reading
        if reading and parts["reading"].needed_bytes > budget and reading.triplets > 1:
            one = self._reading(config, replace(reading, triplets=1))
            found.append(("one triplet read at a time", ["validation.batch_size=1"], one))
        return [
            Advice(text, tuple(settings), prediction, prediction.needed_bytes <= budget).values()
            for text, settings, prediction in found
        ]

    def _smaller_answers(self, config: RunConfig, one: Prediction) -> Iterator[Change]:
        """Yields what helps an answer that does not fit alone: first one prompt, of several."""
        budget, load = self.training.budget.bytes, _answered(one)
        alone = ["evaluation.batch_size=1"] if self.load.answers.prompts > 1 else []
        if alone:
            yield "one prompt at a time", alone, one
        now = switches_of(config.memory)
        for option in candidates(config.memory):
            changed = {name: value for name, value in option.switches.items() if value != now[name]}
            changed.pop("kept_layers", None)  # answers keep nothing for a backward pass
            found = self._answers(config.model_copy(update={"memory": option.section}), load)
            if found.needed_bytes < one.needed_bytes:
                settings = [f"memory.{name}={value}" for name, value in changed.items()]
                yield f"strategy {option.name}", [*alone, *settings], found
            if found.needed_bytes <= budget:
                break

        def needed(count: int) -> int:
            return self._answers(config, replace(load, new_tokens=count)).needed_bytes

        most = largest_that_fits(
            needed, budget, start=load.new_tokens // 2, step=1, most=load.new_tokens - 1
        )
        if most:
            shorter = self._answers(config, replace(load, new_tokens=most))
            text = f"answers of at most {most} tokens"
            yield text, [*alone, f"evaluation.max_new_tokens={most}"], shorter

    def _time(self, answers: Prediction) -> dict[str, Any] | None:
        """Predicts a batch's time on known cards."""
        load = _answered(answers)
        if not self.training.in_16_bits:
            return None
        tokens = load.prompts * load.new_tokens
        cards = []
        for card in known_cards():
            least, most = card_seconds(answers.kernels, card)
            cards.append(
                {
                    "card": card.name,
                    "source": card.source,
                    "batch_seconds": [least, most],
                    "tokens_per_second": [tokens / most, tokens / least],
                }
            )
        crossing = sum(count * each.bytes for each, count in answers.kernels if each.crosses)
        return {
            "prompts_per_batch": load.prompts,
            "new_tokens_per_batch": tokens,
            "kernels_per_batch": answers.launches,
            "moved_bytes_per_batch": crossing,
            "cards": cards,
        }


def _answered(prediction: Prediction) -> AnswerLoad:
    assert isinstance(prediction.workload, AnswerLoad)
    return prediction.workload
