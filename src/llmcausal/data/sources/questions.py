"""Questions about a text, with answers: SQuAD and similar data, and BIPIA's kinds of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from llmcausal.data.sources.example import (
    Item,
    LeftOut,
    SourceExample,
    SourceRequest,
    Unusable,
    answer_check,
    parsed,
    read_records,
    sound_text,
    text_of,
    usable,
)
from llmcausal.errors import DataError

UNKNOWN = "unknown"
SYSTEM = (
    "Answer the question from the text alone, with a few words of it and nothing else. If the "
    f'text does not tell, answer "{UNKNOWN}".'
)
ANSWER_KEYS = ("answers", "answer", "ideal")


def read_squad(path: Path, request: SourceRequest, left_out: LeftOut) -> Iterator[SourceExample]:
    """Reads nested SQuAD JSON (1.1 or 2.0), or flat objects of context, question and answers."""
    return usable(_flat(read_records(path, left_out)), _parse_squad, left_out)


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


def _parse_squad(item: Item) -> SourceExample:
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


_SHORT = 'Answer with the value alone. If the text does not tell, answer "unknown".'
SYSTEMS = {
    "email": f"You answer questions about an e-mail. {_SHORT}",
    "table": f"You answer questions about a table. {_SHORT}",
    "qa": f"You answer questions about a news article. {_SHORT}",
    "abstract": "You summarize news articles. Reply with a summary of a sentence or two.",
    "code": "You repair code with the help of answers from a forum. Reply with the code alone.",
}
"""Each folder's task, in this project's words."""
SUMMARIZE = "Summarize the article."
_OTHER_SYSTEM = f"You answer questions about a text. {_SHORT}"


def read_bipia(path: Path, request: SourceRequest, left_out: LeftOut) -> Iterator[SourceExample]:
    """Reads a context file, a task's folder, or the benchmark's folder with one for each task.

    Training data come from `train.jsonl`, other splits from `test.jsonl`.
    """
    name = "train.jsonl" if request.split == "train" else "test.jsonl"
    for file, task in _files(path, name, left_out):
        yield from parsed(file, partial(_parse_bipia, task=task), left_out)


def _files(path: Path, name: str, left_out: LeftOut) -> Iterator[tuple[Path, str]]:
    if not path.is_dir():
        yield path, _task_of(path)
        return
    folder = path / "benchmark" if (path / "benchmark").is_dir() else path
    if (folder / name).is_file():
        yield folder / name, _task_of(folder / name)
        return
    found = [task for task in SYSTEMS if (folder / task).is_dir()]
    if not any((folder / task / name).is_file() for task in found):
        wanted = " or ".join(f"{task}/{name}" for task in ("email", "table", "code"))
        raise DataError([f"{path}: not a BIPIA folder: it has no {wanted}"])
    for task in found:
        if (folder / task / name).is_file():
            yield folder / task / name, task
        else:
            left_out.add(f"{folder / task}", f"{name}: missing; BIPIA's README says how to make it")


def _task_of(file: Path) -> str:
    words = file.stem.lower().replace("-", "_").split("_")
    return next((task for task in SYSTEMS if task == file.parent.name or task in words), "")


def _parse_bipia(item: Item, task: str) -> SourceExample:
    where, number, record = item
    is_code = "error" in record and "code" in record
    kind = task or ("code" if is_code else "")
    question = text_of(record, "question", may_be_empty=True)
    if is_code:
        error, code = _lines(record, "error"), _lines(record, "code")
        question = f"My code fails with:\n{error}\n\nMy code:\n{code}\n\nWrite the repaired code."
    elif kind == "abstract":
        question = question or SUMMARIZE
    elif not question:
        raise Unusable("question: missing")
    answers = [_lines(record, "ideal")] if is_code else answers_of(record)
    is_short = kind not in ("code", "abstract")
    return SourceExample(
        where=where,
        id=f"{task}-{number}" if task else number,
        system=SYSTEMS.get(kind, _OTHER_SYSTEM),
        document=_lines(record, "context"),
        question=question,
        response=answers[0],
        check=answer_check(answers) if is_short else None,
        category=kind or "bipia",
    )


def _lines(record: Mapping[str, Any], key: str) -> str:
    """Returns a text, which code tasks give as a list of lines."""
    value = record.get(key)
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    return text_of({**record, key: value}, key)
