"""What `doctor` checks. A new check is one function in a file here and one line in `CHECKS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from llmcausal.diagnostics import environment, gpu, inputs
from llmcausal.diagnostics.check import DoctorCheck, Facts, Finding, failed
from llmcausal.diagnostics.machine import one_line
from llmcausal.errors import LlmcausalError

Watch = Callable[[str], AbstractContextManager[None]]
"""Shows a running step while its context is open."""

CHECKS: tuple[tuple[str, Callable[[Facts], Finding | None]], ...] = (
    ("python", environment.check_python),
    ("packages", environment.check_packages),
    ("torch", environment.check_torch),
    ("driver", gpu.check_driver),
    ("device", gpu.check_device),
    ("GPU memory", gpu.check_gpu_memory),
    ("precision", gpu.check_precision),
    ("attention", gpu.check_attention),
    ("full GPU", gpu.check_spill),
    ("pinned memory", gpu.check_pinned_memory),
    ("bitsandbytes", environment.check_bitsandbytes),
    ("bf16", environment.check_bf16),
    ("memory", environment.check_memory),
    ("disk", environment.check_disk),
    ("profiles", gpu.check_profiles),
    ("model", inputs.check_model),
    ("chat template", inputs.check_chat_template),
    ("data", inputs.check_data),
    ("trackers", environment.check_trackers),
)
"""In order; a check returns None if it does not apply."""


def diagnose(facts: Facts, watch: Watch) -> Iterator[DoctorCheck]:
    """Runs the checks in order; a check that cannot run has failed."""
    for name, check in CHECKS:
        with watch(f"Checking {name}"):
            try:
                found = check(facts)
            except LlmcausalError as error:
                found = failed(one_line(str(error)), "correct the profile")
            except Exception as error:  # a broken check must not prevent the later ones
                reason = f"could not be checked: {type(error).__name__}: {one_line(str(error))}"
                broken = facts.machine.torch is None
                found = failed(reason, "fix torch first" if broken else "report this as a bug")
        if found is not None:
            yield DoctorCheck(name, *found)
