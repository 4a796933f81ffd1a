"""Writes the table of cards in docs/memory.md, and what `doctor` knows of the shipped profiles.

Both are predictions, of minutes; with --check they are only compared. Exits with 1 if a shipped
profile does not fit the card that it is for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from generated import between_marks

from llmcausal.config import RunConfig
from llmcausal.memory.architecture import (
    NEEDS_FILE,
    adapter_numbers,
    describe,
    empty_model,
    states_of,
)
from llmcausal.memory.budget import card_budget
from llmcausal.memory.plan import UNKNOWN_SHARED, Case, Predictor, plan
from llmcausal.memory.prediction import Workload
from llmcausal.memory.strategies import candidates
from llmcausal.profile import load_config

PAGE = Path(__file__).with_name("memory.md")
OWN_CARD = {"rtx4050": 6, "llama2-7b-6gb": 6, "minimal-4gb": 4, "quality-12gb": 12}
"""Size in GB of the card that each shipped profile is for."""
LENGTHS = {
    "rtx4050": (1024, 2048, 4096),
    "llama2-7b-6gb": (2048, 4096),
    "minimal-4gb": (512, 2048),
    "quality-12gb": (4096,),
}
CARDS = (4, 6, 8, 12)
PREDICTOR = Predictor("cuda", shared=UNKNOWN_SHARED)


def cell(profile: str, tokens: int, card: int) -> tuple[str, bool]:
    """Returns strategy and predicted peak, and whether it fits."""
    config = load_config(profile)
    load = Workload(tokens, 0, min(256, tokens // 4), config.train.batch_size)
    chosen = plan(Case(config, load, card_budget(card).bytes, PREDICTOR))
    needed = f"{chosen.prediction.needed_bytes / 2**30:.2f}"
    return (f"`{chosen.option.name}` {needed}" if chosen.fits else f"no ({needed})"), chosen.fits


def table() -> tuple[str, list[str]]:
    """Returns the table, and the profiles that do not fit their card."""
    lines = [
        "| profile | model | tokens | triplets | " + " | ".join(f"{c} GB" for c in CARDS) + " |",
        "|---" * (4 + len(CARDS)) + "|",
    ]
    failing = []
    for profile, lengths in LENGTHS.items():
        config = load_config(profile)
        model = config.model.name.partition("/")[2]
        for tokens in lengths:
            cells = []
            for card in CARDS:
                text, fits = cell(profile, tokens, card)
                own = card == OWN_CARD[profile] and tokens == config.data.max_length
                cells.append(f"**{text}**" if own else text)
                if own and not fits:
                    failing.append(profile)
            cells = [f"`{profile}`", model, str(tokens), str(config.train.batch_size), *cells]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n", failing


def needs_file() -> str:
    """Returns the text of the file that `doctor` reads."""
    needs = {name: predict_need(load_config(name), PREDICTOR) for name in OWN_CARD}
    return json.dumps(needs, indent=2) + "\n"


def predict_need(config: RunConfig, predictor: Predictor) -> dict[str, Any]:
    """Predicts every strategy that the planner may choose, for the longest triplets allowed."""
    length = config.data.max_length
    load = Workload(length, 0, min(256, length // 4), config.train.batch_size)
    case = Case(config, load, 0, predictor)
    strategies = []
    for option in candidates(config.memory):
        prediction = case.predicted(option)
        strategies.append(
            {
                "name": option.name,
                "needed_bytes": prediction.needed_bytes,
                "host_bytes": prediction.host_bytes,
            }
        )
    paged = (
        sum(states_of(config.train.optimizer, numbers, 4, pages=True).host)
        for numbers in adapter_numbers(empty_model(config.model), config.lora)
    )
    return {**describe(config), "paged_bytes": sum(paged), "strategies": strategies}


def main(arguments: list[str]) -> int:
    found, failing = table()
    needs = needs_file()
    for profile in failing:
        print(f"{profile} does not fit a {OWN_CARD[profile]} GB card", file=sys.stderr)
    before = PAGE.read_text(encoding="utf-8")
    after = between_marks(before, "cards", found)
    if arguments != ["--check"]:
        PAGE.write_text(after, encoding="utf-8")
        NEEDS_FILE.write_text(needs, encoding="utf-8")
    elif after != before or needs != NEEDS_FILE.read_text(encoding="utf-8"):
        print(f"{PAGE} or {NEEDS_FILE} is not current: run `python docs/cards.py`", file=sys.stderr)
        return 1
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
