"""Answers of an endpoint that are kept, so that an interrupted evaluation does not ask again.

Nothing tells whether the same model is still behind a URL. So answers count for the evaluation
that asked for them, until it ends, and for a day at most; later ones take them only on request.
"""

from __future__ import annotations

import hashlib
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from llmcausal.evaluation.answer_store import AnswerStore, Kept, rows_of
from llmcausal.evaluation.evaluate import PromptPair
from llmcausal.evaluation.generation import Answer

RESUMED_WITHIN_SECONDS = 24 * 3600.0
_FINISHED = "finished"


class KeptAnswers:
    """The answers of one endpoint in one evaluation.

    Args:
        store: Where files of answers are; None keeps nothing.
        identity: Everything that names endpoint and evaluation.
        finished: Also take answers of evaluations that have ended, however old.
    """

    def __init__(self, store: AnswerStore | None, identity: object, *, finished: bool) -> None:
        named = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        reader = partial(read, finished=finished)
        self._kept: Kept[Any] = (
            Kept(None, {}) if store is None else Kept(*store.open(f"endpoint-{named}", reader))
        )

    def get(self, prompt: PromptPair, max_new_tokens: int) -> Answer | None:
        """Returns the answer to a prompt, if there is one."""
        row = self._kept.get(_key(prompt, max_new_tokens))
        return None if row is None else Answer(row["text"], row["stopped"])

    def add(self, prompt: PromptPair, max_new_tokens: int, answer: Answer) -> None:
        """Keeps an answer, on disk before it returns."""
        row = {"text": answer.text, "stopped": answer.stopped, "at": time.time()}
        self._kept.add({_key(prompt, max_new_tokens): row})

    def finish(self) -> None:
        """Ends the evaluation: the next one asks again."""
        self._kept.add({_FINISHED: {"at": time.time()}})


def _key(prompt: PromptPair, max_new_tokens: int) -> str:
    return hashlib.sha256(json.dumps([*prompt, max_new_tokens]).encode()).hexdigest()


def read(path: Path, *, finished: bool) -> dict[str, Any]:
    """Reads a file of kept answers; what is damaged is passed over.

    Args:
        path: The file.
        finished: As `KeptAnswers` takes it.
    """
    found: dict[str, Any] = {}
    oldest = float("-inf") if finished else time.time() - RESUMED_WITHIN_SECONDS
    for row in rows_of(path):
        if _FINISHED in row and not finished:
            found.clear()
        sound = {key: value for key, value in row.items() if _is_kept(value)}
        found.update({key: value for key, value in sound.items() if value["at"] >= oldest})
    return found


def _is_kept(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("text"), str)
        and isinstance(value.get("stopped"), bool)
        and isinstance(value.get("at"), int | float)
    )
