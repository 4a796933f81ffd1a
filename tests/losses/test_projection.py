from __future__ import annotations

import torch
from torch.nn.functional import cosine_similarity

from llmcausal.losses.base import ProjectionHead


def test_centering_takes_out_what_all_texts_share() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = 10 * torch.randn(64, generator=generator)
    pooled = shared + torch.randn(40, 64, generator=generator)
    head = ProjectionHead(64, 32, 16)
    one, other = head(pooled[:20]), head(pooled[20:])
    assert cosine_similarity(one, other).mean() > 0.9
    head.center(pooled)
    one, other = head(pooled[:20]), head(pooled[20:])
    assert cosine_similarity(one, other).mean().abs() < 0.2
    assert head(pooled.mean(0)).abs().max() < 1e-3
