"""sentence-transformers' cached contrast: another objective, without any answer scored.

`CachedMultipleNegativesRankingLoss` pools the mean hidden state of benign (anchor), counterfactual
(positive) and injection (negative), a member of all triplets at a time as in GradCache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

from benchmarks.peers.worker import MEMBERS, TAU, pad, serve

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class SentenceTransformers:
    """Loss and backward as its trainer calls them.

    Args:
        folder: Prepared by `step_workload`.
        workload: Its workload.
        options: None.
    """

    def __init__(self, folder: Path, workload: dict[str, Any], options: dict[str, Any]) -> None:
        self.model = SentenceTransformer(
            workload["model"], device="cpu", model_kwargs={"dtype": torch.float32}
        )
        rank = workload["rank"]
        self.model.add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS))
        self.model.train()
        self.loss = CachedMultipleNegativesRankingLoss(self.model, scale=1 / TAU, mini_batch_size=1)
        self.modules = [self.model]

    def run(self, triplets: list[dict[str, Any]]) -> tuple[float, int]:
        """Goes forward and backward."""
        features, tokens = [], 0
        for name in MEMBERS:
            ids, visible = pad([triplet[name]["prompt"] for triplet in triplets])
            features.append({"input_ids": ids, "attention_mask": visible})
            tokens += ids.numel()
        loss = self.loss(features, torch.zeros(len(triplets), dtype=torch.long))
        loss.backward()
        return float(loss.detach()), tokens


if __name__ == "__main__":
    serve(SentenceTransformers)
