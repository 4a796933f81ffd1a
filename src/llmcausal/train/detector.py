"""The detector: a projection head, trained after the defence, on the frozen model's states."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llmcausal.data.triplet import MEMBERS, Member
from llmcausal.losses.base import ContrastiveLoss, ProjectionHead
from llmcausal.train.objective import causal_metrics

LEARNING_RATE = 3e-3
STEPS = 200
BATCH = 32
CHECK_EVERY = 10

States = Mapping[Member, Tensor]
"""Each member's pooled hidden states [triplets, width]."""


def learn_detector(
    head: ProjectionHead,
    contrastive: ContrastiveLoss,
    states: States,
    validation: States | None,
    *,
    learning_rate: float,
    seed: int,
) -> dict[str, float]:
    """Trains the head on pooled states for `STEPS` steps of `BATCH` triplets.

    The head starts centered on the benign states. It ends with the weights that have the least
    contrastive loss on the validation states, else with the last weights.

    Args:
        head: Is trained in place, on the CPU.
        states: The training triplets' states, in fp32 on the CPU.
        learning_rate: AdamW's peak rate, which falls to 0 along a cosine.
        seed: Decides the triplets' order.

    Returns:
        `contrastive_loss` and the causal metrics on the validation states, if there are any.
    """
    head.center(states["benign"])
    count = len(states["benign"])
    generator = torch.Generator().manual_seed(seed)
    parameters = [*head.parameters(), *contrastive.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    best: tuple[float, dict[str, Tensor]] | None = None
    order = torch.empty(0, dtype=torch.long)
    for step in range(1, STEPS + 1):
        if len(order) < min(BATCH, count):
            order = torch.randperm(count, generator=generator)
        chosen, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad(set_to_none=True)
        contrast({m: rows[chosen] for m, rows in states.items()}, head, contrastive).backward()
        optimizer.step()
        schedule.step()
        if validation is not None and step % CHECK_EVERY == 0:
            with torch.no_grad():
                loss = float(contrast(validation, head, contrastive))
            if best is None or loss < best[0]:
                best = loss, {name: value.clone() for name, value in head.state_dict().items()}
    if best is None or validation is None:
        return {}
    head.load_state_dict(best[1])
    with torch.no_grad():
        metrics = causal_metrics({m: head(rows) for m, rows in validation.items()})
    return {"contrastive_loss": best[0]} | {n: float(v.mean()) for n, v in metrics.items()}


def contrast(states: States, head: ProjectionHead, contrastive: ContrastiveLoss) -> Tensor:
    # `members` is a set, whose order differs between processes; gradients add up in this order.
    representations = {m: head(states[m]) for m in MEMBERS if m in contrastive.members}
    losses: Tensor = contrastive(representations)
    return losses.mean()
