"""The HTML report of one run, or of several beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmcausal.ui.report import write_comparison, write_run_report

COMPARISON = Path("comparison.html")


def report_runs(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the report of what is there so far, also while the runs go on.

    Args:
        run_dirs: One run directory, or several to compare.
        out: The file; else `report.html` of the one run, or `comparison.html` here.

    Returns:
        The file.

    Raises:
        UsageError: If a directory is no run.
        StorageError: If the disk refuses.
    """
    if len(run_dirs) == 1:
        return write_run_report(run_dirs[0], out)
    return write_comparison(run_dirs, out or COMPARISON)
