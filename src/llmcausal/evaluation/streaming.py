"""One prompt at a time, its answer token by token: what a server gives out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmcausal.evaluation.generation import (
    Answer,
    base_model_of,
    decoding_config,
    padded,
    read_answer,
    ready_to_decode,
)

if TYPE_CHECKING:
    from llmcausal.data.template import ChatTemplate

Stream = Callable[[Sequence[int], int], Iterator[int]]
"""Takes a prompt and the longest answer in tokens; yields the new tokens, a stop token included."""

_UNREADABLE = "\ufffd"
_BYTE = re.compile("<0x[0-9A-F]{2}>")


@contextmanager
def streaming(model: Any, stop_ids: Sequence[int], longest: int) -> Iterator[Stream]:
    """Makes the model ready to answer greedily, in this thread; restores all it changes.

    An answer is that of `generation.generate` with a batch size of 1. A model that only
    transformers can generate from gives its tokens all at once.

    Args:
        model: A transformers model, or a `PeftModel` around one.
        stop_ids: Tokens that end an answer.
        longest: Tokens of the longest prompt with its answer.
    """
    base = base_model_of(model)
    with ready_to_decode(model, longest) as tree:

        def stream(prompt: Sequence[int], max_new_tokens: int) -> Iterator[int]:
            if tree is not None:
                return tree.stream(prompt, stop_ids, max_new_tokens)
            return iter(padded(base, decoding_config(stop_ids, max_new_tokens), [tuple(prompt)])[0])

        yield stream


class GrowingAnswer:
    """An answer while its tokens come: the texts given out, joined, are the whole answer's text.

    What the next token may still change is held back: half of a character, and white space that
    the whole answer would lose at its end.

    Args:
        template: Of the prompt; its tokenizer makes text of the tokens.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.tokens: list[int] = []
        self._given = 0

    def add(self, token: int) -> str:
        """Takes the next token; returns the text that is settled now and was not before."""
        self.tokens.append(token)
        settled = list(self.tokens)
        while settled and _BYTE.fullmatch(self._spelled(settled[-1])):
            settled.pop()
        text = read_answer(self._template, settled).text.rstrip(_UNREADABLE).rstrip()
        return self._since(text)

    def finish(self) -> tuple[str, Answer]:
        """Returns the text that was held back, and the whole answer."""
        answer = read_answer(self._template, self.tokens)
        return self._since(answer.text), answer

    def _spelled(self, token: int) -> str:
        return str(self._template.tokenizer.convert_ids_to_tokens(token))

    def _since(self, text: str) -> str:
        new = text[self._given :]
        self._given = max(self._given, len(text))
        return new
