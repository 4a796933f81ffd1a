"""Runs every check of a profile on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from llmcausal.diagnostics.check import DoctorCheck, one_line
from llmcausal.diagnostics.compute import check_bf16, check_bitsandbytes, check_torch
from llmcausal.diagnostics.environment import (
    check_disk,
    check_memory,
    check_packages,
    check_python,
    check_trackers,
)
from llmcausal.diagnostics.facts import Facts
from llmcausal.diagnostics.gpu import (
    check_attention,
    check_device,
    check_driver,
    check_gpu_memory,
    check_pinned_memory,
    check_precision,
    check_profiles,
    check_spill,
)
from llmcausal.diagnostics.inputs import check_chat_template, check_data, check_model
from llmcausal.errors import LlmcausalError

Watch = Callable[[str], AbstractContextManager[None]]
"""Shows that something is under way while its context is open."""

Function = Callable[[Facts], DoctorCheck | None]
"""Makes one check; None where it has no meaning."""

CHECKS: tuple[tuple[str, Function], ...] = (
    ("python", check_python),
    ("packages", check_packages),
    ("torch", check_torch),
    ("driver", check_driver),
    ("device", check_device),
    ("GPU memory", check_gpu_memory),
    ("precision", check_precision),
    ("attention", check_attention),
    ("full GPU", check_spill),
    ("pinned memory", check_pinned_memory),
    ("bitsandbytes", check_bitsandbytes),
    ("bf16", check_bf16),
    ("memory", check_memory),
    ("disk", check_disk),
    ("profiles", check_profiles),
    ("model", check_model),
    ("chat template", check_chat_template),
    ("data", check_data),
    ("trackers", check_trackers),
)


def diagnose(facts: Facts, watch: Watch) -> Iterator[DoctorCheck]:
    """Runs the checks in order; one that cannot even run is a failed one."""
    for name, check in CHECKS:
        with watch(f"Checking {name}"):
            result = _run(name, check, facts)
        if result is not None:
            yield result


def _run(name: str, check: Function, facts: Facts) -> DoctorCheck | None:
    try:
        return check(facts)
    except LlmcausalError as error:
        return DoctorCheck(name, "fail", one_line(str(error)), "correct the profile")
    except Exception as error:  # a check must never hide the ones after it
        reason = f"could not be checked: {type(error).__name__}: {one_line(str(error))}"
        broken = facts.machine.torch is None
        return DoctorCheck(
            name, "fail", reason, "fix torch first" if broken else "report this as a bug"
        )
