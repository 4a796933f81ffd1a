"""Faults done to real runs; `python -m tests.torture` counts what was tried and what was lost."""
