"""Gradients of the tree against separate passes with full logits, written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from llmcausal.config import LossSection
from llmcausal.losses.base import ContrastiveLoss, ProjectionHead
from llmcausal.losses.contrastive import CausalContrastive, InfoNCE, TripletMargin
from llmcausal.model.trunk import find_trunk
from llmcausal.train.batch import collate, label_totals
from llmcausal.train.objective import Execution, Objective
from llmcausal.train.step import TripletStep

TAU = 0.07
LOSSES: dict[str, Callable[[], ContrastiveLoss]] = {
    "causal_contrastive": CausalContrastive,
    "hinged": lambda: CausalContrastive(stability_target=0.999, separation_target=0.5),
    "info_nce": InfoNCE,
    "triplet_margin": lambda: TripletMargin(margin=1.5),
}


def contrast_by_hand(name: str, b: Tensor, cf: Tensor, i: Tensor) -> Tensor:
    """The formulas of docs/objective.md, one loss per triplet."""
    near, far = cosine_similarity(b, cf, dim=-1), cosine_similarity(b, i, dim=-1)
    if name == "causal_contrastive":
        return 0.5 * -near / TAU + 0.5 * far / TAU
    if name == "hinged":
        return (
            0.5 * -torch.minimum(near, near.new_tensor(0.999)) / TAU
            + 0.5 * torch.maximum(far, far.new_tensor(0.5)) / TAU
        )
    if name == "triplet_margin":
        return (far - near + 1.5).clamp(min=0)
    negatives = cosine_similarity(b[:, None], i[None], dim=-1)
    return -(near / TAU - torch.log(torch.exp(near / TAU) + torch.exp(negatives / TAU).sum(1)))


def loss_by_hand(
    model: Any, projection: Any, name: str, triplets: Sequence[Any], pooling: str
) -> Tensor:
    """Three separate forward passes a triplet, full logits, labels of -100 on the prompt."""
    rows: dict[str, list[Tensor]] = {"benign": [], "benign_cf": [], "injection": []}
    task: list[Tensor] = []
    robust: list[Tensor] = []
    for triplet in triplets:
        prompts = [triplet.benign.prompt, triplet.benign_cf.prompt, triplet.injection.prompt]
        common = 0
        while all(len(p) > common for p in prompts) and len({p[common] for p in prompts}) == 1:
            common += 1
        for key in rows:
            member = getattr(triplet, key)
            ids = torch.tensor([member.prompt + member.response])
            out = model(input_ids=ids, output_hidden_states=True, use_cache=False)
            labels = torch.tensor([[-100] * len(member.prompt) + list(member.response)])
            if member.response:
                losses = cross_entropy(out.logits[0, :-1], labels[0, 1:], reduction="none")
                (task if key == "benign" else robust).append(losses[len(member.prompt) - 1 :])
            n = len(member.prompt)
            start = {"mean": 0, "last": n - 1, "suffix": min(common, n - 1)}[pooling]
            rows[key].append(out.hidden_states[-1][0, start:n].mean(0))
    pooled = {key: torch.stack(values) for key, values in rows.items()}
    b, cf, i = (projection(pooled[key]) if projection else pooled[key] for key in pooled)
    contrast = contrast_by_hand(name, b, cf, i).mean()
    return contrast + torch.cat(task).mean() + torch.cat(robust).mean()


def gradients(parameters: Sequence[Tensor]) -> Tensor:
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def compare(
    model: Any,
    name: str,
    triplets: Sequence[Any],
    *,
    pooling: str = "mean",
    micro_batch: int | None = None,
    projected: bool = True,
    members: str = "tree",
) -> tuple[float, float]:
    """Returns the relative errors of loss and gradient."""
    dtype = next(model.parameters()).dtype
    projection = (
        ProjectionHead(model.config.hidden_size, 24, 12, seed=1).to(dtype) if projected else None
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    parameters += list(projection.parameters()) if projection else []
    expected_loss = loss_by_hand(model, projection, name, triplets, pooling)
    expected_loss.backward()
    expected = gradients(parameters).clone()
    for parameter in parameters:
        parameter.grad = None
    objective = Objective(LossSection(), LOSSES[name](), projection)
    execution = Execution(members, label_chunk=3)  # type: ignore[arg-type]
    step = TripletStep(find_trunk(model), objective, execution)
    size = micro_batch or len(triplets)
    batches = [
        collate(triplets[start : start + size], objective.needs, pooling)  # type: ignore[arg-type]
        for start in range(0, len(triplets), size)
    ]
    totals = label_totals(batches)
    losses = [step(batch, totals).loss for batch in batches]
    for loss in losses:
        loss.backward()
    total = sum(loss.item() for loss in losses)
    loss_error = abs(total - expected_loss.item()) / max(1.0, abs(expected_loss.item()))
    return loss_error, relative_error(gradients(parameters), expected)


@pytest.mark.parametrize("members", ["tree", "separate"])
@pytest.mark.parametrize("pooling", ["mean", "last", "suffix"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_the_reference(
    name: str, pooling: str, members: str, random_model: Any, token_triplets: Any
) -> None:
    """With transformers' own fp32 norms, which limit the precision (see `random_model`)."""
    triplets = token_triplets(3, shared=12, own=8, seed=5)
    model = random_model("llama", torch.float64, hidden_size=128, intermediate_size=352)
    errors = compare(model, name, triplets, pooling=pooling, members=members)
    assert max(errors) < 1e-7


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    share=st.floats(0.0, 0.95),
    count=st.integers(1, 4),
    micro_batch=st.integers(1, 4),
    pooling=st.sampled_from(["mean", "last", "suffix"]),
    projected=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_any_sharing_batching_and_accumulation(
    random_model: Any,
    token_triplets: Any,
    name: str,
    share: float,
    count: int,
    micro_batch: int,
    pooling: str,
    projected: bool,
    seed: int,
) -> None:
    total = 40
    shared = round(share * total)
    triplets = token_triplets(count, shared=shared, own=max(1, total - shared), seed=seed)
    if name == "info_nce":  # its negatives are those of the micro-batch
        micro_batch = count
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 5e-5)):
        errors = compare(
            random_model("llama", dtype, seed, exact_norms=dtype == torch.float64),
            name,
            triplets,
            pooling=pooling,
            micro_batch=micro_batch,
            projected=projected,
        )
        assert max(errors) < bound, (dtype, errors)


