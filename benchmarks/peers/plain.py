"""Transformers and peft in a loop of one's own: three padded passes, or one batch of three rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import AutoModelForCausalLM

from benchmarks.peers.worker import MEMBERS, TAU, pad, serve


def load_projection(folder: Path) -> nn.Module:
    """Returns the projection head that every variant starts from."""
    weights = load_file(folder / "projection.safetensors")
    hidden, width = weights["input.weight"].shape
    out = weights["output.weight"].shape[0]
    head = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))
    names = {"input": "0", "output": "2"}
    renamed = {f"{names[n.split('.')[0]]}.{n.split('.')[1]}": w for n, w in weights.items()}
    head.load_state_dict(renamed)
    return head


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_peft(folder: Path, model: str, dtype: torch.dtype = torch.float32) -> PeftModel:
    """Returns the model with the adapters, in fp32, that every variant starts from."""
    base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="sdpa")
    base.config.use_cache = False
    return PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True)


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Makes one padded batch of members' `prompt` and `response`, three rows a triplet."""
    ids, visible = pad([row["prompt"] + row["response"] for row in rows])
    prompt, labels = torch.zeros_like(visible), torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        end = len(row["prompt"])
        prompt[number, :end] = 1
        labels[number, end : end + len(row["response"])] = torch.tensor(row["response"])
    return {"input_ids": ids, "attention_mask": visible, "prompt_mask": prompt, "labels": labels}


def members(triplets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lists the members of triplets in order."""
    return [triplet[name] for triplet in triplets for name in MEMBERS]


def answer_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns each row's mean cross-entropy over its labels; 0 for a row without [rows]."""
    losses = cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
    ).view(len(labels), -1)
    return losses.sum(1) / (labels != -100).sum(1).clamp(min=1)


def pool(hidden: Tensor, prompt: Tensor) -> Tensor:
    """Returns the mean hidden state of each row's prompt [rows, width]."""
    return (hidden * prompt[..., None]).sum(1) / prompt.sum(1, keepdim=True)


def contrast(representations: Tensor) -> Tensor:
    """Returns the contrast of each triplet [n] from three rows a triplet [3 n, out]."""
    benign, counterfactual, injection = representations.unflatten(0, (-1, 3)).unbind(1)
    near = cosine_similarity(benign, counterfactual, dim=-1)
    far = cosine_similarity(benign, injection, dim=-1)
    return 0.5 * (far - near) / TAU


class Plain:
    """The loop.

    Args:
        folder: Prepared by `step_workload`.
        workload: Its workload.
        options: `passes`: `three` or `one`.
    """

    def __init__(self, folder: Path, workload: dict[str, Any], options: dict[str, Any]) -> None:
        self.dtype = DTYPES[workload["precision"]]
        self.model = load_peft(folder, workload["model"], self.dtype).train()
        self.projection = load_projection(folder)
        self.modules = [self.model, self.projection]
        self.passes = options["passes"]

    def run(self, triplets: list[dict[str, Any]]) -> tuple[float, int]:
        """Goes forward and backward."""
        half = self.dtype != torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss, tokens = self._loss(triplets)
        loss.backward()
        return float(loss.detach()), tokens

    def _loss(self, triplets: list[dict[str, Any]]) -> tuple[Tensor, int]:
        if self.passes == "one":
            batches = [collate(members(triplets))]
        else:  # a pass for all triplets' members of one kind
            batches = [collate([triplet[name] for triplet in triplets]) for name in MEMBERS]
        pooled, answers = [], []
        for batch in batches:
            output = self.model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                output_hidden_states=True,
            )
            pooled.append(pool(output.hidden_states[-1].float(), batch["prompt_mask"]))
            answers.append(answer_losses(output.logits.float(), batch["labels"]))
        order = torch.arange(3 * len(triplets))
        if self.passes == "three":
            order = order.view(3, -1).T.flatten()  # of a triplet side by side
        rows = self.projection(torch.cat(pooled)[order])
        loss = contrast(rows).sum() + torch.cat(answers).sum()
        return loss, sum(batch["input_ids"].numel() for batch in batches)


if __name__ == "__main__":
    serve(Plain)
