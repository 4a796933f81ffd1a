"""Triplets of given length and shared prefix, as token ids that every variant reads from one file.

The text is that of the built-in triplets, encoded and strung together; a member is cut from it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmcausal.data.triplet import MEMBERS

LENGTHS = (64, 128, 256, 512, 1024, 2048)
SHARES = (0.0, 0.25, 0.5, 0.75, 0.95)
RESPONSE_TOKENS = 24
SCORED = ("benign", "injection")
WORKLOAD, ADAPTER, PROJECTION = "workload.json", "adapter", "projection.safetensors"


@dataclass(frozen=True)
class Case:
    """Triplets of one shape.

    Attributes:
        length: Prompt tokens of each member.
        share: Part of the prompt that the three members have in common.
        count: Triplets.
        batch: Triplets that a variant computes together, if it can.
    """

    length: int
    share: float
    count: int = 2
    batch: int = 1

    @property
    def name(self) -> str:
        """Unique in a workload."""
        return f"{self.length} tokens, {self.share:.0%} shared, {self.count} by {self.batch}"


def builtin_stream(source: str, triplets: int = 48) -> list[int]:
    """Returns the built-in triplets' prompts as one row of token ids."""
    from llmcausal.assembly.prepare import load_template
    from llmcausal.config import RunConfig
    from llmcausal.data.builtin import generate
    from llmcausal.model.factory import load_tokenizer

    config = RunConfig.model_validate({"model": {"name": source}})
    template = load_template(config.model, load_tokenizer(config.model))
    return [
        token
        for triplet in generate("train", triplets, seed=0)
        for member in MEMBERS
        for token in template.encode_prompt(triplet.system, triplet.user_text(member))
    ]


def random_stream(vocabulary: int, seed: int, tokens: int = 50_000) -> list[int]:
    """Returns random token ids, for models that never saw a text."""
    rng = random.Random(seed)
    return [rng.randrange(vocabulary) for _ in range(tokens)]


def make_triplets(case: Case, stream: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Cuts a case's triplets from a row of token ids.

    Returns:
        For each triplet its id and, by member, `prompt` and `response`; the counterfactual's
        response is empty. No more tokens are shared than the case says.
    """
    rng = random.Random(f"{seed}/{case.name}")
    shared_tokens = min(round(case.share * case.length), case.length - 1)

    def cut(tokens: int) -> list[int]:
        start = rng.randrange(len(stream) - tokens)
        return list(stream[start : start + tokens])

    rows = []
    for number in range(case.count):
        shared = cut(shared_tokens)
        row: dict[str, Any] = {"id": f"{case.name}/{number}"}
        first: set[int] = set()
        for member in MEMBERS:
            own = cut(case.length - shared_tokens)
            while own[0] in first:
                own = cut(len(own))
            first.add(own[0])
            response = cut(RESPONSE_TOKENS) if member in SCORED else []
            row[member] = {"prompt": shared + own, "response": response}
        rows.append(row)
    return rows


def shared_share(row: dict[str, Any]) -> float:
    """Counts the part of a triplet's prompts that all three begin with."""
    prompts = [row[member]["prompt"] for member in MEMBERS]
    same = 0
    for tokens in zip(*prompts, strict=True):
        if len(set(tokens)) > 1:
            break
        same += 1
    return same / len(prompts[0])


def make_workload(
    cases: Iterable[Case], stream: Sequence[int], *, model: str, rank: int, seed: int
) -> dict[str, Any]:
    """Makes what is written to `workload.json`.

    Args:
        cases: Shapes.
        stream: Token ids to cut from.
        model: Folder of the model in transformers' format.
        rank: Of the adapters.
        seed: Decides what is cut.
    """
    made = {case.name: {**asdict(case), "triplets": make_triplets(case, stream, seed)}
            for case in cases}  # fmt: skip
    for each in made.values():
        counted = [shared_share(row) for row in each["triplets"]]
        each["counted_share"] = sum(counted) / len(counted)
    return {"model": model, "rank": rank, "seed": seed, "precision": "fp32", "cases": made}


def write_workload(folder: Path, workload: dict[str, Any]) -> None:
    """Writes the workload, and the weights that every variant starts from.

    The adapters' second matrices are random too: at zero they would not change the loss, and
    equal losses would say nothing about them.
    """
    import torch
    from safetensors.torch import save_file

    from llmcausal.config import LoraSection, ModelSection
    from llmcausal.losses.base import ProjectionHead
    from llmcausal.model.factory import load_model
    from llmcausal.model.lora import add_lora

    section = ModelSection(
        name=workload["model"], quantization="none", device="cpu", precision="fp32"
    )
    base = load_model(section).model
    model = add_lora(base, LoraSection(rank=workload["rank"]), seed=0)
    generator = torch.Generator().manual_seed(workload["seed"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.01, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder / ADAPTER)
    projection = ProjectionHead(base.config.hidden_size, 256, 128, seed=0)
    save_file(projection.state_dict(), folder / PROJECTION)
    (folder / WORKLOAD).write_text(json.dumps(workload), "utf-8")
