"""`ablate`: every combination of some settings, trained and evaluated on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def ablate(profile: str, vary: Sequence[str], **request: Any) -> dict[str, Any]:
    """Runs or continues an ablation; takes what `assembly.ablation.run.AblationRequest` takes."""
    from llmcausal.assembly.ablation import run
    from llmcausal.model.device import out_of_memory_explained

    with out_of_memory_explained("outside a step"):
        return run.ablate(run.AblationRequest(profile, vary, **request))
