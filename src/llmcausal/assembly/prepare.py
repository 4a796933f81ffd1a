"""A run's inputs, before the model is loaded: data, chat template, weights on this disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download

from llmcausal.assembly.answering import answered, stand_ins
from llmcausal.config import ModelSection, RunConfig
from llmcausal.data.spans import as_text
from llmcausal.data.splits import TrainingSplits, fingerprint, load_training_splits
from llmcausal.data.template import MAX_TEMPLATE_BYTES, ChatTemplate
from llmcausal.data.tokenization import EncodedTriplet, TripletEncoder
from llmcausal.data.triplet import Triplet
from llmcausal.diagnostics.inputs import cached_config
from llmcausal.errors import ConfigError, DataError, ModelError, first_line
from llmcausal.memory.architecture import IN_NF4, NF4
from llmcausal.model.device import choose_device, settled_precision
from llmcausal.model.factory import load_tokenizer
from llmcausal.model.gguf import PREFIX
from llmcausal.model.prequantized import settings_in, stored_quantization
from llmcausal.storage import read_at_most
from llmcausal.ui.console import ProgressLine, err_console

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""The files that transformers loads, the first kind found. A repository may also contain the same
weights in other formats (`original/`, `consolidated*`)."""


@dataclass(frozen=True)
class PreparedData:
    """Encoded training and validation data, with the validation data as text too.

    `fingerprints` has hashes of the splits and of the template, and `spans` if encoded training
    data have a trusted or a further span; `notes` are for the user.
    """

    train: list[EncodedTriplet]
    validation: list[EncodedTriplet]
    validation_triplets: list[Triplet]
    template: ChatTemplate
    fingerprints: dict[str, Any]
    notes: list[str]


def prepare_data(config: RunConfig, *, answer: bool = True) -> PreparedData:
    """Reads, checks and encodes the data.

    Args:
        answer: With `data.answers = "model"`, let the model answer; otherwise meaningless answers
            of the maximum length replace its own.

    Raises:
        DataError: If the data is unsound, or too little is usable.
        ModelError: If the tokenizer cannot be used.
    """
    splits = load_training_splits(config.data)
    template = load_template(config.model)
    swapped = bool(config.loss.lambda_swap or config.loss.lambda_preference)
    answers: list[str] = []
    if config.data.answers == "model":
        both, count = [*splits.train, *splits.validation], len(splits.train)
        if answer:
            progress = ProgressLine("the model's own answers")
            made, answers = answered(config, both, template, swapped=swapped, progress=progress)
        else:
            made = stand_ins(both, config.data.answer_tokens)
        splits = TrainingSplits(
            [triplet for triplet in made[:count] if triplet is not None],
            [triplet for triplet in made[count:] if triplet is not None],
        )
    encoder = TripletEncoder(template, config.data.max_length, swapped=swapped)

    train, validation = (
        [encoded for triplet in split if (encoded := encoder.encode(triplet)) is not None]
        for split in (splits.train, splits.validation)
    )
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
    fingerprints: dict[str, Any] = {
        "data": {"train": fingerprint(splits.train), "validation": fingerprint(splits.validation)},
        "template": template.fingerprint,
    }
    # A single untrusted text in the user's turn is one turn in either form.
    ids = {triplet.id for triplet in train}
    several = [
        isinstance(as_text(each.content("benign")), tuple)
        for each in splits.train
        if each.id in ids
    ]
    mixed: list[str] = []
    if any(several):
        fingerprints["spans"] = True  # `serve` renders messages as spans
        if not all(several):
            mixed = [
                f"data: {sum(several)} of {len(several)} training triplets have several spans: "
                "`serve` takes messages for spans, where a user's is trusted, except a system and "
                "a user message alone; set `trusted` in every request to be sure"
            ]
    notes = [
        f"data: {len(train)} training and {len(validation)} validation triplets",
        *mixed,
        *answers,
        *encoder.ledger.summary(),
    ]
    usable = {triplet.id for triplet in validation}
    texts = [triplet for triplet in splits.validation if triplet.id in usable]
    return PreparedData(train, validation, texts, template, fingerprints, notes)


def settle_precision(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """Chooses the precision for `model.precision = "auto"`; also returns notes.

    A run chooses once: a resume on another machine must not continue in another precision.
    """
    precision, note = settled_precision(config.model.precision, choose_device(config.model.device))
    model = config.model.model_copy(update={"precision": precision})
    return config.model_copy(update={"model": model}), [note] if note else []


def load_template(section: ModelSection, tokenizer: Any = None) -> ChatTemplate:
    """Loads the chat template; raises `ConfigError` if `model.chat_template` is unreadable."""
    text = None
    if (path := section.chat_template) is not None:
        try:
            content = read_at_most(path.expanduser(), MAX_TEMPLATE_BYTES)
            text = content.decode("utf-8").replace("\r\n", "\n")
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.chat_template = '{path}': cannot be read: {error}") from error
    return ChatTemplate(tokenizer or load_tokenizer(section), text)


def _check_stored(section: ModelSection) -> None:
    """Compares the settings with the 4 bits of a checkpoint before its weights are downloaded."""
    if section.name in IN_NF4:
        stored_quantization(NF4, section)
    elif config := cached_config(section):  # the tokenizer's download has put it there
        stored_quantization(settings_in(config.parent), section)


def fetch_model(section: ModelSection) -> None:
    """Downloads the missing weights of a hub model; shows size and progress.

    An interrupted download continues where it stopped. If it cannot start, the cache may still hold
    all files, so the later loading reports the problem.

    Raises:
        ModelError: If the download stops, or its weights would be refused.
        ConfigError: If the settings contradict weights in 4 bits.
    """
    name = section.name
    local = name.startswith(PREFIX) or Path(name).expanduser().is_dir()
    if local or constants.HF_HUB_OFFLINE:
        return
    for pattern in WEIGHTS:
        arguments: dict[str, Any] = {
            "revision": section.revision,
            "allow_patterns": [pattern],
            "ignore_patterns": ["*/*"],
        }
        try:
            files = snapshot_download(name, **arguments, dry_run=True)
        except Exception:  # no network, model or access; the transport's errors share no base
            return
        if not files:
            continue
        missing = [file for file in files if file.will_download]
        if not missing:
            return
        _check_stored(section)
        size = sum(file.file_size or 0 for file in missing)
        err_console().print(
            f"downloading {name}: {size / 1e9:.1f} GB in {len(missing)} file(s) to "
            f"{constants.HF_HUB_CACHE}; if it is interrupted, the next start continues it",
            soft_wrap=True,
        )
        try:
            snapshot_download(name, **arguments)
        except Exception as error:
            reason = first_line(error)
            raise ModelError(
                f"{name}: the download stopped: {reason}\nThe same command continues it."
            ) from error
        return