@pytest.mark.parametrize(
    "kind", ["llama_tied", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"]
)
def test_other_architectures(kind: str, random_model: Any, token_triplets: Any) -> None:
    """Sliding windows shorter than the sequences, soft-capped logits, eager masks, tied heads."""
    triplets = token_triplets(2, shared=14, own=9, seed=2)
    errors = compare(random_model(kind, torch.float64), "causal_contrastive", triplets)
    assert max(errors) < 1e-6  # fp32 norms and, in Gemma 2, an fp32 softmax inside


@pytest.mark.parametrize("attention", ["llmcausal_tree", "sdpa", "eager"])
def test_every_attention_is_exact(attention: str, random_model: Any, token_triplets: Any) -> None:
    triplets = token_triplets(3, shared=14, own=9, seed=2)
    model = random_model("llama", torch.float64, exact_norms=True, attention=attention)
    bound = 1e-10 if attention != "eager" else 1e-6  # its softmax is fp32
    assert max(compare(model, "causal_contrastive", triplets)) < bound


def test_checkpointing_changes_nothing(random_model: Any, token_triplets: Any) -> None:
    triplets = token_triplets(2, shared=10, own=6, seed=3)
    model = random_model("llama", torch.float64, exact_norms=True)
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    assert max(compare(model, "causal_contrastive", triplets)) < 1e-10


def test_zero_weights_cost_nothing(token_triplets: Any) -> None:
    """Members that no term reads are not in the tree."""
    triplets = token_triplets(2, shared=10, own=6, seed=4)

    def nodes(objective: Objective) -> int:
        return len(collate(triplets, objective.needs, "mean").tokens)

    whole = nodes(Objective(LossSection(), CausalContrastive()))
    without_contrast = nodes(Objective(LossSection(lambda_contrastive=0), CausalContrastive()))
    no_push = Objective(LossSection(lambda_robust=0), CausalContrastive(lambda_spurious=0))
    only_task = nodes(Objective(LossSection(lambda_robust=0)))
    assert whole > without_contrast > only_task
    assert only_task == len(
        set().union(
            *(
                {sequence[:end] for end in range(1, len(sequence) + 1)}
                for sequence in (t.benign.prompt + t.benign.response for t in triplets)
            )
        )
    )
    assert "injection" not in {
        span.member for span in collate(triplets, no_push.needs, "mean").spans
    }


def test_layer_choice_reads_that_layer(random_model: Any, token_triplets: Any) -> None:
    """The contrast on layer 1 gives no gradient to layers above it."""
    triplets = token_triplets(2, shared=4, own=6, seed=6)
    model = random_model("llama", torch.float64)
    objective = Objective(LossSection(lambda_task=0, lambda_robust=0, layer=1), CausalContrastive())
    step = TripletStep(find_trunk(model), objective)
    batch = collate(triplets, objective.needs, "mean")
    step(batch, label_totals([batch])).loss.backward()
    touched = {
        name.split(".layers.")[1].split(".")[0]
        for name, p in model.named_parameters()
        if p.grad is not None and float(p.grad.abs().max()) > 0
    }
    assert touched == {"0"}


def test_figures_are_the_definitions(random_model: Any, token_triplets: Any) -> None:
    triplets = token_triplets(3, shared=4, own=6, seed=7)
    model = random_model("llama", torch.float64).eval()
    objective = Objective(LossSection(lambda_robust=2), CausalContrastive())
    step = TripletStep(find_trunk(model), objective)
    batch = collate(triplets, objective.needs, "mean")
    with torch.no_grad():
        result = step(batch, label_totals([batch]))
        pooled = step.representations(batch, objective.needs)
    mean = {name: float(result.sums[name]) / result.counts[name] for name in result.sums}
    near = cosine_similarity(pooled["benign"], pooled["benign_cf"]).mean()
    far = cosine_similarity(pooled["benign"], pooled["injection"]).mean()
    assert math.isclose(mean["causal_stability"], float(near), rel_tol=1e-9)
    assert math.isclose(mean["spurious_separation"], float(1 - far), rel_tol=1e-9)
    assert math.isclose(mean["causal_discrimination"], float(near - far), abs_tol=1e-12)
    whole = mean["contrastive_loss"] + mean["task_loss"] + 2 * mean["robust_loss"]
    assert math.isclose(float(result.loss), whole, rel_tol=1e-9)
