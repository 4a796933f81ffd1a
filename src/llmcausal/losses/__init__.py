"""The contrastive losses by name."""

from llmcausal.registry import Table

LOSSES = Table(
    "contrastive loss",
    {
        "causal_contrastive": "llmcausal.losses.contrastive:CausalContrastive",
        "info_nce": "llmcausal.losses.contrastive:InfoNCE",
        "triplet_margin": "llmcausal.losses.contrastive:TripletMargin",
    },
)
