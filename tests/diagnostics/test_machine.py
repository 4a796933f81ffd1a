from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import psutil
import pynvml
import pytest
import torch

from llmcausal.diagnostics import machine

GIB = 2**30


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with two GPUs; the test itself and another program are on each."""
    mine, other = os.getpid(), 2**22 + 1
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "560.35.03",
        "nvmlSystemGetCudaDriverVersion": lambda: 12060,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: int(uuid[-1]),
        "nvmlDeviceGetName": lambda handle: f"GPU number {handle}",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=6 * GIB, free=5 * GIB),
        "nvmlDeviceGetCudaComputeCapability": lambda _: (8, 9),
        "nvmlDeviceGetComputeRunningProcesses": lambda _: [
            SimpleNamespace(pid=mine, usedGpuMemory=7),
            SimpleNamespace(pid=1, usedGpuMemory=9),
        ],
        "nvmlDeviceGetGraphicsRunningProcesses": lambda _: [
            SimpleNamespace(pid=other, usedGpuMemory=None)
        ],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.delenv(machine.HIDE_GPUS, raising=False)


def test_this_machine_is_described() -> None:
    here = machine.look_at_machine()
    assert here.python == sys.version_info[:3]
    assert here.torch is not None
    assert here.torch.version == str(torch.__version__)
    assert here.torch.threads == torch.get_num_threads()
    assert here.ram_bytes == psutil.virtual_memory().total
    assert 0 < here.ram_free_bytes <= here.ram_bytes
    assert here.torch.sees_gpu == torch.cuda.is_available()


@pytest.mark.usefixtures("nvml")
def test_the_driver_tells_gpus_and_the_other_programs() -> None:
    driver, newest, gpus = machine._driver_facts()
    assert (driver, newest) == ("560.35.03", (12, 6))
    assert [gpu.name for gpu in gpus] == ["GPU number 0", "GPU number 1"]
    assert (gpus[0].total_bytes, gpus[0].free_bytes) == (6 * GIB, 5 * GIB)
    assert gpus[0].kernels == "sm_89"
    assert [(p.pid, p.used_bytes) for p in gpus[0].processes] == [(1, 9), (2**22 + 1, None)]
    assert gpus[0].processes[0].name == psutil.Process(1).name()
    assert gpus[0].processes[1].name == ""  # no such process here


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize(
    ("visible", "names", "hidden"),
    [
        ("1", ["GPU number 1"], False),
        ("GPU-abc1", ["GPU number 1"], False),
        ("", ["GPU number 0", "GPU number 1"], True),
        ("-1", ["GPU number 0", "GPU number 1"], True),
    ],
)
def test_visible_gpus_come_first(
    monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str], hidden: bool
) -> None:
    monkeypatch.setenv(machine.HIDE_GPUS, visible)
    here = machine.look_at_machine()
    assert [gpu.name for gpu in here.gpus] == names
    assert here.gpus_hidden == hidden


@pytest.mark.usefixtures("nvml")
def test_a_driver_that_does_not_list_programs_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", refuses)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetGraphicsRunningProcesses", refuses)
    assert machine._driver_facts()[2][0].processes == ()
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: refuses(0))
    assert machine._driver_facts() == ("560.35.03", (12, 6), ())


def test_no_driver_means_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert machine._driver_facts() == (None, None, ())


@pytest.mark.parametrize(
    ("system", "release", "wsl"),
    [
        ("Linux", "5.15.153.1-microsoft-standard-WSL2", True),
        ("Linux", "6.8.0-40-generic", False),
        ("Windows", "11", False),
    ],
)
def test_wsl_is_known_by_its_kernel(
    monkeypatch: pytest.MonkeyPatch, system: str, release: str, wsl: bool
) -> None:
    monkeypatch.setattr("platform.uname", lambda: SimpleNamespace(release=release))
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    here = machine.look_at_machine()
    assert here.wsl == wsl
    assert here.windows_driver == (wsl or system == "Windows")


def test_a_torch_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    here = machine.look_at_machine()
    assert here.torch is None
    assert here.torch_problem.startswith("ModuleNotFoundError: import of torch halted")


def test_where_the_driver_is_silent_torch_tells_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_driver_facts", lambda: (None, None, ()))
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    answers = {
        "is_available": lambda: True,
        "mem_get_info": lambda: (5 * GIB, 6 * GIB),
        "get_device_name": lambda: "RTX",
        "get_device_capability": lambda: (8, 9),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    here = machine.look_at_machine()
    assert here.gpu == machine.Gpu("RTX", 6 * GIB, 5 * GIB, (8, 9))
    assert here.torch is not None
    assert here.torch.cuda == (12, 6)
