"""Suites of the program's own triplets: `builtin`, `natural` and `file`.

Suite `natural` has general tasks on texts of many kinds, each prompt under several attacks. It
shares no kind of task, genre, wording, goal or attack phrasing with the training data. Its answers
are open: the headline is whether any attack on a prompt works.
"""

from __future__ import annotations

from llmcausal.config import DataSection
from llmcausal.data import formats
from llmcausal.data.builtin import generate, generate_seen
from llmcausal.data.natural import generate_natural
from llmcausal.data.triplet import Triplet
from llmcausal.evaluation.suites.foreign import data_path


def builtin_triplets(data: DataSection, notes: list[str]) -> list[Triplet]:
    """Makes `data.builtin.test` triplets, then `data.builtin.test_seen` with seen phrasings."""
    section = data.builtin
    return [
        *generate("test", section.test, section.seed),
        *generate_seen(section.test_seen, section.seed),
    ]


NATURAL_ATTACKS = 6


def natural_triplets(data: DataSection, notes: list[str]) -> list[Triplet]:
    """Makes `data.builtin.test_natural` prompts, each `NATURAL_ATTACKS` times attacked."""
    section = data.builtin
    return generate_natural("test", section.test_natural, section.seed, NATURAL_ATTACKS)


def file_triplets(data: DataSection, notes: list[str]) -> list[Triplet]:
    return formats.read_triplets(data_path(data, "file", "a triplet file"))
