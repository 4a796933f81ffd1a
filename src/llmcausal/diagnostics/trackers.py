"""Checks the trackers that the profile names: installed, logged in, or offline."""

from __future__ import annotations

import contextlib
import io

from llmcausal.diagnostics.check import DoctorCheck, one_line
from llmcausal.diagnostics.facts import Facts


def check_trackers(facts: Facts) -> DoctorCheck:
    """Asks each tracker whether it could start now, and where figures would go."""
    from llmcausal.train.trackers import TRACKERS

    tracking = facts.config.tracking
    if not tracking.trackers:
        return DoctorCheck("trackers", "pass", "none: figures stay in the run directory")
    wrong, told = [], []
    for name in tracking.trackers:
        tracker = TRACKERS.load(name)
        with contextlib.redirect_stderr(io.StringIO()):  # wandb's own advice on logging in
            if problem := tracker.problem(tracking):
                wrong.append(f"{name}: {one_line(problem)}")
            else:
                told.append(f"{name}: {one_line(tracker.destination(tracking))}")
    found = "; ".join(wrong + told)
    if wrong:
        fix = "follow these messages, or train without trackers: --set tracking.trackers=[]"
        return DoctorCheck("trackers", "fail", found, fix)
    return DoctorCheck("trackers", "pass", found)
