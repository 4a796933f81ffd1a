"""Chat prompts as token ids: control tokens come from the template's own text and nowhere else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product, zip_longest
from typing import TYPE_CHECKING, Any

from llmcausal.data.plain_text import ControlToken, MarkerGuard, PlainEncoder
from llmcausal.data.template_pieces import (
    Message,
    Slot,
    TemplateRefusal,
    conversation,
    find_pieces,
    fold,
)
from llmcausal.data.template_spans import Item, Position, find_markers, split_items
from llmcausal.data.trial import broken_limit
from llmcausal.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_TEMPLATE_BYTES = 2**20
_BOUNDED: set[str] = set()
"""Templates that were tried."""
# Some templates write today's date into the prompt (Llama 3.2, SmolLM3); tokens must not depend on
# the day of training, so the function they call gives the date of Llama 3.1's default prompt.
_DATE = "d=26 m=07 Y=2024 y=24 b=Jul B=July a=Fri A=Friday H=00 M=00 S=00"
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(
        f" | replace('%{key}', '{value}')"
        for key, _, value in (code.partition("=") for code in _DATE.split())
    )
    + " }}{%- endmacro %}\n"
)
_PROBES = (
    ("Answer the question.", "What is 2 + 2?", "It is 4."),
    (
        "  Sum up: the text,\nin two lines. ",
        "\n- Grüße, 世界!  \n\n\tfoo_bar(x) = 10.5 \n ",
        " Yes\n",
    ),
)


_EMPTY_RESPONSE = (
    "response: empty: it teaches nothing; give one, or use the model's own "
    'answer with data.answers = "model"'
)


class ChatTemplate:
    """Renders one turn of a chat template without ever reading content as control tokens.

    For text that repeats none of the template's markers the ids equal those of the tokenizer's
    `apply_chat_template`. Text that spells a control token keeps its characters and is encoded
    as ordinary text; text that repeats a plain-text marker (`[/INST]`) is encoded character by
    character (`MarkerGuard`). A template that writes the date gets a fixed one.

    Attributes:
        tokenizer: The tokenizer that was given.
        text: The template's Jinja text.
        fingerprint: SHA-256 of the template and the tokenizer.
        control_ids: Ids that content never yields.
        stop_ids: Ids that end an answer, the end-of-turn token first.
        folds_system: The template knows no system role; the system text leads the user's.
        pieces: The template's own text and the slots of content, of one turn.
        markers: The template's plain-text markers, guarded in content.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str | None = None) -> None:
        """Takes the template apart and checks the result against the tokenizer's own rendering.

        Args:
            tokenizer: A fast tokenizer.
            template: Jinja text to use in place of the tokenizer's chat template.

        Raises:
            ModelError: If there is no template, it fails, or cannot be rendered safely.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"{type(tokenizer).__name__} is a slow tokenizer; token-safe prompts need the fast "
                "one (a tokenizer.json with the model)"
            )
        self.tokenizer = tokenizer
        self.text = _template_text(tokenizer, template)
        self._dated = ("strftime_now" in self.text) * _FIXED_DATE + self.text
        self._plain = PlainEncoder(tokenizer)
        self._encode_text = lru_cache(maxsize=256)(self._encode_uncached)
        self._refuse_unbounded()
        self.pieces = find_pieces(self._render, self._dated)
        self.folds_system = self.pieces.folds_system
        self._prompt = split_items(self.pieces.prompt, self._plain.controls)
        self._answer = self._answer_items()
        self._guard = MarkerGuard(find_markers([*self._prompt, *self._answer]), self._plain)
        self.markers = self._guard.markers
        items = (*self._prompt, *self._answer)
        used = [item.id for item in items if isinstance(item, ControlToken)]
        self.control_ids = self._plain.forbid(used)
        # An answer always ends with a control token.
        ends = dict.fromkeys([used[-1], tokenizer.eos_token_id])
        self.stop_ids = [end for end in ends if end is not None]
        self._prefix = self._choose_prefix()
        parts = [self.text, self._plain.definition, json.dumps(tokenizer.special_tokens_map)]
        self.fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def spaces_after_controls(self) -> bool:
        """Whether text after a control token gets a space before it (some SentencePiece models)."""
        return self._prefix[Position.CONTROL]

    def render(self, system: str, user: str) -> str:
        """Returns the prompt as text, for people: encoding this text would not be safe."""
        values = self._values(system, user)
        return "".join(
            piece.fill(values[piece.role]) if isinstance(piece, Slot) else piece
            for piece in self.pieces.prompt
        )

    def encode_prompt(self, system: str, user: str) -> list[int]:
        """Returns the ids of a prompt, up to where the answer begins.

        Raises:
            DataError: If a character of the text is itself a control token.
        """
        return self._encode(self._prompt, self._values(system, user))

    def encode_response(self, response: str, *, ends: bool = True) -> list[int]:
        """Returns the ids of an answer, its end-of-turn token last.

        A token boundary lies between prompt and answer, as in generation.

        Args:
            response: The answer.
            ends: Whether it ends the turn; one that was cut off does not.

        Raises:
            DataError: If the answer is empty, or a character of it is itself a control token.
        """
        if not self.pieces.answer.fill(response).strip():
            raise DataError([_EMPTY_RESPONSE])
        ids = self._encode(self._answer, {"assistant": response})
        return ids if ends else ids[:-1]

    def count_tokens(self, content: str) -> int:
        """Returns how many tokens a piece of content takes on its own."""
        return len(self._encode_text(content, False, frozenset(self._guard.cuts(content))))

    def _values(self, system: str, user: str) -> dict[str, str]:
        if self.folds_system:
            return {"user": fold(system, user)}
        return {"system": system, "user": user}

    def _encode(self, items: Sequence[Item], values: Mapping[str, str]) -> list[int]:
        ids: list[int] = []
        for item in items:
            if isinstance(item, ControlToken):
                ids.append(item.id)
            else:
                text, cuts = item.fill(values, self._guard.cuts)
                ids += self._encode_text(text, self._prefix[item.position], cuts)
        return ids

    def _encode_uncached(self, text: str, prefix: bool, cuts: frozenset[int]) -> tuple[int, ...]:
        return tuple(self._plain.encode(text, prefix=prefix, cuts=cuts))

    def _answer_items(self) -> list[Item]:
        controls = self._plain.controls
        pieces = self.pieces
        ends = [i for i in split_items([pieces.tail], controls) if isinstance(i, ControlToken)]
        if ends:
            tail = pieces.tail[: pieces.tail.index(ends[0].text) + len(ends[0].text)]
        elif self.tokenizer.eos_token in controls:
            tail = str(self.tokenizer.eos_token)
        else:
            raise ModelError(
                "the chat template ends the answer with no special token, and the tokenizer has no "
                "eos_token: a trained model would never stop. Set one of them (model.chat_template)"
            )
        return split_items([pieces.lead, pieces.answer, tail], controls, self._prompt[-1])

    def _refuse_unbounded(self) -> None:
        """Tries the renderings of the constructor; no others are ever made."""
        if len(self.text) > MAX_TEMPLATE_BYTES:
            raise ModelError(f"the chat template is longer than {MAX_TEMPLATE_BYTES:,} characters")
        named = f"{self.tokenizer.special_tokens_map}\0{self.text}"
        if named in _BOUNDED:
            return
        if limit := broken_limit(self._render_all):
            raise ModelError(
                f"the chat template takes {limit} to render a short conversation; use another one "
                "(model.chat_template)"
            )
        _BOUNDED.add(named)

    def _render_all(self) -> None:
        folds = find_pieces(self._render, self._dated).folds_system
        for system, user, answer in _PROBES:
            messages = conversation(system, user, folds_system=folds)
            self._render(messages, True)
            self._render([*messages, {"role": "assistant", "content": answer}], False)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        text = str(self._reference(messages, add_generation_prompt, tokenize=False))
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise TemplateRefusal("it writes half of a character (a lone surrogate)")
        return text

    def _reference(self, messages: Sequence[Message], prompt: bool, *, tokenize: bool) -> Any:
        """Calls the tokenizer's own `apply_chat_template`."""
        import jinja2

        try:
            return self.tokenizer.apply_chat_template(
                list(messages),
                chat_template=self._dated,
                tokenize=tokenize,
                add_generation_prompt=prompt,
                return_dict=False,
            )
        except jinja2.TemplateSyntaxError as error:
            line = error.lineno - (self._dated != self.text)
            raise ModelError(
                f"the chat template is not valid Jinja: line {line}: {error.message}"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # Jinja promises nothing about a stranger's template
            raise TemplateRefusal(str(error) or type(error).__name__) from error

    def _choose_prefix(self) -> dict[Position, bool]:
        """Finds where this tokenizer adds its prefix space: the choice that gives equal ids."""
        choices = (False, True) if self._plain.adds_prefix else (False,)
        failure = ""
        for at_start, after_control in product(choices, repeat=2):
            self._prefix = {
                Position.START: at_start,
                Position.CONTROL: after_control,
                Position.INSIDE: False,
            }
            failure = self._difference()
            if not failure:
                return self._prefix
        raise ModelError(
            "this tokenizer's chat prompts cannot be reproduced token by token, so they cannot be "
            f"rendered safely: {failure}"
        )

    def _difference(self) -> str:
        """Compares probes with the reference; says where they differ, or nothing."""
        for system, user, answer in _PROBES:
            messages = conversation(system, user, folds_system=self.folds_system)
            own = self.encode_prompt(system, user)
            wanted = self._reference(messages, True, tokenize=True)
            full = self._reference(
                [*messages, {"role": "assistant", "content": answer}], False, tokenize=True
            )
            # After a control token the reference, too, has a token boundary before the answer.
            if isinstance(self._prompt[-1], ControlToken) and full[: len(wanted)] == wanted:
                own = own + self.encode_response(answer)
                wanted = full[: len(own)]
            if own != wanted:
                pairs = zip_longest(own, wanted)
                at = next(index for index, (a, b) in enumerate(pairs) if a != b)
                around = slice(max(at - 2, 0), at + 6)
                mine, theirs = (
                    self.tokenizer.convert_ids_to_tokens(ids[around]) for ids in (own, wanted)
                )
                return f"at token {at} this gives {mine} and apply_chat_template {theirs}"
        return ""


def _template_text(tokenizer: PreTrainedTokenizerFast, template: str | None) -> str:
    try:
        return str(tokenizer.get_chat_template()) if template is None else template
    except ValueError as error:
        raise ModelError(
            "the tokenizer has no chat template: set `model.chat_template` in the profile to a "
            "Jinja file with the format that the model was trained on"
        ) from error
