"""Every switch of `[memory]`, alone and together, against the plain step: loss and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmcausal.config import LossSection, MemorySection
from llmcausal.losses.base import ProjectionHead
from llmcausal.losses.contrastive import CausalContrastive, InfoNCE
from llmcausal.model.trunk import find_trunk
from llmcausal.train.batch import collate, label_totals
from llmcausal.train.build import build_execution, set_memory
from llmcausal.train.objective import Objective, StepResult
from llmcausal.train.step import TripletStep

CPU = torch.device("cpu")
BOUNDS = {torch.float64: 1e-7, torch.float32: 1e-5}
LEANEST = {
    "activations": "offload",
    "embeddings": "host",
    "head": "host",
    "token_chunk": 7,
    "vocabulary_chunk": 13,
    "label_chunk": 3,
}
SWITCHES: list[dict[str, Any]] = [
    {"activations": "recompute"},
    {"activations": "offload"},
    {"embeddings": "host"},
    {"head": "host", "vocabulary_chunk": 13, "label_chunk": 3},
    {"embeddings": "host", "head": "host", "vocabulary_chunk": 40},
    {"token_chunk": 5},
    {"members": "one_by_one"},
    LEANEST,
    {**LEANEST, "members": "one_by_one"},
    {"activations": "recompute", "kept_layers": 2},
    {**LEANEST, "kept_layers": 1},
]


class LearnedScale(InfoNCE):
    """A loss with its own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, representations: Any) -> Tensor:
        return self.scale * super().forward(representations)


def memory(switches: dict[str, Any]) -> MemorySection:
    return MemorySection(**{"strategy": "manual", "activations": "keep", **switches})


def gradients_of(
    model: Any,
    triplets: Sequence[Any],
    switches: dict[str, Any],
    *,
    layer: int = -1,
    pooling: str = "mean",
    loss: type[Any] = CausalContrastive,
    lambdas: dict[str, float] | None = None,
    scale: float = 1.0,
) -> tuple[StepResult, Tensor]:
    """Runs one step under the switches, with the same seed."""
    dtype = next(model.parameters()).dtype
    projection = ProjectionHead(model.config.hidden_size, 24, 12, seed=1).to(dtype)
    contrastive = loss().to(dtype)
    set_memory(model, memory(switches), CPU)
    given = lambdas or {"task": 1.0, "robust": 2.0}
    section = LossSection(
        lambda_contrastive=0.5,
        lambda_task=given.get("task", 0.0),
        lambda_robust=given.get("robust", 0.0),
        layer=layer,
    )
    objective = Objective(section, contrastive, projection)
    step = TripletStep(
        find_trunk(model), objective, build_execution(memory(switches), torch.float32)
    )
    batch = collate(triplets, objective.needs, pooling)  # type: ignore[arg-type]
    torch.manual_seed(11)
    result = step(batch, label_totals([batch]), lambda part: (scale * part).backward())
    assert not result.loss.requires_grad
    trained = [p for p in model.parameters() if p.requires_grad]
    trained += [*projection.parameters(), *contrastive.parameters()]
    return result, torch.cat([p.grad.flatten() for p in trained if p.grad is not None])


def assert_alike(found: Any, wanted: Any, bound: float) -> None:
    result, gradient = found
    expected, reference = wanted
    assert gradient.shape == reference.shape
    assert float((gradient - reference).norm() / reference.norm()) < bound
    assert result.counts == expected.counts
    for name, value in expected.sums.items():
        tolerance = bound * max(1.0, abs(float(value)))
        assert float(result.sums[name]) == pytest.approx(float(value), abs=tolerance), name
    assert float(result.loss) == pytest.approx(float(expected.loss), rel=bound)


def plain(switches: dict[str, Any]) -> dict[str, Any]:
    """The plain path over the same members; `test_step` compares tree and separate."""
    return {"members": "tree" if switches.get("members") == "tree" else "separate"}


@pytest.mark.parametrize(
    ("kind", "switches"),
    [
        *(("llama", switches) for switches in SWITCHES),
        # The others differ in the head and in attention; any combination of them is below.
        *((kind, switches) for kind in ("llama_tied", "gemma2") for switches in SWITCHES[3:5]),
        *((kind, switches) for kind in ("llama_tied", "gemma2") for switches in SWITCHES[7:]),
    ],
    ids=str,
)
def test_every_switch_is_exact(
    kind: str, switches: dict[str, Any], random_model: Any, token_triplets: Any
) -> None:
    triplets = token_triplets(2, shared=8, own=8, seed=5)
    switches = {"members": "separate", **switches}
    for dtype, bound in BOUNDS.items():
        wanted = gradients_of(random_model(kind, dtype), triplets, plain(switches))
        found = gradients_of(random_model(kind, dtype), triplets, switches)
        assert_alike(found, wanted, bound)


