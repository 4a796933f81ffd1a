"""litgpt's LoRA fine-tuning on the benign member alone: it has no place for the other members.

The parts are those of `litgpt finetune_lora`: its converted checkpoint, its GPT with adapters on
every projection, its `chunked_cross_entropy` on the logits of all positions, backward.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from litgpt.lora import GPT, Config, mark_only_lora_as_trainable
from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
from litgpt.utils import chunked_cross_entropy

from benchmarks.peers.worker import serve

CONFIG = "SmolLM2-135M-Instruct"


def converted(folder: Path, model: str) -> Path:
    """Returns litgpt's checkpoint of a model in transformers' format, made the first time."""
    made = folder / "litgpt"
    if not (made / "lit_model.pth").exists():
        made.mkdir()
        for file in Path(model).iterdir():
            (made / file.name).symlink_to(file)
        convert_hf_checkpoint(made, model_name=CONFIG)
    return made / "lit_model.pth"


class LitGpt:
    """The loop's micro-batch.

    Args:
        folder: Prepared by `step_workload`.
        workload: Its workload.
        options: None.
    """

    def __init__(self, folder: Path, workload: dict[str, Any], options: dict[str, Any]) -> None:
        places = ("query", "key", "value", "projection", "mlp")
        rank = workload["rank"]
        config = Config.from_name(
            CONFIG, lora_r=rank, lora_alpha=2 * rank, **{f"lora_{place}": True for place in places}
        )
        self.model = GPT(config)
        weights = torch.load(converted(folder, workload["model"]), weights_only=True)
        self.model.load_state_dict(weights.get("model", weights), strict=False)
        mark_only_lora_as_trainable(self.model)
        self.modules = [self.model.float().train()]

    def run(self, triplets: list[dict[str, Any]]) -> tuple[float, int]:
        """Goes forward and backward."""
        rows = [triplet["benign"]["prompt"] + triplet["benign"]["response"] for triplet in triplets]
        ids = torch.tensor(rows)  # the benign members of a case are of one length
        labels = ids.clone()
        for number, triplet in enumerate(triplets):
            labels[number, : len(triplet["benign"]["prompt"])] = -100
        logits = self.model(ids, lm_head_chunk_size=128)
        logits[-1] = logits[-1][..., :-1, :]
        loss = chunked_cross_entropy(logits, labels[..., 1:])
        loss.backward()
        return float(loss.detach()), ids.numel()


if __name__ == "__main__":
    serve(LitGpt)
