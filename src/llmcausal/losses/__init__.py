"""Contrastive losses: one file each, named here."""

from llmcausal.registry import Table

LOSSES = Table(
    "contrastive loss",
    {
        "causal_contrastive": "llmcausal.losses.causal_contrastive:CausalContrastive",
        "info_nce": "llmcausal.losses.info_nce:InfoNCE",
        "triplet_margin": "llmcausal.losses.triplet_margin:TripletMargin",
    },
)
