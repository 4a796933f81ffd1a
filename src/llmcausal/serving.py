"""Renders prompts as training did, for programs that serve the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llmcausal.data.template import ChatTemplate


def render_prompt(
    source: str | Path | PreTrainedTokenizerFast | ChatTemplate,
    system: str,
    user: str | Sequence[Mapping[str, Any]],
) -> list[int]:
    """Returns a prompt's token ids, up to the beginning of the answer.

    As in training, text in `system` and `user` never becomes a control token. The defence does not
    hold with another rendering.

    Args:
        source: An exported folder, a hub id, a fast tokenizer with a chat template, or a
            `ChatTemplate`. A folder's tokenizer is loaded once.
        system: The trusted task.
        user: The untrusted text; or a conversation as a list of spans, each with `text`, and if
            need be `role` ("user", "assistant", "tool") and `trusted` (False), as in data files.

    Raises:
        ModelError: If there is no chat template, or prompts cannot be rendered safely.
        DataError: If a character of the text is a control token, or spans cannot be used.
    """
    from llmcausal.data.formats.record import read_content
    from llmcausal.data.template import ChatTemplate

    if isinstance(source, str | Path):
        template = template_of(str(source))
    elif isinstance(source, ChatTemplate):
        template = source
    else:
        template = ChatTemplate(source)
    return template.encode_prompt(system, read_content(user))


@lru_cache(maxsize=8)
def template_of(name: str) -> ChatTemplate:
    """Loads the chat template of an exported folder or a hub id; raises `ModelError`."""
    from transformers import AutoTokenizer

    from llmcausal.config import ModelSection
    from llmcausal.data.template import ChatTemplate
    from llmcausal.model.factory import load_tokenizer

    folder = Path(name).expanduser()
    if folder.is_dir():  # the folder of an adapter or a GGUF file has no config.json
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        return ChatTemplate(tokenizer)
    return ChatTemplate(load_tokenizer(ModelSection(name=name)))
