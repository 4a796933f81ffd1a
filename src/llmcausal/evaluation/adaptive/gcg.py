"""A search for texts that make the model obey: greedy coordinate gradient, or random.

Zou et al., "Universal and Transferable Adversarial Attacks on Aligned Language Models" (2023),
algorithm 1, with texts on both sides of the instruction and the least loss of several targets. The
candidates are branches of one prefix tree, which computes their shared part once. The random
search draws its replacements uniformly from all tokens. It needs only the loss, so it also works
if a defence misleads the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llmcausal.data.template import ChatTemplate
from llmcausal.evaluation.adaptive import AdaptiveRequest
from llmcausal.evaluation.adaptive.slot import Opening, Placed, PromptSlot
from llmcausal.evaluation.generation import Answering, base_model_of
from llmcausal.train.batch import pack_tensors
from llmcausal.train.step import TripletStep

_SHOT_FACTOR = 4
"""Draws per candidate: most drawn prompts do not survive re-encoding."""
_LOGIT_ROWS = 256
"""Rows whose logits exist at the same time."""


@dataclass(frozen=True)
class Subject:
    """The model under attack, and how to run it over a tree.

    `adapter` is whether its adapter is on, `weights` its weights' fingerprint for the log.
    """

    step: TripletStep
    answering: Answering
    adapter: bool
    weights: str

    @property
    def model(self) -> Any:
        return self.answering.model

    @property
    def template(self) -> ChatTemplate:
        return self.answering.template


@dataclass(frozen=True)
class Found:
    """A search's outcome: texts before and after the instruction, and the nearest target.

    Attributes:
        frame: Text around the attack (`slot.BARE` and so on).
        prefix: Empty if there is no room for one.
        loss: The target's mean cross-entropy, in nats.
        start_loss: The best opening's loss.
        steps: Rounds; fewer than allowed if a target became the greedy answer.
        queries: Texts scored.
        reached: Whether greedy decoding begins with the target.
    """

    frame: str
    prefix: str
    suffix: str
    target: str
    loss: float
    start_loss: float
    steps: int
    queries: int
    reached: bool


@dataclass(frozen=True)
class _Best:
    opening: Opening
    placed: Placed
    loss: float
    target: int
    reached: bool


def search(
    subject: Subject,
    openings: Sequence[Opening],
    targets: Sequence[str],
    request: AdaptiveRequest,
) -> Found:
    """Searches texts that make the model, in evaluation mode, answer with one of the targets.

    The search continues from the best opening.
    """
    template = subject.template
    goals = [template.encode_response(each) for each in targets]
    for goal in goals:
        while goal and goal[-1] in template.stop_ids:
            goal.pop()
    scorer = _Scorer(subject, goals)
    banned = _banned(openings[0].slot, len(subject.step.trunk.head))
    generator = torch.Generator().manual_seed(request.seed)
    best = scorer.best([(each, each.slot.place(each.texts)) for each in openings])
    start_loss, done, queries = best.loss, 0, len(openings)
    while done < request.steps and not best.reached:
        slot, placed = best.opening.slot, best.placed
        if request.search == "gcg":
            costs = _token_gradient(scorer, placed)
        else:
            costs = torch.rand((len(placed.places), len(banned)), generator=generator)
        costs[:, banned] = torch.inf
        drawn = _draw(placed, costs, request, generator)
        texts = ((Opening(slot, slot.texts_of(each)), each) for each in drawn)
        kept = list(islice((each for each in texts if each[0].texts), request.candidates))
        done += 1
        if kept:
            queries += len(kept)
            found = scorer.best(kept)
            if found.reached or found.loss < best.loss:
                best = found
    *before, suffix = best.opening.texts
    return Found(
        best.opening.slot.frame,
        "".join(before),
        suffix,
        targets[best.target],
        best.loss,
        start_loss,
        done,
        queries,
        best.reached,
    )


class _Scorer:
    def __init__(self, subject: Subject, goals: Sequence[Sequence[int]]) -> None:
        self.step, self.model = subject.step, subject.model
        self.goals = [list(goal) for goal in goals]

    def scores(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Returns each target's mean loss, and whether it is greedily chosen [prompts, targets]."""
        pairs = [(prompt, goal) for prompt in prompts for goal in self.goals]
        tree, paths = pack_tensors([[*prompt, *goal[:-1]] for prompt, goal in pairs])
        trunk = self.step.trunk
        last = self.step.last_hidden(tree.to(trunk.device))
        ends = zip(paths, pairs, strict=True)
        nodes = torch.cat([path[-len(goal) :] for path, (_, goal) in ends]).to(trunk.device)
        wanted = torch.tensor([token for _, goal in pairs for token in goal], device=trunk.device)
        losses, right = [], []
        for rows in torch.arange(len(nodes), device=trunk.device).split(_LOGIT_ROWS):
            logits = trunk.logits(last[nodes[rows]]).float()
            losses.append(cross_entropy(logits, wanted[rows], reduction="none"))
            right.append(logits.argmax(-1) == wanted[rows])
        lengths = [len(goal) for _, goal in pairs]
        each = torch.stack([part.mean() for part in torch.cat(losses).split(lengths)])
        hits = torch.stack([part.all() for part in torch.cat(right).split(lengths)])
        return each.view(len(prompts), -1), hits.view(len(prompts), -1)

    @torch.no_grad()
    def best(self, candidates: Sequence[tuple[Opening, Placed]]) -> _Best:
        """Returns the first candidate that reaches a target, else the candidate of least loss."""
        losses, hits = (each.cpu() for each in self.scores([each.ids for _, each in candidates]))
        reached = hits.flatten().nonzero().flatten().tolist()
        chosen = reached[0] if reached else int(losses.argmin())
        row, target = divmod(chosen, len(self.goals))
        return _Best(*candidates[row], float(losses[row, target]), target, bool(reached))


