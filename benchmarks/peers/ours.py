"""The production step, with the switches of a memory strategy."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from benchmarks.peers.worker import MEMBERS, serve
from llmcausal.config import RunConfig
from llmcausal.data.tokenization import EncodedMember, EncodedTriplet
from llmcausal.memory.strategies import STRATEGIES
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.factory import load_model
from llmcausal.train.batch import collate, label_totals
from llmcausal.train.build import build_adapters, build_step


def encoded(row: dict[str, Any]) -> EncodedTriplet:
    """Turns a triplet of the workload into the program's own record."""
    members = (
        EncodedMember(tuple(row[name]["prompt"]), tuple(row[name]["response"])) for name in MEMBERS
    )
    return EncodedTriplet(row["id"], *members)


class Ours:
    """The step as training runs it.

    Args:
        folder: Prepared by `step_workload`.
        workload: Its workload.
        options: `strategy`, and `unpack`: whether `model.unpack_on_cpu` is on.
    """

    def __init__(self, folder: Path, workload: dict[str, Any], options: dict[str, Any]) -> None:
        config = RunConfig.model_validate(
            {
                "model": {
                    "name": workload["model"], "quantization": "none", "device": "cpu",
                    "precision": workload["precision"],
                },
                "memory": {"strategy": "manual", **STRATEGIES[options["strategy"]]},
                "lora": {"rank": workload["rank"]},
                # The others' contrast trains their models too.
                "loss": {"contrast_gradient": "model"},
            }
        )  # fmt: skip
        loaded = load_model(config.model, config.memory)
        model = build_adapters(config, loaded)
        set_peft_model_state_dict(model, load_file(folder / "adapter/adapter_model.safetensors"))
        self.step = build_step(config, loaded, model)
        projection = self.step.objective.projection
        assert projection is not None
        projection.load_state_dict(load_file(folder / "projection.safetensors"))
        self.modules = [model.train(), projection]
        self.switches = ExitStack()
        if options["unpack"]:
            assert self.switches.enter_context(whole_layers(model))

    def run(self, triplets: list[dict[str, Any]]) -> tuple[float, int]:
        """Goes forward and backward."""
        needs = self.step.objective.needs
        batch = collate([encoded(row) for row in triplets], needs, "mean")
        # Answers have one length: the sum of the triplets' losses is a mean over all labels.
        totals = {name: count // len(triplets) for name, count in label_totals([batch]).items()}
        result = self.step(batch, totals, lambda loss: loss.backward())
        tokens = len(batch.tokens)
        if self.step.execution.members == "one_by_one":  # each but the benign one is run twice
            tokens = sum(len(span.tokens) for span in batch.spans)
        return float(result.loss), tokens


if __name__ == "__main__":
    serve(Ours)
