"""TRL's SFTTrainer with the loss in `compute_loss`, as its documentation has a custom loss written.

What is timed is the trainer's own micro-batch: its data collator and `training_step`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from benchmarks.peers.plain import (
    answer_losses,
    collate,
    contrast,
    load_peft,
    load_projection,
    members,
    pool,
)
from benchmarks.peers.worker import serve


class TripletTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer whose batches are three rows a triplet."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        """Returns the triplets' mean loss."""
        output = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            output_hidden_states=True,
        )
        rows = model.projection(pool(output.hidden_states[-1], inputs["prompt_mask"]))
        answers = answer_losses(output.logits, inputs["labels"]).view(-1, 3).sum(1)
        return (contrast(rows) + answers).mean()


class Trl:
    """The trainer, one micro-batch at a time.

    Args:
        folder: Prepared by `step_workload`.
        workload: Its workload.
        options: `checkpointing`: whether layers are recomputed, as TRL does unless told.
    """

    def __init__(self, folder: Path, workload: dict[str, Any], options: dict[str, Any]) -> None:
        model = load_peft(folder, workload["model"])
        model.projection = load_projection(folder)
        arguments = SFTConfig(
            output_dir=tempfile.mkdtemp(prefix="benchmark-trl-"),
            use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
            gradient_checkpointing=options["checkpointing"],
            per_device_train_batch_size=1, remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )  # fmt: skip
        self.trainer = TripletTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list([{"input_ids": [0]}]),
            processing_class=AutoTokenizer.from_pretrained(workload["model"]),
            data_collator=lambda triplets: collate(members(triplets)),
        )
        self.model = self.trainer.accelerator.prepare_model(self.trainer.model)
        self.modules = [self.trainer.model]
        # As `train` does before its first step.
        self.trainer.current_gradient_accumulation_steps = 1
        if options["checkpointing"]:
            self.trainer.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs=arguments.gradient_checkpointing_kwargs
            )

    def run(self, triplets: list[dict[str, Any]]) -> tuple[float, int]:
        """Goes forward and backward."""
        inputs = self.trainer.data_collator(triplets)
        loss = self.trainer.training_step(self.model, inputs)
        return float(loss) * len(triplets), inputs["input_ids"].numel()


if __name__ == "__main__":
    serve(Trl)