def _token_gradient(scorer: _Scorer, placed: Placed) -> Tensor:
    """Returns the least loss's gradient by each free token's one-hot row [places, vocabulary]."""
    embedding = base_model_of(scorer.model).get_input_embeddings()
    with _watched(embedding) as seen:
        losses, _ = scorer.scores([placed.ids])
        [gradient] = torch.autograd.grad(losses.min(), seen)
    # The tree begins with what all its branches share, the whole prompt: places are its nodes.
    rows = gradient[0, placed.places]
    weight: Tensor = embedding.weight.detach()
    return (rows.to(weight) @ weight.T).float().cpu()


@contextmanager
def _watched(embedding: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Makes the embedding's next outputs leaves of the graph, and lists them."""
    seen: list[Tensor] = []

    def hook(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    with embedding.register_forward_hook(hook):
        yield seen


def _draw(
    placed: Placed, costs: Tensor, request: AdaptiveRequest, generator: torch.Generator
) -> list[Placed]:
    """Draws prompts that differ in one free token, from the cheapest replacements."""
    best = (-costs).topk(min(request.top_k, costs.shape[1]), dim=1).indices
    count = request.candidates * _SHOT_FACTOR
    places = torch.randint(len(placed.places), (count,), generator=generator)
    picks = torch.randint(best.shape[1], (count,), generator=generator)
    drawn: dict[tuple[int, ...], None] = {}
    for place, pick in zip(places.tolist(), picks.tolist(), strict=True):
        ids = list(placed.ids)
        ids[placed.places[place]] = int(best[place, pick])
        drawn[tuple(ids)] = None
    drawn.pop(placed.ids, None)
    return [Placed(ids, placed.spans) for ids in drawn]


def _banned(slot: PromptSlot, vocabulary: int) -> Tensor:
    banned = torch.zeros(vocabulary, dtype=torch.bool)
    tokenizer = slot.template.tokenizer
    ids = {*slot.template.control_ids, *tokenizer.all_special_ids}
    banned[[token for token in ids if token < vocabulary]] = True
    banned[len(tokenizer) :] = True
    return banned
