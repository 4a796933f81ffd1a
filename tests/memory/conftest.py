"""The tiny program that whole runs are tested with."""

from tests.assembly.conftest import tiny_config

__all__ = ["tiny_config"]
