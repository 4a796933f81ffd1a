"""What reads files from strangers, each with sound files to start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy

from llmcausal.data.builtin import generate
from llmcausal.data.formats import read_triplets
from llmcausal.data.formats.jsonl import write_triplets
from llmcausal.data.sources import SOURCES
from llmcausal.data.sources.example import LeftOut, Request
from llmcausal.data.sources.goals import read_goals
from llmcausal.profile import load_config, shipped_profiles
from llmcausal.train.callbacks.metrics_log import cut_rows, read_rows
from llmcausal.train.checkpoint import newest_good, write_checkpoint


@dataclass(frozen=True)
class Reader:
    """One way into the program.

    Attributes:
        name: For the table.
        seeds: Sound contents.
        read: Reads the file; may raise nothing but the program's own errors.
        file: Where the content is put, below the working folder.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[Path], object]
    file: str


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


def _metrics(path: Path) -> None:
    read_rows(path)
    cut_rows(path, after_step=2)


def _triplets(folder: Path) -> list[bytes]:
    path = folder / "seed.jsonl"
    seeds = []
    for seed in range(6):
        write_triplets(path, generate("train", 2, seed))
        seeds.append(path.read_bytes())
    return seeds


def _manifest(folder: Path) -> bytes:
    target = folder / "checkpoint-1"
    tensors = safetensors.numpy.save({})
    write_checkpoint(target, {"a.safetensors": tensors}, {"step": 1, "data": {}, "template": "x"})
    return (target / "manifest.json").read_bytes()


def _source(name: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        columns = {"response": "response", "document": "document"} if name in TABLES else {}
        return list(SOURCES.load(name)(path, Request("train", columns), LeftOut()))

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
