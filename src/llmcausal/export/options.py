"""What an export is asked for beyond its format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExportOptions:
    """Choices of the command line.

    Attributes:
        quantize: Number format of a GGUF file, as llama.cpp names it in lower case.
        llama_cpp: A llama.cpp checkout; None looks for one (`converter.find_llama_cpp`).
        check: Load the artifact back and compare it with the model in memory. That needs memory
            for the whole model, which merging does not.
    """

    quantize: str = "f16"
    llama_cpp: Path | None = None
    check: bool = True
