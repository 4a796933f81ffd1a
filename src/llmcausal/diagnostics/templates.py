"""Checks that prompts can be rendered, and that answers end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmcausal.config import ModelSection
from llmcausal.diagnostics.check import DoctorCheck, one_line
from llmcausal.diagnostics.facts import Facts
from llmcausal.diagnostics.inputs import cached_config, find_model, is_stored
from llmcausal.errors import LlmcausalError

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate

NAME = "chat template"


def check_chat_template(facts: Facts) -> DoctorCheck:
    """Checks that prompts are rendered as the model expects, and that its answers would end."""
    from llmcausal.data.template import ChatTemplate
    from llmcausal.model.factory import load_tokenizer
    from llmcausal.model.gguf import PREFIX

    section = facts.config.model
    model = find_model(section)
    local = section.name.startswith(PREFIX) or is_stored(section)
    if model.status == "fail" or not local:
        fix = model.fix or f"fetch it: hf download {section.name}"
        return DoctorCheck(NAME, "warning", "not checked: no model on this machine", fix)
    fix = "set model.chat_template to a Jinja file, or use the chat variant of the model"
    try:
        override = section.chat_template
        text = override.read_text(encoding="utf-8") if override else None
        template = ChatTemplate(load_tokenizer(section), text)
        prompt = template.encode_prompt("You are helpful.", "Hello")
    except OSError as error:
        return DoctorCheck(NAME, "fail", f"{error.filename}: {error.strerror}", fix)
    except LlmcausalError as error:
        return DoctorCheck(NAME, "fail", one_line(str(error)), fix)
    return _ending(section, template, f"{len(prompt)} tokens for a short prompt")


def _ending(section: ModelSection, template: ChatTemplate, found: str) -> DoctorCheck:
    """Compares the template's end-of-turn token with those that generation stops at."""
    end = template.stop_ids[0]
    name = template.tokenizer.convert_ids_to_tokens(end)
    known = end_ids(section)
    if end in known:
        return DoctorCheck(NAME, "pass", f"{found}; answers end with {name}, as generation does")
    detail = (
        f"{found}; answers end with {name} ({end}), which is not among generation_config's "
        f"eos_token_id {known}: other programs would not stop at it"
    )
    fix = (
        "`llmcausal export` writes it into the exported model, and `eval` stops at it; for the "
        f"model as it is, add {end} to eos_token_id in its generation_config.json"
    )
    return DoctorCheck(NAME, "warning", detail, fix)


def end_ids(section: ModelSection) -> list[int]:
    """Returns the ids at which generation with the stored model ends."""
    from transformers import AutoConfig, GenerationConfig

    from llmcausal.model.factory import resolve_source

    source = Path(resolve_source(section))
    if not source.is_dir() and (cached := cached_config(section)):
        source = cached.parent
    if (source / "generation_config.json").is_file():
        settings = GenerationConfig.from_pretrained(str(source))
    else:
        settings = GenerationConfig.from_model_config(AutoConfig.from_pretrained(str(source)))
    ids = settings.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
