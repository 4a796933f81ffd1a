"""The report: one HTML file on a run's results, without external parts."""

from __future__ import annotations

from llmcausal.ui.report.page import REPORT, write_report, write_run_report
from llmcausal.ui.report.run_files import RunFiles

__all__ = ["REPORT", "RunFiles", "write_report", "write_run_report"]
