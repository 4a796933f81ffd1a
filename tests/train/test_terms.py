"""Swap, preference, invariance and state against separate passes with all logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, logsigmoid, normalize

from llmcausal.config import LossSection, MemorySection
from llmcausal.data.tokenization import EncodedMember, EncodedTriplet
from llmcausal.errors import ModelError
from llmcausal.losses.comparisons import divergence, middle_layers
from llmcausal.losses.contrastive import CausalContrastive
from llmcausal.losses.cross_entropy import OutputHead
from llmcausal.model.trunk import Trunk, check_takes_embeddings, find_trunk
from llmcausal.train.batch import FIRST_TOKENS, FIRST_WEIGHT, answer_weights, collate, label_totals
from llmcausal.train.build import build_execution, set_memory
from llmcausal.train.objective import Execution, Objective
from llmcausal.train.step import TripletStep

BETA, SWAP, PREFERENCE, INVARIANCE, STATE = 1.7, 0.8, 0.6, 0.4, 0.7
MIDDLE = (1, 2)
"""Of the three layers of `random_model`."""
LOSS = LossSection(
    lambda_robust=2.0,
    lambda_swap=SWAP,
    lambda_preference=PREFERENCE,
    preference_beta=BETA,
    lambda_invariance=INVARIANCE,
    lambda_state=STATE,
)
OBJECTIVE = Objective(LOSS)


def swapped(triplets: Sequence[EncodedTriplet], *, without: int = -1) -> list[EncodedTriplet]:
    """Gives triplets an obeying and a yielding answer; one of them has none."""
    made = []
    for row, triplet in enumerate(triplets):
        if row == without:
            made.append(triplet)
            continue
        answer = tuple((7 * row + step) % 50 + 3 for step in range(3 + row))
        made.append(
            replace(
                triplet,
                obeying=EncodedMember(triplet.benign_cf.prompt[::-1], answer),
                yielding=EncodedMember(triplet.injection.prompt, answer),
                reference=(1.5 + 0.1 * row, 2.5 - 0.2 * row),
            )
        )
    return made


def alike(triplets: Sequence[EncodedTriplet], *, but: int = -1) -> list[EncodedTriplet]:
    """Gives both prompts the same right answer, except in one triplet."""
    return [
        triplet
        if row == but
        else replace(
            triplet,
            injection=EncodedMember(triplet.injection.prompt, triplet.benign.response),
        )
        for row, triplet in enumerate(triplets)
    ]


def by_hand(model: Any, triplets: Sequence[EncodedTriplet], loss: LossSection) -> Tensor:
    """The formula, one pass and all logits for every answer; a term of weight 0 has no pass."""
    task, robust, swap, pairs, kept, moved = [], [], [], [], [], []

    def weighted(values: Tensor) -> Tensor:
        weight = torch.ones_like(values)
        weight[:FIRST_TOKENS] = FIRST_WEIGHT
        return (weight * values).sum() / weight.sum()

    def mean(answers: Sequence[Tensor]) -> Tensor:
        if loss.average == "answers":
            return torch.stack([weighted(values) for values in answers]).mean()
        return torch.cat([*answers]).mean()

    def logits_of(member: EncodedMember) -> Tensor:
        ids = torch.tensor([member.prompt + member.response])
        rows = model(input_ids=ids, use_cache=False).logits[0]
        return rows[len(member.prompt) - 1 : -1].to(torch.promote_types(rows.dtype, torch.float32))

    def middle_of(member: EncodedMember) -> list[Tensor]:
        ids = torch.tensor([member.prompt + member.response])
        states = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        return [states[layer][0, len(member.prompt) - 1 : -1] for layer in MIDDLE]

    def losses(member: EncodedMember) -> Tensor:
        return cross_entropy(logits_of(member), torch.tensor(member.response), reduction="none")

    for triplet in triplets:
        task.append(losses(triplet.benign))
        robust.append(losses(triplet.injection))
        if triplet.obeying is not None and loss.lambda_swap:
            swap.append(losses(triplet.obeying))
        if triplet.yielding is not None and loss.lambda_preference:
            assert triplet.reference is not None
            obeyed = losses(triplet.yielding)
            sums = loss.preference_ratio == "sum"
            lengths = (len(robust[-1]), len(obeyed)) if sums else (1, 1)
            gain = lengths[0] * (triplet.reference[0] - robust[-1].mean())
            gain = gain - lengths[1] * (triplet.reference[1] - obeyed.mean())
            pairs.append(-logsigmoid(loss.preference_beta * gain))
        if triplet.benign.response != triplet.injection.response:
            continue
        if loss.lambda_invariance:
            clean = log_softmax(logits_of(triplet.benign), -1).detach()
            attacked = log_softmax(logits_of(triplet.injection), -1)
            each = kl_div(attacked, clean, reduction="none", log_target=True).sum(-1)
            kept.append(weighted(each))
        if loss.lambda_state:
            for clean, attacked in zip(
                middle_of(triplet.benign), middle_of(triplet.injection), strict=True
            ):
                aim = clean.detach()
                apart = (attacked - aim).norm(dim=-1) ** 2 / aim.norm(dim=-1) ** 2
                moved.append(weighted(apart))
    total = loss.lambda_task * mean(task) + loss.lambda_robust * mean(robust)
    if swap:
        total = total + loss.lambda_swap * mean(swap)
    for weight, values in (
        (loss.lambda_preference, pairs),
        (loss.lambda_invariance, kept),
        (loss.lambda_state, moved),
    ):
        if values:
            total = total + weight * torch.stack(values).mean()
    return total


def gradients(model: Any) -> Tensor:
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    for parameter in model.parameters():
        parameter.grad = None
    return torch.cat(found)


@pytest.mark.parametrize("members", ["tree", "separate", "one_by_one"])
@pytest.mark.parametrize(
    ("size", "by_answer", "sums"),
    [(4, False, False), (1, False, True), (1, True, False), (4, True, True)],
)
def test_every_term_equals_the_formula(
    members: Any, size: int, by_answer: bool, sums: bool, random_model: Any, token_triplets: Any
) -> None:
    """Also cut into micro-batches, some of which lack a member."""
    triplets = alike(swapped(token_triplets(4, shared=9, own=6, seed=1), without=2), but=1)
    model = random_model("llama", torch.float64, exact_norms=True)
    average, ratio = "answers" if by_answer else "tokens", "sum" if sums else "mean"
    loss = LOSS.model_copy(update={"average": average, "preference_ratio": ratio})
    expected = by_hand(model, triplets, loss)
    expected.backward()
    reference = gradients(model).clone()
    objective = Objective(loss)
    step = TripletStep(find_trunk(model), objective, Execution(members, label_chunk=3))
    batches = [
        collate(triplets[start : start + size], OBJECTIVE.needs, "last")
        for start in range(0, len(triplets), size)
    ]
    totals = label_totals(batches)
    found = sum(step(batch, totals, torch.Tensor.backward).loss.item() for batch in batches)
    assert abs(found - expected.item()) < 1e-10
    assert (gradients(model) - reference).norm() / reference.norm() < 1e-9


@pytest.mark.parametrize("activations", ["recompute", "offload"])
@pytest.mark.parametrize("members", ["tree", "separate", "one_by_one"])
def test_every_term_is_the_same_where_layers_are_recomputed(
    members: Any, activations: str, random_model: Any, token_triplets: Any
) -> None:
    triplets = alike(swapped(token_triplets(3, shared=9, own=6, seed=5)), but=1)
    model = random_model("llama", torch.float64, exact_norms=True)
    by_hand(model, triplets, LOSS).backward()
    reference = gradients(model).clone()
    switches: dict[str, Any] = {"head": "host", "vocabulary_chunk": 13, "token_chunk": 7}
    memory = MemorySection(strategy="manual", members=members, activations=activations, **switches)
    set_memory(model, memory, torch.device("cpu"))
    step = TripletStep(find_trunk(model), OBJECTIVE, build_execution(memory, torch.float32))
    batch = collate(triplets, OBJECTIVE.needs, "last")
    step(batch, label_totals([batch]), torch.Tensor.backward)
    assert (gradients(model) - reference).norm() / reference.norm() < 1e-9


@contextmanager
def shifted(model: Any, by: Mapping[tuple[int, ...], tuple[int, Tensor]]) -> Iterator[None]:
    """Adds to the embeddings of the prompts in `by`, from a place on."""

    def add(_module: Any, given: tuple[Tensor], rows: Tensor) -> Tensor:
        for prompt, (start, shift) in by.items():
            if tuple(given[0][0, : len(prompt)].tolist()) == prompt:
                before, after = start, rows.shape[1] - start - len(shift)
                rows = rows + torch.nn.functional.pad(shift, (0, 0, before, after))
        return rows

    with model.get_input_embeddings().register_forward_hook(add):
        yield


@pytest.mark.parametrize("activations", ["keep", "recompute", "offload"])
@pytest.mark.parametrize("members", ["tree", "separate", "one_by_one"])
def test_adversary_equals_the_formula(
    members: Any, activations: str, random_model: Any, token_triplets: Any
) -> None:
    """Injected tokens move to where the terms that read injections rise fastest, and no others."""
    weight, radius, shared, tail = 0.7, 0.3, 9, (5, 6, 7)
    triplets = [
        replace(
            triplet,
            benign=EncodedMember(triplet.benign.prompt + tail, triplet.benign.response),
            injection=EncodedMember(triplet.injection.prompt + tail, triplet.injection.response),
        )
        for triplet in alike(token_triplets(3, shared=shared, own=6, seed=3), but=1)
    ]
    triplets = swapped(triplets, without=2)
    model = random_model("llama", torch.float64, exact_norms=True)
    table = model.get_input_embeddings().weight.detach()
    injected = [triplet.injection.prompt for triplet in triplets]
    own = {prompt: table[list(prompt[shared : -len(tail)])] for prompt in injected}
    leaves = {prompt: torch.zeros_like(rows, requires_grad=True) for prompt, rows in own.items()}
    zeros = ("lambda_task", "lambda_swap", "lambda_invariance", "lambda_state")
    with shifted(model, {prompt: (shared, leaf) for prompt, leaf in leaves.items()}):
        steepest = torch.autograd.grad(by_hand(model, triplets, LOSS), [*leaves.values()])
    worst = {
        prompt: (shared, radius * rows.norm(dim=1, keepdim=True) * normalize(up, dim=1))
        for (prompt, rows), up in zip(own.items(), steepest, strict=True)
    }
    by_hand(model, triplets, LOSS).backward()
    with shifted(model, worst):
        injected_only = LOSS.model_copy(update=dict.fromkeys(zeros, 0.0))
        (weight * by_hand(model, triplets, injected_only)).backward()
    reference = gradients(model).clone()
    settings = {"lambda_adversarial": weight, "adversarial_radius": radius}
    objective = Objective(LOSS.model_copy(update=settings))
    memory = MemorySection(strategy="manual", members=members, activations=activations)
    set_memory(model, memory, torch.device("cpu"))
    step = TripletStep(find_trunk(model), objective, build_execution(memory, torch.float32))
    batches = [collate(part, objective.needs, "last") for part in (triplets[:2], triplets[2:])]
    totals = label_totals(batches)
    for batch in batches:
        step(batch, totals, torch.Tensor.backward)
    assert (gradients(model) - reference).norm() / reference.norm() < 1e-9
    ((1 + weight) * by_hand(model, triplets, LOSS)).backward()
    assert (gradients(model) - reference).norm() / reference.norm() > 1e-2


def test_an_overflow_of_the_scaled_gradient_leaves_the_loss_finite(
    random_model: Any, token_triplets: Any
) -> None:
    """The scaler skips such a step only if its loss is finite."""
    model = random_model("llama", torch.float32)
    objective = Objective(LOSS.model_copy(update={"lambda_adversarial": 1.0}))
    triplets = swapped(token_triplets(2, shared=9, own=6, seed=3))
    batch = collate(triplets, objective.needs, "last")
    step = TripletStep(find_trunk(model), objective)
    found = step(batch, label_totals([batch]), lambda loss: (loss * torch.inf).backward())
    assert found.loss.isfinite()
    assert not gradients(model).isfinite().all()


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("members", ["tree", "separate", "one_by_one"])
def test_without_obeying_answers_the_preference_alone_has_no_gradient(
    members: Any, weight: float, random_model: Any, token_triplets: Any
) -> None:
    model = random_model("llama", torch.float32)
    loss = LossSection(
        lambda_task=0, lambda_robust=0, lambda_preference=1, lambda_adversarial=weight
    )
    objective = Objective(loss)
    batch = collate(token_triplets(2, shared=9, own=6, seed=3), objective.needs, "last")
    step = TripletStep(find_trunk(model), objective, Execution(members))
    assert step(batch, label_totals([batch]), torch.Tensor.backward).loss == 0
    assert not gradients(model).any()


class ReadsIds(torch.nn.Module):
    """A decoder whose layers read the token ids, too."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def get_input_embeddings(self) -> Any:
        return self.decoder.get_input_embeddings()

    def forward(self, input_ids: Tensor | None = None, **given: Any) -> Any:
        output = self.decoder(input_ids=input_ids, **given)
        if input_ids is not None:
            output.last_hidden_state = output.last_hidden_state + input_ids[..., None]
        return output


