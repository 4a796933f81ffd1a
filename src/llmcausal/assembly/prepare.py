"""A run's data: read, checked, encoded and identified, before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcausal.assembly.answering import answered, stand_ins
from llmcausal.config import ModelSection, RunConfig
from llmcausal.data.splits import TrainingSplits, fingerprint, load_training_splits
from llmcausal.data.template import MAX_TEMPLATE_BYTES, ChatTemplate
from llmcausal.data.tokenization import EncodedTriplet, TripletEncoder
from llmcausal.data.triplet import Triplet
from llmcausal.errors import ConfigError, DataError
from llmcausal.model.device import choose_device, settled_precision
from llmcausal.model.factory import load_tokenizer
from llmcausal.storage import read_at_most
from llmcausal.ui.console import ProgressLine


@dataclass(frozen=True)
class PreparedData:
    """Encoded training and validation data, and what identifies it.

    Attributes:
        train: Training examples.
        validation: Validation examples.
        validation_triplets: The same as text.
        template: Renders prompts.
        fingerprints: Hashes of the splits and of the template.
        notes: What to tell the user.
    """

    train: list[EncodedTriplet]
    validation: list[EncodedTriplet]
    validation_triplets: list[Triplet]
    template: ChatTemplate
    fingerprints: dict[str, Any]
    notes: list[str]


def prepare_data(config: RunConfig, *, answer: bool = True) -> PreparedData:
    """Reads, checks and encodes the data; with `data.answers = "model"` answers them too.

    Args:
        config: Settings.
        answer: Let the model answer; otherwise answers without a meaning, of the greatest length,
            stand for its own.

    Raises:
        DataError: If it is not sound, or too little is usable.
        ModelError: If the tokenizer cannot be used.
    """
    splits = load_training_splits(config.data)
    template = load_template(config.model)
    swapped = bool(config.loss.lambda_swap or config.loss.lambda_preference)
    answers: list[str] = []
    if config.data.answers == "model":
        made, answers = _answered(config, splits, template, answer, swapped)
        count = len(splits.train)
        splits = TrainingSplits(
            [triplet for triplet in made[:count] if triplet is not None],
            [triplet for triplet in made[count:] if triplet is not None],
        )
    encoder = TripletEncoder(template, config.data.max_length, swapped=swapped)

    def encode(triplets: Sequence[Triplet]) -> list[EncodedTriplet]:
        encoded = (encoder.encode(triplet) for triplet in triplets)
        return [triplet for triplet in encoded if triplet is not None]

    train, validation = encode(splits.train), encode(splits.validation)
    if len(train) < config.data.min_samples:
        raise DataError(
            encoder.ledger.summary(),
            f"{len(train)} of {len(splits.train)} training triplets are usable, but "
            f"data.min_samples = {config.data.min_samples}. Raise data.max_length "
            f"(now {config.data.max_length}) or add data.",
        )
    if not validation:
        raise DataError(
            encoder.ledger.summary(),
            f"none of {len(splits.validation)} validation triplets is usable. Raise "
            f"data.max_length (now {config.data.max_length}) or change data.validation.",
        )
    fingerprints = {
        "data": {"train": fingerprint(splits.train), "validation": fingerprint(splits.validation)},
        "template": template.fingerprint,
    }
    notes = [
        f"data: {len(train)} training and {len(validation)} validation triplets",
        *answers,
        *encoder.ledger.summary(),
    ]
    usable = {triplet.id for triplet in validation}
    as_text = [triplet for triplet in splits.validation if triplet.id in usable]
    return PreparedData(train, validation, as_text, template, fingerprints, notes)


def _answered(
    config: RunConfig, splits: TrainingSplits, template: ChatTemplate, answer: bool, swapped: bool
) -> tuple[list[Triplet | None], list[str]]:
    both = [*splits.train, *splits.validation]
    if not answer:
        return stand_ins(both, config.data.answer_tokens), []
    progress = ProgressLine("the model's own answers")
    return answered(config, both, template, swapped=swapped, progress=progress)


def settle_precision(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """Settles `model.precision = "auto"` where bf16 is not to be had, and tells of it.

    Once for a whole run, so that no other machine goes on with it in another precision.
    """
    precision, note = settled_precision(config.model.precision, choose_device(config.model.device))
    model = config.model.model_copy(update={"precision": precision})
    return config.model_copy(update={"model": model}), [note] if note else []


def load_template(section: ModelSection, tokenizer: Any = None) -> ChatTemplate:
    """Loads the token-safe chat template of a model.

    Raises:
        ConfigError: If `model.chat_template` names no readable file.
    """
    text = None
    if (path := section.chat_template) is not None:
        try:
            content = read_at_most(path.expanduser(), MAX_TEMPLATE_BYTES)
            text = content.decode("utf-8").replace("\r\n", "\n")
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.chat_template = '{path}': cannot be read: {error}") from error
    return ChatTemplate(tokenizer or load_tokenizer(section), text)
