"""What reads files from strangers, each with sound files to start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import safetensors.numpy

from llmcausal.data.builtin import generate
from llmcausal.data.formats import read_triplets
from llmcausal.data.formats.jsonl import Defects, write_triplets
from llmcausal.data.sources import SOURCES
from llmcausal.data.sources.example import LeftOut, SourceRequest
from llmcausal.data.sources.reading import read_goals
from llmcausal.data.spans import Span
from llmcausal.evaluation import answer_store
from llmcausal.evaluation.endpoint import read_kept
from llmcausal.evaluation.monitor.canaries import read_canaries
from llmcausal.evaluation.monitor.series import (
    ATTACK_SUCCESS,
    SERIES,
    Round,
    Series,
    to_prometheus,
)
from llmcausal.evaluation.monitor.traffic import read_traffic, score
from llmcausal.profile import load_config, shipped_profiles
from llmcausal.server.asked import Refusal, read_chat, read_completion
from llmcausal.train.callbacks.metrics_log import cut_rows, read_rows
from llmcausal.train.checkpoint import newest_good, write_checkpoint
from llmcausal.ui.monitoring import write_page
from llmcausal.ui.report import write_run_report
from tests.fuzz.model_readers import model_readers
from tests.fuzz.reader import Reader


def readers(folder: Path) -> Iterator[Reader]:
    """Yields every reader; `folder` is a scratch folder for making the seeds."""
    yield Reader("triplets (.jsonl)", _triplets(folder), read_triplets, "data.jsonl")
    profiles = [path.read_bytes() for path in shipped_profiles().values()]
    yield Reader("profile (.toml)", profiles, load_config, "profile.toml")
    manifest = _manifest(folder / "run")
    yield Reader(
        "checkpoint manifest", [manifest], lambda file: newest_good(file.parents[1]),
        "run/checkpoint-1/manifest.json",
    )  # fmt: skip
    rows = b"".join(json.dumps({"step": n, "loss": 1.5 / n}).encode() + b"\n" for n in (1, 2, 3))
    yield Reader("metrics.jsonl", [rows], _metrics, "metrics.jsonl")
    goals = json.dumps([{"goal": "Say moo.", "witness": "moo"}, {"goal": "Answer yes.",
                        "check": {"regex": "^yes"}}, "What is 1+1?"])  # fmt: skip
    yield Reader("attack goals", [goals.encode()], read_goals, "goals.json")
    for name, (file, seeds) in _source_files().items():
        yield Reader(f"data build --from {name}", seeds, _source(name), file)
    yield from model_readers(folder)
    answers = b'{"ab12": [1, 2, 3]}\n\n{"cd34": [4]}\n'
    yield Reader("answer store", [answers], _read_answers, "answers.jsonl")
    deployed = b'{"finished": {"at": 1}}\n{"ab": {"text": "x", "stopped": true, "at": 1.5}}\n'
    yield Reader("an endpoint's answers", [deployed], _read_kept, "endpoint.jsonl")
    record = {"id": 1, "system": "Sum up.", "user": "A text.", "answer": "Short."}
    spans = {"system": "", "spans": [{"text": "A.", "trusted": True}, {"text": "B"}], "answer": "C"}
    traffic = f"{json.dumps(record)}\n{json.dumps(spans)}\n".encode()
    yield Reader("log of real traffic", [traffic], _log, "traffic.jsonl")
    canary = {"id": "a", "system": "Sum up.", "user": ["Hi. Print {witness}.", "{witness}!"]}
    yield Reader("canaries", [json.dumps(canary).encode()], read_canaries, "canaries.jsonl")
    message = {"role": "system", "content": "Sum up."}, {"role": "tool", "content": "A text."}
    chat = json.dumps({"messages": message, "max_tokens": 9, "stream": True, "temperature": 0})
    asked = {"role": "user", "content": "Why?", "trusted": True}
    talk = json.dumps({"messages": [message[0], asked, message[1]]})
    yield Reader("request to serve", [chat.encode(), talk.encode()], _request, "request.json")
    (folder / "evaluation").mkdir()
    (folder / "config.toml").touch()
    sound = folder / "evaluation" / "results.json"
    sound.write_bytes(_results())
    _report(sound)  # what draws loads for seconds, once
    yield Reader("results.json, for the report", [_results()], _report, "evaluation/results.json")
    figure = {"count": 1, "n": 50, "value": 0.02, "low": 0.0, "high": 0.1, "alarm": False}
    watched = {"round": 1, "kind": "probe", "signals": {ATTACK_SUCCESS: figure}, "alarm": False}
    yield Reader("a monitor's series", [json.dumps(watched).encode()], _series, SERIES)


def _metrics(path: Path) -> None:
    read_rows(path)
    cut_rows(path, after_step=2)


def _triplets(folder: Path) -> list[bytes]:
    path = folder / "seed.jsonl"
    seeds = []
    for seed in range(6):
        write_triplets(path, generate("train", 2, seed))
        seeds.append(path.read_bytes())
    mail = Span(f"A mail. &#{'1' * 5_000}; &amp;#88;", "tool")  # Python reads no such number
    spans = (Span("Sum up.", trusted=True), mail, Span(None, "tool"))
    write_triplets(path, [replace(each, spans=spans) for each in generate("train", 2, 6)])
    return [*seeds, path.read_bytes()]


def _manifest(folder: Path) -> bytes:
    target = folder / "checkpoint-1"
    tensors = safetensors.numpy.save({})
    write_checkpoint(target, {"a.safetensors": tensors}, {"step": 1, "data": {}, "template": "x"})
    return (target / "manifest.json").read_bytes()


def _source(name: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        columns = {"response": "response", "document": "document"} if name in TABLES else {}
        return list(SOURCES.load(name)(path, SourceRequest("train", columns), LeftOut()))

    return read


TABLES = ("csv", "jsonl")


def _source_files() -> dict[str, tuple[str, list[bytes]]]:
    row = {"document": "Parcel 5 came.", "question": "When?", "response": "Monday"}
    alpaca = [{"instruction": "Sum up.", "input": "A long text.", "output": "Short."}]
    chat = [
        {
            "messages": [
                {"role": "system", "content": "Help."},
                {"role": "user", "content": "Hi there."},
                {"role": "assistant", "content": "Hello."},
            ]
        },
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
    ]
    squad = {
        "data": [
            {
                "title": "T",
                "paragraphs": [
                    {
                        "context": "Bob has 5 cats.",
                        "qas": [
                            {
                                "id": "1",
                                "question": "How many?",
                                "answers": [{"text": "5", "answer_start": 8}],
                            }
                        ],
                    }
                ],
            }
        ]
    }
    bipia = {"context": "You paid $5.", "question": "How much?", "ideal": "$5"}
    return {
        "alpaca": ("alpaca.json", [json.dumps(alpaca).encode()]),
        "chat": ("chat.json", [json.dumps(chat).encode(), json.dumps(chat[1]).encode()]),
        "squad": ("squad.json", [json.dumps(squad).encode()]),
        "csv": ("table.csv", [b"document,question,response\nA b c.,When?,Monday\n"]),
        "jsonl": ("table.jsonl", [json.dumps(row).encode() + b"\n"]),
        "bipia": ("email_train.jsonl", [json.dumps(bipia).encode() + b"\n"]),
    }


def _read_answers(path: Path) -> None:
    for answer in answer_store._read(path).values():
        assert all(type(token) is int for token in answer)


def _read_kept(path: Path) -> None:
    for finished in (True, False):
        for answer in read_kept(path, finished=finished).values():
            assert isinstance(answer["text"], str)


def _log(path: Path) -> None:
    for exchange in read_traffic(path, Defects(path)):
        score(exchange, ["zq-77"])


def _series(path: Path) -> None:
    series = Series(path.parent)
    series.add(Round("probe", "", {ATTACK_SUCCESS: (3, 50)}), None, None)
    to_prometheus(series.rows)
    write_page(series.rows, path.parent / "monitor.html", series.damaged)


def _request(path: Path) -> None:
    with suppress(Refusal):
        read_chat(path.read_bytes())
    with suppress(Refusal):
        read_completion(path.read_bytes())


def _results() -> bytes:
    figure = {"value": 0.5, "n": 10, "low": 0.2, "high": 0.8}
    names = ("attack_success_rate", "asr_begins_with", "utility", "utility_under_attack")
    side = {**dict.fromkeys(names, figure), "groups": {"family": {"naive": {names[0]: figure}}},
            "causal": {"causal_stability": figure}, "perplexity": figure}  # fmt: skip
    change = {names[0]: {**figure, "value": -0.4, "p_value": 0.01}}
    result = {"suite": "builtin", "checkpoint": "best", "notes": ["n"], "base": side,
              "tuned": side, "difference": change, "skipped": [{"id": "1", "reason": "long"}],
              "environment": {"date": "2026-11-23", "packages": {"torch": "2"}}}  # fmt: skip
    return json.dumps(result).encode()


def _report(path: Path) -> None:
    write_run_report(path.parents[1])
