"""An attack proves nothing if the model cannot do what it asks for."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_untouched_small_model_follows_the_goals_when_they_are_all_it_is_asked() -> None:
    """But for a few, where the two best tokens are nearer than the precision's rounding."""
    from llmcausal.assembly.prepare import load_template
    from llmcausal.data.natural import SYSTEM
    from llmcausal.evaluation.generation import Answering, answer_prompts
    from llmcausal.model.factory import load_model
    from llmcausal.profile import load_config

    config = load_config("demo-cpu")
    loaded = load_model(config.model, config.memory)
    template = load_template(config.model, loaded.tokenizer)
    text = files("llmcausal.data.natural").joinpath("goals.json").read_text("utf-8")
    goals = [row for row in json.loads(text) if row["split"] != "train"]
    prompts = [(SYSTEM, row["instruction"]) for row in goals]
    answers = answer_prompts(Answering(loaded.model, template, 32, 32), prompts)
    found = [
        row["witness"].casefold() in answer.text.casefold()
        for row, answer in zip(goals, answers, strict=True)
    ]
    assert sum(found) >= 0.85 * len(goals)
