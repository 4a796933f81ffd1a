"""Runs every check of a profile on this machine."""

from __future__ import annotations

from collections.abc import Callable

from llmcausal.config import RunConfig
from llmcausal.diagnostics.check import Check
from llmcausal.diagnostics.compute import check_bf16, check_bitsandbytes, check_device
from llmcausal.diagnostics.environment import (
    check_disk,
    check_memory,
    check_packages,
    check_python,
)
from llmcausal.diagnostics.inputs import check_chat_template, check_data, check_model
from llmcausal.errors import LlmcausalError

CHECKS: tuple[tuple[str, Callable[[RunConfig], Check]], ...] = (
    ("python", check_python),
    ("packages", check_packages),
    ("device", check_device),
    ("bitsandbytes", check_bitsandbytes),
    ("bf16", check_bf16),
    ("memory", check_memory),
    ("disk", check_disk),
    ("model", check_model),
    ("chat template", check_chat_template),
    ("data", check_data),
)


def diagnose(config: RunConfig) -> list[Check]:
    """Runs the checks in order; one that cannot even run is a failed one."""
    return [_run(name, check, config) for name, check in CHECKS]


def _run(name: str, check: Callable[[RunConfig], Check], config: RunConfig) -> Check:
    try:
        return check(config)
    except LlmcausalError as error:
        return Check(name, "fail", " ".join(str(error).split()), "mend the profile")
    except Exception as error:  # a check must never hide the ones after it
        reason = f"could not be checked: {type(error).__name__}: {' '.join(str(error).split())}"
        return Check(name, "fail", reason, "report this as a bug")