@settings(max_examples=12)
@given(
    kind=st.sampled_from(["llama", "llama_tied", "gemma2"]),
    switches=st.fixed_dictionaries(
        {
            "members": st.sampled_from(["tree", "separate", "one_by_one"]),
            "activations": st.sampled_from(["keep", "recompute", "offload"]),
            "kept_layers": st.integers(0, 4),
            "embeddings": st.sampled_from(["device", "host"]),
            "head": st.sampled_from(["device", "host"]),
            "token_chunk": st.integers(0, 30),
            "vocabulary_chunk": st.integers(1, 100),
            "label_chunk": st.integers(1, 20),
        }
    ),
    shared=st.integers(0, 20),
    own=st.integers(1, 20),
    count=st.integers(1, 3),
    pooling=st.sampled_from(["mean", "last", "suffix"]),
    layer=st.integers(-1, 3),
    dtype=st.sampled_from([*BOUNDS]),
    seed=st.integers(0, 10_000),
)
def test_any_combination_is_exact(
    random_model: Any, token_triplets: Any, kind: str, switches: dict[str, Any], shared: int,
    own: int, count: int, pooling: str, layer: int, dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    triplets = token_triplets(count, shared=shared, own=own, seed=seed)
    how: dict[str, Any] = {"pooling": pooling, "layer": layer}
    wanted = gradients_of(random_model(kind, dtype, seed), triplets, plain(switches), **how)
    found = gradients_of(random_model(kind, dtype, seed), triplets, switches, **how)
    assert_alike(found, wanted, BOUNDS[dtype])


@pytest.mark.parametrize("activations", ["keep", "offload"])
def test_one_by_one_repeats_the_masks_of_dropout(
    activations: str, random_model: Any, token_triplets: Any
) -> None:
    """Also with a scaled loss, as in fp16."""
    triplets = token_triplets(2, shared=6, own=6, seed=3)
    found = {}
    for members in ("separate", "one_by_one"):
        model = random_model("llama", torch.float64)
        for layer in model.modules():
            if hasattr(layer, "lora_dropout"):
                layer.lora_dropout["default"] = torch.nn.Dropout(0.3)
        switches = {"members": members, "activations": activations, "token_chunk": 4}
        result = gradients_of(model, triplets, switches, scale=1024.0, loss=LearnedScale)
        found[members] = (*result, torch.rand(1))
    assert_alike(found["one_by_one"][:2], found["separate"][:2], 1e-10)
    assert torch.equal(found["one_by_one"][2], found["separate"][2])
    without = gradients_of(random_model("llama", torch.float64), triplets, {"members": "tree"})
    assert float(without[0].loss) != pytest.approx(float(found["separate"][0].loss), rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "lambdas"),
    [
        (lambda: CausalContrastive(lambda_spurious=0), {"robust": 1.0}),  # injection: only scored
        (lambda: CausalContrastive(lambda_causal=0), {}),  # nothing scored
        (LearnedScale, {"task": 1.0}),
    ],
)
def test_one_by_one_with_members_left_out(
    loss: Any, lambdas: dict[str, float], random_model: Any, token_triplets: Any
) -> None:
    triplets = token_triplets(3, shared=6, own=6, seed=4)
    lambdas = lambdas or {"task": 0.0}
    wanted, found = (
        gradients_of(
            random_model("llama", torch.float64), triplets, {"members": members},
            loss=loss, lambdas=lambdas,
        )
        for members in ("separate", "one_by_one")
    )  # fmt: skip
    assert_alike(found, wanted, 1e-10)


def test_one_member_has_a_graph_at_a_time(random_model: Any, token_triplets: Any) -> None:
    """Tensors saved for backward while a member is computed must be that member's."""
    triplets = token_triplets(2, shared=6, own=6, seed=4)
    peaks = {}
    for members in ("separate", "one_by_one"):
        alive, peak = 0, 0

        class Saved:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal alive, peak
                self.tensor = tensor.detach()
                alive += tensor.numel()
                peak = max(peak, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= self.tensor.numel()

        model = random_model("llama", torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            gradients_of(model, triplets, {"members": members})
        peaks[members] = peak
    assert peaks["one_by_one"] < 0.3 * peaks["separate"]  # one of six


def test_nf4_is_exact_too(tmp_path: Any, tiny_llama: Any, chatml_tokenizer: Any) -> None:
    from llmcausal.config import LoraSection, ModelSection
    from llmcausal.data.tokenization import EncodedMember, EncodedTriplet
    from llmcausal.model.factory import load_model
    from llmcausal.model.lora import add_lora

    tiny_llama(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    chatml_tokenizer.save_pretrained(tmp_path)
    section = ModelSection(name=str(tmp_path), device="cpu", precision="fp32")
    shared = tuple(range(20, 30))
    triplets = [
        EncodedTriplet(
            "0",
            EncodedMember((*shared, 40, 41, 42), (50, 51)),
            EncodedMember((*shared, 43, 44), ()),
            EncodedMember((*shared, 40, 45, 46, 47), (50, 52, 53)),
        )
    ]

    def run(switches: dict[str, Any]) -> tuple[StepResult, Tensor]:
        loaded = load_model(section, memory(switches))
        model = add_lora(loaded.model, LoraSection(rank=4), seed=0).train()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.manual_seed(len(name))
                torch.nn.init.normal_(parameter, std=0.05)
        return gradients_of(model, triplets, switches)

    wanted = run({"members": "separate"})
    for switches in ({"members": "separate", **LEANEST}, {**LEANEST, "members": "one_by_one"}):
        assert_alike(run(switches), wanted, BOUNDS[torch.float32])
