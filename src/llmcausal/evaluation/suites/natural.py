"""Suite `natural`: general tasks on texts of many kinds, each prompt under several attacks.

It shares no kind of task, genre, wording, goal or attack phrasing with the training data, and its
answers are open: the headline is whether any of the attacks on a prompt works.
"""

from __future__ import annotations

from llmcausal.config import DataSection
from llmcausal.data.natural import generate_natural
from llmcausal.data.triplet import Triplet

ATTACKS = 6


def triplets(data: DataSection, notes: list[str]) -> list[Triplet]:
    """Makes `data.builtin.test_natural` prompts, each `ATTACKS` times attacked."""
    section = data.builtin
    return generate_natural("test", section.test_natural, section.seed, ATTACKS)