def test_an_adversary_needs_a_model_that_computes_from_embeddings(random_model: Any) -> None:
    trunk = find_trunk(random_model("llama", torch.float32))
    check_takes_embeddings(trunk)
    with pytest.raises(ModelError, match=r"set loss\.lambda_adversarial"):
        check_takes_embeddings(replace(trunk, decoder=ReadsIds(trunk.decoder)))


def test_one_by_one_knows_the_clean_answer_where_a_contrast_joins_the_members(
    random_model: Any, token_triplets: Any
) -> None:
    """The injection's loss is then the first to go backward."""
    triplets = alike(token_triplets(2, shared=9, own=6, seed=6))
    found = []
    for members in ("separate", "one_by_one"):
        model = random_model("llama", torch.float64, exact_norms=True)
        weights = {"lambda_swap": 0.0, "lambda_preference": 0.0, "lambda_contrastive": 0.3}
        contrastive = CausalContrastive(lambda_causal=0)
        objective = Objective(LOSS.model_copy(update=weights), contrastive)
        step = TripletStep(find_trunk(model), objective, Execution(members))
        batch = collate(triplets, objective.needs, "last")
        result = step(batch, label_totals([batch]), torch.Tensor.backward)
        found.append((gradients(model), result.sums["state_loss"]))
    assert (found[0][0] - found[1][0]).norm() / found[0][0].norm() < 1e-9
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("vocabulary_chunk", [None, 7])
def test_divergence_equals_the_formula(softcap: float | None, vocabulary_chunk: Any) -> None:
    torch.manual_seed(0)
    hidden, clean = torch.randn(2, 5, 8, dtype=torch.float64)
    head, bias = torch.randn(19, 8, dtype=torch.float64), torch.randn(19, dtype=torch.float64)

    def logits(states: Tensor) -> Tensor:
        raw = states @ head.T + bias
        return raw if softcap is None else softcap * torch.tanh(raw / softcap)

    hidden.requires_grad_()
    wanted = kl_div(
        log_softmax(logits(hidden), -1),
        log_softmax(logits(clean), -1),
        reduction="none",
        log_target=True,
    ).sum(-1)
    weights = torch.arange(1.0, 6, dtype=torch.float64)
    (expected,) = torch.autograd.grad((weights * wanted).sum(), hidden)
    found = divergence(
        hidden,
        clean,
        OutputHead(head, bias, softcap),
        chunk=2,
        vocabulary_chunk=vocabulary_chunk,
    )
    (gradient,) = torch.autograd.grad((weights * found).sum(), hidden)
    assert torch.allclose(found, wanted.detach(), rtol=1e-10, atol=1e-12)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_weight_zero_costs_nothing(token_triplets: Any) -> None:
    triplets = swapped(token_triplets(3, shared=9, own=6, seed=2))
    plain = Objective(LossSection())
    without = collate(triplets, plain.needs, "last")
    never_had = collate(token_triplets(3, shared=9, own=6, seed=2), plain.needs, "last")
    assert torch.equal(without.tokens, never_had.tokens)
    assert {span.member for span in without.spans} == {"benign", "injection"}


