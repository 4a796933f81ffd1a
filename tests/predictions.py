"""Predictions made by hand, for tests of what is done with them."""

from __future__ import annotations

from typing import Any

from llmcausal.memory.prediction import COMPONENTS, Prediction, Workload


def made_prediction(workload: Workload, needed_bytes: int, **values: Any) -> Prediction:
    """Returns a prediction of `needed_bytes` on CUDA, all of it activations, but for `values`."""
    return Prediction(
        **{
            "architecture": "made by hand",
            "device": "cuda",
            "strategy": "custom",
            "switches": {},
            "workload": workload,
            "components": {**dict.fromkeys(COMPONENTS, 0), "activations": needed_bytes},
            "allocated_bytes": needed_bytes,
            "reserved_bytes": needed_bytes,
            "reserved_expandable_bytes": needed_bytes,
            "context_bytes": 0,
            "host_bytes": 0,
            "peak_phase": "backward",
            "peak_tensors": (),
            "timeline": (),
            "kernels": (),
            "extrapolated": False,
            "seconds": 0.0,
            **values,
        }
    )
