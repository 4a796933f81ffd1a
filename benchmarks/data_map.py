"""The data path as a user of `datasets` and transformers writes it; run by `benchmarks.data`.

    python -m benchmarks.data_map TRIPLETS.jsonl TOKENIZER CACHE MAX_LENGTH BATCH

Needs datasets, transformers and torch, and nothing of this project. Each member is rendered with
`apply_chat_template`, tokenized and cut to the length by `Dataset.map` in batches; a `DataLoader`
pads the members of each batch to its longest.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

ANSWERS = {"benign": "response", "benign_cf": None, "injection": "response"}


def peak_rss_bytes() -> int:
    """Returns the largest resident memory of this process so far; Linux."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main(file: str, tokenizer_folder: str, cache: str, length: str, batch: str) -> None:
    import torch
    from datasets import disable_progress_bars, load_dataset
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer

    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    pad, most = tokenizer.pad_token_id or 0, int(length)

    def tokenize(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {}
        for member, answer in ANSWERS.items():
            prompts = tokenizer.apply_chat_template(
                [
                    [{"role": "system", "content": system}, {"role": "user", "content": user}]
                    for system, user in zip(rows["system"], rows[member], strict=True)
                ],
                tokenize=False, add_generation_prompt=True,
            )  # fmt: skip
            prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
            answers = [text + tokenizer.eos_token for text in rows[answer]] if answer else None
            answer_ids = (
                tokenizer(answers, add_special_tokens=False)["input_ids"]
                if answers else [[] for _ in prompts]
            )  # fmt: skip
            pairs = list(zip(prompt_ids, answer_ids, strict=True))
            columns[member] = [(prompt + reply)[:most] for prompt, reply in pairs]
            columns[f"{member}_labels"] = [
                ([-100] * len(prompt) + reply)[:most] for prompt, reply in pairs
            ]
        return columns

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sequences = [row[member] for row in rows for member in ANSWERS]
        labels = [row[f"{member}_labels"] for row in rows for member in ANSWERS]
        width = max(map(len, sequences))

        def padded(lists: list[list[int]], value: int) -> torch.Tensor:
            return torch.tensor([each + [value] * (width - len(each)) for each in lists])

        mask = padded([[1] * len(each) for each in sequences], 0)
        return {"ids": padded(sequences, pad), "mask": mask, "labels": padded(labels, -100)}

    started = time.perf_counter()
    data = load_dataset("json", data_files=file, split="train", cache_dir=cache)
    data = data.map(tokenize, batched=True, remove_columns=data.column_names)
    tokens = 0
    for made in DataLoader(data, batch_size=int(batch), collate_fn=collate):
        tokens += made["ids"].numel()
    print(json.dumps({
        "seconds": time.perf_counter() - started, "triplets": len(data),
        "computed_tokens": tokens, "peak_rss_bytes": peak_rss_bytes(),
    }))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