@pytest.mark.parametrize("members", ["tree", "separate", "one_by_one"])
def test_states_are_kept_for_their_term_alone_and_at_answers_alone(
    members: Any, random_model: Any, token_triplets: Any, monkeypatch: Any
) -> None:
    """Without the term no state is read, and each gradient has the same bits."""
    triplets = alike(token_triplets(3, shared=9, own=6, seed=7), but=0)
    plain = Trunk.hidden_states
    kept: list[int] = []

    def watched(*args: Any, **named: Any) -> Any:
        last, states = plain(*args, **named)
        kept.extend(len(rows) for rows in states)
        return last, states

    monkeypatch.setattr(Trunk, "hidden_states", watched)

    def run(weight: float) -> Tensor:
        model = random_model("llama", torch.float32)
        weights = {"lambda_robust": 1.0, "lambda_swap": 0.0, "lambda_preference": 0.0}
        objective = Objective(LOSS.model_copy(update={**weights, "lambda_state": weight}))
        step = TripletStep(find_trunk(model), objective, Execution(members))
        kept.clear()
        batch = collate(triplets, objective.needs, "last")
        step(batch, label_totals([batch]), torch.Tensor.backward)
        return gradients(model)

    without = run(0.0)
    assert not kept
    tiny = run(1e-30)
    answers = sum(len(triplet.benign.response) for triplet in triplets[1:])
    assert sum(kept) == len(MIDDLE) * 2 * answers
    assert torch.equal(tiny, without)


def test_the_compared_layers_are_in_the_middle() -> None:
    assert [middle_layers(layers) for layers in (1, 2, 3, 30, 32)] == [
        (1,), (1,), MIDDLE, (10, 15, 20), (11, 16, 21),
    ]  # fmt: skip


def test_every_answer_weighs_alike_and_its_first_tokens_most() -> None:
    weights = answer_weights(2) + answer_weights(40)
    assert sum(weights[:2]) == pytest.approx(1)
    assert sum(weights[2:]) == pytest.approx(1)
    assert weights[2] == pytest.approx(FIRST_WEIGHT * weights[-1])
