"""SQuAD and similar data: a context, questions about it, and answers from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmcausal.data.sources.example import (
    Item,
    LeftOut,
    SourceExample,
    SourceRequest,
    Unusable,
    answer_check,
    read_records,
    sound_text,
    text_of,
    usable,
)

UNKNOWN = "unknown"
SYSTEM = (
    "Answer the question from the text alone, with a few words of it and nothing else. If the "
    f'text does not tell, answer "{UNKNOWN}".'
)
ANSWER_KEYS = ("answers", "answer", "ideal")


def read(path: Path, request: SourceRequest, left_out: LeftOut) -> Iterator[SourceExample]:
    """Reads nested SQuAD JSON (1.1 or 2.0), or flat objects of context, question and answers."""
    return usable(_flat(read_records(path, left_out)), _parse, left_out)


def _flat(items: Iterable[Item]) -> Iterator[Item]:
    for where, number, record in items:
        if not isinstance(record.get("data"), list):
            yield from _questions(where, number, record)
            continue
        for index, article in enumerate(record["data"], 1):
            inner = f"{where}: data {index}"
            if isinstance(article, dict):
                yield from _questions(inner, f"{number}-{index}", article)
            else:
                yield inner, number, {}


def _questions(where: str, number: str, article: Mapping[str, Any]) -> Iterator[Item]:
    paragraphs = article.get("paragraphs", [article])
    for index, paragraph in enumerate(paragraphs if isinstance(paragraphs, list) else [{}], 1):
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
            yield where, number, paragraph if isinstance(paragraph, dict) else {}
            continue
        for question_index, question in enumerate(paragraph["qas"], 1):
            inner = f"{where}: paragraph {index}, question {question_index}"
            asked = question if isinstance(question, dict) else {}
            record = {**asked, "context": paragraph.get("context")}
            yield inner, f"{number}-{index}-{question_index}", record


def _parse(item: Item) -> SourceExample:
    where, number, record = item
    document, question = text_of(record, "context"), text_of(record, "question")
    answers = answers_of(record)
    return SourceExample(
        where=where,
        id=number,
        system=SYSTEM,
        document=document,
        question=question,
        response=answers[0],
        check=answer_check(answers),
        category="question",
    )


def answers_of(record: Mapping[str, Any]) -> list[str]:
    """Returns the right answers from any notation; raises `Unusable` if there is none."""
    given = next((record[key] for key in ANSWER_KEYS if record.get(key) is not None), None)
    if isinstance(given, dict):  # Hugging Face: {"text": [...], "answer_start": [...]}
        given = given.get("text")
    answers = given if isinstance(given, list) else [given]
    texts = [answer.get("text") if isinstance(answer, dict) else answer for answer in answers]
    found = [sound_text("answers", text) for text in texts if text is not None]
    if found:
        return found
    if record.get("is_impossible") is True or (given == [] and "answers" in record):
        return [UNKNOWN]
    raise Unusable(f"answers: missing (read: {', '.join(ANSWER_KEYS)})")
