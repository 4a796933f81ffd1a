"""Export target `ollama`: a GGUF file with the Modelfile that Ollama makes a model of."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from llmcausal.data.template import ChatTemplate, Slot
from llmcausal.errors import ModelError
from llmcausal.export.artifact import ExportOptions, make_artifact
from llmcausal.export.gguf import (
    adds_bos,
    file_name,
    load_gguf,
    ready_to_convert,
    write_gguf,
)
from llmcausal.export.model_card import OLLAMA
from llmcausal.export.source import ExportSource

MODELFILE = "Modelfile"
COMMAND = "ollama create NAME -f Modelfile"

# Ollama cuts longer prompts silently, from 4096 tokens on unless told otherwise.
_CONTEXT = 8192


def export_ollama(source: ExportSource, out: Path, options: ExportOptions) -> dict[str, Any]:
    """Writes what `export_gguf` does, and a Modelfile beside it.

    Returns:
        The report of `make_artifact`, whose errors it raises.

    Raises:
        UsageError: If llama.cpp is not to be found, or knows no such quantization.
    """
    llama_cpp = ready_to_convert(options)

    def write(folder: Path) -> dict[str, Any]:
        facts = write_gguf(source, options, llama_cpp, folder)
        file = folder / file_name(options)
        context = getattr(source.model_config(), "max_position_embeddings", _CONTEXT)
        text = modelfile(source.template, file.name, bos=adds_bos(file), context=context)
        (folder / MODELFILE).write_text(text, encoding="utf-8")
        return {**facts, "modelfile": MODELFILE, "command": COMMAND}

    return make_artifact(
        source, out, options, OLLAMA, write=write, load=partial(load_gguf, source, options)
    )


def modelfile(template: ChatTemplate, file: str, *, bos: bool, context: int) -> str:
    """Returns a Modelfile with the training's own rendering of one turn.

    Args:
        template: The training's.
        file: Name of the GGUF file beside it.
        bos: Ollama puts the bos token before the prompt, so the template must not.
        context: Tokens that the model can read.
    """
    stops = [str(template.tokenizer.convert_ids_to_tokens(stop)) for stop in template.stop_ids]
    lines = [
        f"FROM ./{file}",
        f'TEMPLATE """{go_template(template, bos=bos)}"""',
        *(f"PARAMETER stop {_quoted(stop)}" for stop in stops),
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {min(context, _CONTEXT)}",
    ]
    return "\n".join(lines) + "\n"


def go_template(template: ChatTemplate, *, bos: bool) -> str:
    """Returns one turn of a chat template in the language of Go's text/template.

    A slot that the chat template trims is not trimmed here: the language has no function for it.

    Raises:
        ModelError: If the template's text cannot be written in a Modelfile.
    """
    text, slots = "", {"system": "{{ .System }}", "user": "{{ .Prompt }}"}
    if template.folds_system:
        slots["user"] = "{{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}"
    for piece in template.pieces.prompt:
        text += slots[piece.role] if isinstance(piece, Slot) else _literal(piece)
    first = template.tokenizer.bos_token
    if bos and isinstance(first, str):
        text = text.removeprefix(first)
    # What the template writes before an answer is part of the answer: the model begins with it.
    text += "{{ .Response }}" + _literal(template.pieces.tail)
    if '"""' in text:
        raise ModelError('the chat template contains """, which a Modelfile cannot hold')
    return text


def _literal(text: str) -> str:
    """Escapes what Go would read as the beginning of an action."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    if '"' in text or "\n" in text:
        raise ModelError(f"the end-of-turn token {text!r} cannot be written in a Modelfile")
    return f'"{text}"'
