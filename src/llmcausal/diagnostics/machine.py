"""Facts about the machine, gathered once for all checks; tests fake them."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcausal.launched import in_wsl

if TYPE_CHECKING:
    import torch

Version = tuple[int, int]
HIDE_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class GpuProcess:
    pid: int
    name: str  # empty if unknown
    used_bytes: int | None  # None if the driver does not report it (Windows)


@dataclass(frozen=True)
class Gpu:
    name: str
    total_bytes: int
    free_bytes: int  # before this program takes any
    capability: Version  # CUDA compute capability, such as (8, 9)
    processes: tuple[GpuProcess, ...] = ()  # other programs that use its memory

    @property
    def kernels(self) -> str:
        """The capability as compilers write it."""
        return "sm_{}{}".format(*self.capability)


@dataclass(frozen=True)
class Torch:
    version: str  # with its local part, such as `2.13.0+cpu`
    cuda: Version | None = None  # CUDA version of the build; None without CUDA
    sees_gpu: bool = False
    kernels: tuple[str, ...] = ()  # targets of its CUDA kernels, such as `sm_80`, `compute_90`
    threads: int = 1  # on the CPU


@dataclass(frozen=True)
class Machine:
    python: tuple[int, int, int]
    system: str  # `Linux`, `Windows` or `Darwin`, and the processor's architecture
    wsl: bool
    ram_bytes: int
    ram_free_bytes: int
    torch: Torch | None  # None if it cannot be imported; then `torch_problem` is one line
    torch_problem: str = ""
    driver: str | None = None  # version of the NVIDIA driver
    driver_cuda: Version | None = None  # newest CUDA version that the driver supports
    gpus: tuple[Gpu, ...] = ()  # all of the driver's, even if `CUDA_VISIBLE_DEVICES` hides them
    gpus_hidden: bool = False  # whether `CUDA_VISIBLE_DEVICES` hides all of them

    @property
    def gpu(self) -> Gpu | None:
        """The GPU that training would use, if torch can use one."""
        return self.gpus[0] if self.gpus and self.torch and self.torch.sees_gpu else None

    @property
    def windows_driver(self) -> bool:
        """Whether the Windows driver runs the GPU, as it does in WSL."""
        return self.wsl or self.system.startswith("Windows")


def one_line(text: str) -> str:
    return " ".join(text.split())


def look_at_machine() -> Machine:
    """Gathers the facts; never fails, even with a broken torch or driver."""
    import psutil

    memory = psutil.virtual_memory()
    # NVML first: later, the memory of torch's context would not be free.
    driver, driver_cuda, gpus = _driver_facts()
    torch, problem = _torch_facts()
    if torch and torch.sees_gpu and not gpus:
        gpus = (_gpu_by_torch(),)
    visible = os.environ.get(HIDE_GPUS)
    return Machine(
        python=sys.version_info[:3],
        system=f"{platform.system()} {platform.machine()}",
        wsl=in_wsl(),
        ram_bytes=memory.total,
        ram_free_bytes=memory.available,
        torch=torch,
        torch_problem=problem,
        driver=driver,
        driver_cuda=driver_cuda,
        gpus=gpus,
        gpus_hidden=visible is not None and visible.strip() in ("", "-1"),
    )


def _torch_facts() -> tuple[Torch | None, str]:
    try:
        import torch

        sees_gpu = torch.cuda.is_available()
        built = torch.version.cuda
        return Torch(
            version=str(torch.__version__),
            cuda=_version(built) if built else None,
            sees_gpu=sees_gpu,
            kernels=tuple(torch.cuda.get_arch_list()),
            threads=torch.get_num_threads(),
        ), ""
    except Exception as error:  # a broken installation may raise anything
        return None, f"{type(error).__name__}: {one_line(str(error))}"


def _gpu_by_torch() -> Gpu:
    import torch

    free, total = torch.cuda.mem_get_info()
    return Gpu(torch.cuda.get_device_name(), total, free, torch.cuda.get_device_capability())


def _version(text: str) -> Version:
    major, _, rest = text.partition(".")
    return int(major), int(rest.partition(".")[0] or 0)


def _driver_facts() -> tuple[str | None, Version | None, tuple[Gpu, ...]]:
    """Asks NVML for the driver's version, its newest CUDA, and the GPUs in CUDA's order."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, or a broken one
        return None, None, ()
    driver, driver_cuda = None, None
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        number = int(pynvml.nvmlSystemGetCudaDriverVersion())  # 12040 is 12.4
        driver_cuda = (number // 1000, number % 1000 // 10)
        gpus = tuple(_gpu(pynvml, handle) for handle in _handles(pynvml))
    except pynvml.NVMLError:
        return driver, driver_cuda, ()
    finally:
        pynvml.nvmlShutdown()
    return driver, driver_cuda, gpus


def _handles(nvml: Any) -> list[Any]:
    """Returns the GPUs that CUDA may use, in its order; all if it may use none."""
    count = int(nvml.nvmlDeviceGetCount())
    named = [part.strip() for part in os.environ.get(HIDE_GPUS, "").split(",") if part.strip()]
    chosen = []
    for name in named:
        if name.isdigit() and int(name) < count:
            chosen.append(nvml.nvmlDeviceGetHandleByIndex(int(name)))
        elif name.startswith("GPU-"):
            chosen.append(nvml.nvmlDeviceGetHandleByUUID(name))
    return chosen or [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]


def _gpu(nvml: Any, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        name=str(nvml.nvmlDeviceGetName(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
        processes=_processes(nvml, handle),
    )


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    """Lists the other programs on a GPU, the largest first."""
    found: dict[int, GpuProcess] = {}
    for listed in (
        nvml.nvmlDeviceGetComputeRunningProcesses,
        nvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        try:
            running = listed(handle)
        except nvml.NVMLError:  # unavailable in WSL
            continue
        for process in running:
            if process.pid != os.getpid():
                used = process.usedGpuMemory
                found[process.pid] = GpuProcess(process.pid, _name_of(process.pid), used)
    return tuple(sorted(found.values(), key=lambda process: -(process.used_bytes or 0)))


def _name_of(pid: int) -> str:
    import psutil

    try:
        return psutil.Process(pid).name()
    except psutil.Error:  # another user's, or outside this container
        return ""


def attention_kernels(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """Returns the fast attention kernels that run on a device."""
    import warnings

    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    wanted = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    }
    query = torch.zeros(1, 2, 64, 64, device=device, dtype=dtype)
    working = []
    for name, backend in wanted.items():
        try:
            with warnings.catch_warnings(), sdpa_kernel(backend):
                warnings.simplefilter("ignore", UserWarning)  # on the backends not chosen
                torch.nn.functional.scaled_dot_product_attention(
                    query, query, query, is_causal=True
                )
        except RuntimeError:
            continue
        working.append(name)
    return tuple(working)


def pinnable_bytes(most: int, block: int = 2**28) -> int:
    """Returns how many bytes of host memory CUDA can pin, up to `most`; nothing stays pinned."""
    import torch

    blocks: list[torch.Tensor] = []
    try:
        while len(blocks) * block < most:
            blocks.append(torch.empty(block, dtype=torch.uint8, pin_memory=True))
    except RuntimeError:
        return len(blocks) * block
    return most
