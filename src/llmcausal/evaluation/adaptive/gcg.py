"""A search for a suffix that makes the model obey: greedy coordinate gradient, or random.

Zou et al., "Universal and Transferable Adversarial Attacks on Aligned Language Models" (2023),
algorithm 1. What differs is how candidates are scored: they are the branches of one prefix tree,
so the prompt is computed once for all of them, and the response's few tokens once for each.

The random search draws its replacements from all tokens alike. It needs the target's loss alone,
and succeeds where a defence misleads the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from llmcausal.evaluation.adaptive.slot import START, PromptSlot
from llmcausal.evaluation.generation import base_model_of
from llmcausal.train.batch import pack_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmcausal.train.step import TripletStep

_SHOT_FACTOR = 4
"""Draws made for each candidate wanted; most of the surplus does not survive re-encoding."""


Search = Literal["gcg", "random"]


@dataclass(frozen=True)
class SearchBudget:
    """How hard the attacker tries on one prompt.

    Attributes:
        steps: Rounds of the search.
        candidates: Suffixes scored in each.
        top_k: Replacements considered at each token.
        search: How these are chosen: by the gradient, or at random.
    """

    steps: int = 20
    candidates: int = 48
    top_k: int = 128
    search: Search = "gcg"


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        suffix: The best suffix.
        loss: Mean cross-entropy of the target after it.
        start_loss: The same of the suffix that the search began with.
        steps: Rounds; fewer than allowed if the target became the greedy answer.
        queries: Suffixes scored.
        reached: Whether greedy decoding begins with the target.
    """

    suffix: str
    loss: float
    start_loss: float
    steps: int
    queries: int
    reached: bool


def search(
    step: TripletStep,
    model: Any,
    slot: PromptSlot,
    target: str,
    *,
    budget: SearchBudget,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> Found:
    """Searches a suffix after which the model answers with `target`.

    Args:
        step: Runs the model over a tree; the model must be in evaluation mode.
        model: The same model, for its embeddings.
        slot: The prompt.
        target: How the obedient answer begins.
        budget: When to give up.
        seed: Of the drawn candidates.
        on_step: Told (steps done, best loss).

    Raises:
        ValueError: If the start suffix cannot stand in this prompt.
    """
    before, suffix, after = slot.locate(START)
    if not slot.text_of(before, suffix, after):
        raise ValueError(f"{START!r} does not survive encoding in this prompt")
    goal = slot.template.encode_response(target)
    while goal and goal[-1] in slot.template.stop_ids:
        goal.pop()
    scorer = _Scorer(step, before, after, goal)
    banned = _banned(slot, len(step.trunk.head))
    generator = torch.Generator().manual_seed(seed)
    losses, reached = scorer.score([suffix])
    start_loss = best = float(losses[0])
    text, done, queries, hit = START, 0, 1, bool(reached[0])
    while done < budget.steps and not hit:
        if budget.search == "gcg":
            costs = _token_gradient(scorer, model, suffix)
        else:
            costs = torch.rand((len(suffix), len(banned)), generator=generator)
        costs[:, banned] = torch.inf
        drawn = _draw(suffix, costs, budget, generator)
        kept = [(ids, s) for ids in drawn if (s := slot.text_of(before, ids, after))]
        kept = kept[: budget.candidates]
        done += 1
        if kept:
            losses, reached = scorer.score([ids for ids, _ in kept])
            queries += len(kept)
            hits = reached.nonzero().flatten().tolist()
            choice = hits[0] if hits else int(losses.argmin())
            if hits or float(losses[choice]) < best:
                suffix, text = kept[choice]
                best, hit = float(losses[choice]), bool(hits)
        if on_step:
            on_step(done, best)
    return Found(text, best, start_loss, done, queries, hit)


class _Scorer:
    """Cross-entropy of the target after each of many suffixes, in one pass."""

    def __init__(
        self, step: TripletStep, before: Sequence[int], after: Sequence[int], goal: Sequence[int]
    ) -> None:
        self.step = step
        self.before, self.after, self.goal = list(before), list(after), list(goal)

    def sequence(self, suffix: Sequence[int]) -> list[int]:
        return [*self.before, *suffix, *self.after, *self.goal[:-1]]

    def hidden(self, suffixes: Sequence[Sequence[int]]) -> Tensor:
        """Hidden states that predict the target [suffixes, target, width]."""
        tree, paths = pack_tensors([self.sequence(suffix) for suffix in suffixes])
        device = self.step.trunk.device
        last = self.step.last_hidden(tree.to(device))
        nodes = torch.stack([path[-len(self.goal) :] for path in paths]).to(device)
        return last[nodes]

    def losses(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of each suffix, and whether each target is the greedy answer [suffixes]."""
        scores = self.step.trunk.logits(hidden.reshape(-1, hidden.shape[-1])).float()
        wanted = torch.tensor(self.goal, device=scores.device).repeat(len(hidden))
        losses = torch.nn.functional.cross_entropy(scores, wanted, reduction="none")
        right = scores.argmax(-1) == wanted
        shape = (len(hidden), len(self.goal))
        return losses.view(shape).mean(1), right.view(shape).all(1)

    @torch.no_grad()
    def score(self, suffixes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        losses, reached = self.losses(self.hidden(suffixes))
        return losses.cpu(), reached.cpu()


def _token_gradient(scorer: _Scorer, model: Any, suffix: Sequence[int]) -> Tensor:
    """Gradient of the loss by the one-hot choice of each suffix token [suffix, vocabulary]."""
    embedding = base_model_of(model).get_input_embeddings()
    with _watched(embedding) as seen:
        losses, _ = scorer.losses(scorer.hidden([suffix]))
        [gradient] = torch.autograd.grad(losses.sum(), seen)
    start = len(scorer.before)
    rows = gradient[0, start : start + len(suffix)]
    weight: Tensor = embedding.weight.detach()
    return (rows.to(weight) @ weight.T).float().cpu()


@contextmanager
def _watched(embedding: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Makes the embedding's next outputs leaves that gradients reach, and lists them."""
    seen: list[Tensor] = []

    def hook(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = embedding.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def _draw(
    suffix: Sequence[int], costs: Tensor, budget: SearchBudget, generator: torch.Generator
) -> list[list[int]]:
    """Draws suffixes that differ in one token, by the replacements that cost least."""
    best = (-costs).topk(min(budget.top_k, costs.shape[1]), dim=1).indices
    count = budget.candidates * _SHOT_FACTOR
    places = torch.randint(len(suffix), (count,), generator=generator)
    picks = torch.randint(best.shape[1], (count,), generator=generator)
    drawn: dict[tuple[int, ...], None] = {}
    for place, pick in zip(places.tolist(), picks.tolist(), strict=True):
        ids = list(suffix)
        ids[place] = int(best[place, pick])
        drawn[tuple(ids)] = None
    drawn.pop(tuple(suffix), None)
    return [list(ids) for ids in drawn]


def _banned(slot: PromptSlot, vocabulary: int) -> Tensor:
    """Tokens that no text can yield, as a mask [vocabulary]."""
    banned = torch.zeros(vocabulary, dtype=torch.bool)
    tokenizer = slot.template.tokenizer
    ids = {*slot.template.control_ids, *tokenizer.all_special_ids}
    banned[[token for token in ids if token < vocabulary]] = True
    banned[len(tokenizer) :] = True
    return banned
