"""Broken and hostile files given to every reader; `python -m tests.fuzz` counts them."""
