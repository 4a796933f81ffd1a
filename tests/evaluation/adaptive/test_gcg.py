"""The white-box search against naive computations on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import Triplet
from llmcausal.evaluation.adaptive import AdaptiveRequest, Search, gcg
from llmcausal.evaluation.adaptive.gcg import Found, Subject, search
from llmcausal.evaluation.adaptive.slot import Earlier, Opening, Placed, slots_of
from llmcausal.evaluation.generation import Decoding, evaluation_mode, generate

Make = Callable[..., Triplet]
TARGETS = ("Plum", "Sure! Plum", '"Plum"')


def openings_of(template: ChatTemplate, triplet: Triplet) -> list[Opening]:
    return Earlier().openings(slots_of(template, triplet), triplet.id, 48)


def run(subject: Subject, openings: list[Opening], request: AdaptiveRequest, **more: Any) -> Found:
    with evaluation_mode(subject.model):
        return search(subject, openings, more.get("targets", TARGETS), request)


@pytest.fixture
def scorer(subject: Subject) -> gcg._Scorer:
    template = subject.template
    goals = [
        [t for t in template.encode_response(each) if t not in template.stop_ids]
        for each in TARGETS
    ]
    return gcg._Scorer(subject, goals)


def by_hand(scorer: gcg._Scorer, ids: Any, goal: list[int], **inputs: Any) -> torch.Tensor:
    given = inputs or {"input_ids": torch.tensor([[*ids, *goal]])}
    logits: torch.Tensor = scorer.model(**given).logits[0, -len(goal) - 1 : -1]
    return logits


def test_losses_are_those_of_plain_passes(
    scorer: gcg._Scorer, template: ChatTemplate, triplet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcg, "_LOGIT_ROWS", 7)
    prompts = [
        opening.slot.place(opening.texts).ids for opening in openings_of(template, triplet())
    ]
    assert len(prompts) == 3
    losses, hits = scorer.scores(prompts)
    assert losses.shape == hits.shape == (len(prompts), len(TARGETS))
    for row, ids in enumerate(prompts):
        for column, goal in enumerate(scorer.goals):
            with torch.no_grad():
                scores = by_hand(scorer, ids, goal)
            wanted = torch.tensor(goal)
            expected = torch.nn.functional.cross_entropy(scores, wanted)
            torch.testing.assert_close(expected, losses[row, column])
            assert bool((scores.argmax(-1) == wanted).all()) == bool(hits[row, column])


def test_gradient_is_that_of_the_least_loss_by_the_choice_of_tokens_on_both_sides(
    scorer: gcg._Scorer, template: ChatTemplate, triplet: Make
) -> None:
    slot = slots_of(template, triplet())[0]
    placed = slot.place(slot.start)
    own = gcg._token_gradient(scorer, placed)
    weight = scorer.model.get_base_model().get_input_embeddings().weight.detach()
    chosen = torch.nn.functional.one_hot(torch.tensor(placed.ids), len(weight)).to(weight.dtype)
    chosen.requires_grad_()
    losses = []
    for goal in scorer.goals:
        embedded = torch.cat([chosen @ weight, weight[goal]])
        scores = by_hand(scorer, None, goal, inputs_embeds=embedded[None])
        losses.append(torch.nn.functional.cross_entropy(scores, torch.tensor(goal)))
    (expected,) = torch.autograd.grad(torch.stack(losses).min(), chosen)
    assert len(placed.spans) == 2
    torch.testing.assert_close(own, expected[placed.places], rtol=1e-4, atol=1e-5)


def test_candidates_differ_in_one_token_on_either_side() -> None:
    placed = Placed(tuple(range(20)), ((3, 6), (10, 14)))
    costs = torch.rand((7, 50), generator=torch.Generator().manual_seed(0))
    request = AdaptiveRequest(1, candidates=40, top_k=20)
    drawn = gcg._draw(placed, costs, request, torch.Generator().manual_seed(1))
    changed = [
        [place for place, (a, b) in enumerate(zip(each.ids, placed.ids, strict=True)) if a != b]
        for each in drawn
    ]
    assert {len(places) for places in changed} == {1}
    assert {places[0] for places in changed} == set(placed.places)


@pytest.mark.parametrize("how", ["gcg", "random"])
@pytest.mark.parametrize("tail", ["", "\n\nWhen is it?"])
def test_search_lowers_the_loss_and_stays_text(
    subject: Subject, triplet: Make, tail: str, how: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "random":
        monkeypatch.setattr(gcg, "_token_gradient", None)
    openings = openings_of(subject.template, triplet(tail=tail))
    request = AdaptiveRequest(1, steps=8, candidates=24, top_k=64, search=how)
    found = run(subject, openings, request)
    assert found.loss < found.start_loss
    assert found.queries <= request.budget["most_queries"]
    slot = next(each.slot for each in openings if each.slot.frame == found.frame)
    placed = slot.place((found.prefix, found.suffix))
    assert slot.encode((found.prefix, found.suffix)) == [*placed.ids]
    searched = {placed.ids[place] for place in placed.places}
    assert not searched & set(subject.template.control_ids)


def test_the_search_begins_with_the_best_opening(subject: Subject, triplet: Make) -> None:
    openings = openings_of(subject.template, triplet())
    nothing = AdaptiveRequest(1, steps=0)
    alone = [run(subject, [opening], nothing) for opening in openings]
    together = run(subject, openings, nothing)
    best = min(alone, key=lambda found: found.loss)
    assert len({round(found.loss, 5) for found in alone}) == len(openings) == 3
    assert (together.frame, together.target) == (best.frame, best.target)
    assert together.start_loss == pytest.approx(best.loss, rel=1e-5)


def test_a_search_goes_on_from_what_an_earlier_one_found(subject: Subject, triplet: Make) -> None:
    openings = openings_of(subject.template, triplet())
    request = AdaptiveRequest(1, steps=4, candidates=16)
    first = run(subject, openings, request)
    earlier = Earlier((("t0", first.frame, first.prefix, first.suffix),))
    warm = earlier.openings(slots_of(subject.template, triplet()), "t0", 48)
    assert len(warm) == len(openings) + 1
    second = run(subject, warm, replace(request, seed=1))
    assert second.start_loss == pytest.approx(first.loss, rel=1e-5)
    assert second.loss <= first.loss * (1 + 1e-5)


def test_reached_means_that_the_greedy_answer_begins_with_any_target(
    subject: Subject, triplet: Make
) -> None:
    template = subject.template
    openings = [openings_of(template, triplet(index))[0] for index in range(40)]
    answers = generate(
        subject.model,
        [opening.slot.encode(opening.texts) for opening in openings],
        Decoding(template.stop_ids, 1, 8),
    )
    opening, greedy = next(
        (opening, text)
        for opening, tokens in zip(openings, answers, strict=True)
        if (text := template.tokenizer.decode(tokens)).isalnum()  # and not half a character
    )
    found = run(subject, [opening], AdaptiveRequest(1), targets=("Plum", greedy))
    assert (found.reached, found.steps, found.queries) == (True, 0, 1)
    assert found.target == greedy
