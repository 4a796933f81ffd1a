"""Writes the table of kept layers in docs/memory.md: predictions of minutes.

With --check the table is only compared.
"""

from __future__ import annotations

import sys
from pathlib import Path

from generated import between_marks, publish

from llmcausal.config import RunConfig
from llmcausal.memory.architecture import layer_count
from llmcausal.memory.budget import card_budget
from llmcausal.memory.plan import Case, Predictor, plan
from llmcausal.memory.prediction import Prediction, Workload
from llmcausal.memory.roofline import card_seconds
from llmcausal.memory.spare import card_to_compare, keep_layers, seconds
from llmcausal.profile import load_config

PAGE = Path(__file__).with_name("memory.md")
PROFILE = "rtx4050"
CASES = ((Workload(300, 100, 64), (6, 8, 12)), (Workload(2048, 64, 256), (8,)))
"""Micro-batches and cards, in GB."""


def table() -> str:
    """Returns an optimizer step of a profile, without kept layers and with the planner's."""
    predictor = Predictor("cuda")
    lines = ["| tokens, shared | card | without kept layers | with them | time |", "|---" * 5 + "|"]
    for load, cards in CASES:
        for card in cards:
            lines.append(row(load, card, predictor))
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


def row(load: Workload, card: int, predictor: Predictor) -> str:
    config = load_config(PROFILE)
    case = Case(config, load, card_budget(card).bytes, predictor)
    before = plan(case)
    after = keep_layers(case, before)
    kept, layers = after.option.switches["kept_layers"], layer_count(config.model)
    gain = 1 - seconds(after.prediction) / seconds(before.prediction)
    cells = [
        f"{load.member_tokens}, {load.shared_tokens}",
        f"{card} GB",
        f"`{before.option.name}`: {step(config, before.prediction)}",
        f"`{after.option.name}`, last {kept} of {layers}: {step(config, after.prediction)}",
        f"-{gain:.1%}" if kept else "no room for a layer",
    ]
    return "| " + " | ".join(cells) + " |"


def step(config: RunConfig, found: Prediction) -> str:
    steps = config.train.accumulation_steps
    low, high = (steps * each for each in card_seconds(found.kernels, card_to_compare()))
    return f"{found.needed_bytes / 2**30:.2f} GiB, {low:.3g} to {high:.3g} s"


def main(arguments: list[str]) -> int:
    made = table()
    text = between_marks(PAGE.read_text(encoding="utf-8"), "kept", made)
    return publish(PAGE, text, arguments, by="python docs/kept.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
