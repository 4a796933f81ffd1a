"""Export target `gguf`: one file for llama.cpp and what is built on it."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmcausal.errors import UsageError
from llmcausal.export.artifact import make_artifact
from llmcausal.export.check import CHECK_PROMPTS, NEW_TOKENS, Loaded
from llmcausal.export.consumers import (
    Answerer,
    LlamaCppModel,
    TransformersModel,
    has_llama_cpp,
)
from llmcausal.export.converter import (
    CONVERTED,
    QUANTIZED,
    convert,
    find_llama_cpp,
    find_quantizer,
)
from llmcausal.export.merged import write_merged_weights
from llmcausal.export.model_card import GGUF
from llmcausal.export.options import ExportOptions
from llmcausal.export.source import ExportSource
from llmcausal.export.transformers_folder import tokens_by
from llmcausal.registry import nearest


def export_gguf(source: ExportSource, out: Path, options: ExportOptions) -> dict[str, Any]:
    """Merges, then converts and, where asked for, quantizes with llama.cpp's own programs.

    Returns:
        The report of `make_artifact`, whose errors it raises.

    Raises:
        UsageError: If llama.cpp is not to be found, or knows no such quantization.
    """
    llama_cpp = ready_to_convert(options)
    return make_artifact(
        source,
        out,
        options,
        GGUF,
        write=partial(write_gguf, source, options, llama_cpp),
        load=partial(load_gguf, source, options),
    )


def ready_to_convert(options: ExportOptions) -> Path:
    """Returns where llama.cpp is, having found all that the conversion will need.

    Raises:
        UsageError: If something is missing, or there is no such quantization.
    """
    known = (*CONVERTED, *QUANTIZED)
    if options.quantize not in known:
        raise UsageError(
            f"--quantize {options.quantize}: unknown{nearest(options.quantize, known) or '.'} "
            f"Known: {', '.join(known)}"
        )
    llama_cpp = find_llama_cpp(options.llama_cpp)
    if options.quantize not in CONVERTED:
        find_quantizer(llama_cpp)
    return llama_cpp


def file_name(options: ExportOptions) -> str:
    """Returns what the GGUF file is called."""
    return f"model-{options.quantize}.gguf"


def write_gguf(
    source: ExportSource, options: ExportOptions, llama_cpp: Path, folder: Path
) -> dict[str, Any]:
    """Writes the GGUF file, and the tokenizer for who renders prompts in Python."""
    merged = folder / "merged"
    merged.mkdir()
    write_merged_weights(source, merged)
    source.generation_config().save_pretrained(merged)
    source.save_tokenizer_for_llama_cpp(merged)
    convert(llama_cpp, merged, folder / file_name(options), options.quantize)
    shutil.rmtree(merged)
    source.save_tokenizer(folder)
    return {"file": file_name(options)}


def load_gguf(source: ExportSource, options: ExportOptions, folder: Path) -> Loaded:
    """Loads the file with transformers, for logits, and with llama.cpp where it is installed."""
    file = folder / file_name(options)
    with redirect_stderr(io.StringIO()):  # a progress bar that no setting switches off
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file.name, dtype=source.dtype
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    reading = TransformersModel(model.eval(), source.generation_config(), "transformers")
    answering: Answerer = reading
    tokens_of = tokens_by(tokenizer)
    if has_llama_cpp():
        answering = llama = LlamaCppModel(file, _context(source))
        tokens_of = llama.tokens_of
    return Loaded(reading, answering, tokens_of, options.quantize, _metadata_defects(source, file))


def _context(source: ExportSource) -> int:
    """Tokens that the longest prompt of the check and its answer take, in whole blocks."""
    suite = source.attacks
    prompts = [*CHECK_PROMPTS, *(suite.prompts if suite else ())]
    longest = max(len(source.template.encode_prompt(*prompt)) for prompt in prompts)
    new_tokens = max(NEW_TOKENS, suite.max_new_tokens if suite else 0)
    return -(-(longest + new_tokens) // 256) * 256


def _metadata_defects(source: ExportSource, file: Path) -> list[str]:
    reader = gguf.GGUFReader(file)
    defects = []
    if _value(reader, gguf.Keys.Tokenizer.CHAT_TEMPLATE) != source.template.text:
        defects.append(f"{gguf.Keys.Tokenizer.CHAT_TEMPLATE} is not the training's chat template")
    end = _value(reader, gguf.Keys.Tokenizer.EOS_ID)
    if end != source.template.stop_ids[0]:
        defects.append(
            f"{gguf.Keys.Tokenizer.EOS_ID} = {end}: it does not stop at the end-of-turn token "
            f"{source.template.stop_ids[0]}"
        )
    return defects


def adds_bos(file: Path) -> bool:
    """Tells whether llama.cpp puts the bos token before every prompt of this file."""
    reader = gguf.GGUFReader(file)
    said = _value(reader, gguf.Keys.Tokenizer.ADD_BOS)
    sentence_piece = _value(reader, gguf.Keys.Tokenizer.MODEL) == "llama"
    return sentence_piece if said is None else bool(said)


def _value(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
