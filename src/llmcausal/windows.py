"""Whether this is Windows, or Linux inside it: its driver runs the GPU in both."""

from __future__ import annotations

import platform


def in_windows() -> bool:
    """Tells whether this is Windows itself."""
    return platform.system() == "Windows"


def in_wsl() -> bool:
    """Tells whether this is Linux inside Windows."""
    return platform.system() == "Linux" and "microsoft" in platform.uname().release.lower()


def windows_driver() -> bool:
    """Tells whether Windows' driver runs the GPU: in Windows, and in WSL."""
    return in_windows() or in_wsl()


def more_wsl_memory() -> str:
    """Returns how to give WSL more of the host's memory; it has half by default."""
    return (
        "give WSL more memory: under [wsl2] in %UserProfile%\\.wslconfig, `memory=` and the "
        "size; then `wsl --shutdown`"
    )
