"""Answers per second: `answer_prompts` against plain transformers, on the same prompts in one run.

    python -m benchmarks.eval [TRIPLETS.jsonl] [--prompts 20] [--batch 32] [--max-new-tokens 48]

The model is SmolLM2-135M-Instruct in NF4 with an fp32 LoRA adapter (r=16), as `llmcausal eval`
loads it; the adapter's weights are random and small, so that its products are no zeros. `one by
one` is `model.generate` with one prompt a call; `padded` gives it the prompts of a batch, padded on
the left. Prompts are benign and attacked inputs of the same triplets. Variants take turns; times
are medians over the rounds. Texts that are not those of `one by one` are printed, with how close
the two tokens were where they part.

garak, which loads neither NF4 nor adapters, answers the same prompts by the fp32 model in an
environment of its own (`python -m benchmarks.peers.setup garak`), and `answer_prompts` by that too.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.data import sample
from benchmarks.result import header, write
from benchmarks.step import matmul_rate
from benchmarks.step_workers import ENVIRONMENTS
from llmcausal.assembly.prepare import load_template
from llmcausal.config import ModelSection, RunConfig
from llmcausal.data.builtin import generate
from llmcausal.data.formats import read_triplets
from llmcausal.data.prefix_tree import pack
from llmcausal.evaluation.generation import Answering, answer_prompts, base_model_of
from llmcausal.model.factory import load_model, resolve_source
from llmcausal.model.lora import add_lora

ONE, PADDED, OURS, GARAK = "one by one", "padded", "answer_prompts", "garak"
Texts = list[str]


class Plain:
    """Plain transformers: greedy `generate` on prompts padded on the left."""

    def __init__(self, model: Any, template: Any, max_new_tokens: int) -> None:
        self.model = model
        self.template = template
        self.config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(template.stop_ids),
            pad_token_id=template.stop_ids[0],
            use_cache=True,
        )

    def __call__(self, pairs: Sequence[tuple[str, str]], batch_size: int) -> Texts:
        texts = []
        for start in range(0, len(pairs), batch_size):
            rows = [self.template.encode_prompt(*p) for p in pairs[start : start + batch_size]]
            width = max(map(len, rows))
            ids = torch.full((len(rows), width), self.config.pad_token_id)
            mask = torch.zeros_like(ids)
            for index, row in enumerate(rows):
                ids[index, width - len(row) :] = torch.tensor(row)
                mask[index, width - len(row) :] = 1
            with torch.inference_mode():
                output = base_model_of(self.model).generate(
                    input_ids=ids, attention_mask=mask, generation_config=self.config
                )
            texts += self.template.tokenizer.batch_decode(
                output[:, width:], skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return [text.strip() for text in texts]


def closeness(model: Any, template: Any, pair: tuple[str, str], texts: Sequence[str]) -> float:
    """Returns the distance of the two best logits where two answers part."""
    ids = [template.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    same = 0
    while same < min(map(len, ids)) and ids[0][same] == ids[1][same]:
        same += 1
    prompt = [*template.encode_prompt(*pair), *ids[0][:same]]
    with torch.inference_mode():
        best = model(input_ids=torch.tensor([prompt])).logits[0, -1].topk(2).values
    return float(best[0] - best[1])


def choose_pairs(file: Path | None, count: int, seed: int) -> list[tuple[str, str]]:
    """Returns system and user texts: benign and attacked inputs of `count // 2` triplets."""
    source = read_triplets(file) if file else generate("test", 300, seed=0)
    chosen = random.Random(seed).sample(list(source), count // 2)
    return [(t.system, t.user_text(member)) for member in ("benign", "injection") for t in chosen]


def answered(model: Any, template: Any, pairs: Sequence[tuple[str, str]], options: Any) -> Texts:
    """Answers as `llmcausal eval` does."""
    answers = answer_prompts(
        Answering(model, template, options.max_new_tokens, options.batch), pairs
    )
    return [answer.text for answer in answers]


def against_garak(template: Any, pairs: Sequence[tuple[str, str]], options: Any) -> dict[str, Any]:
    """Measures a garak run and `answer_prompts` on the fp32 model without an adapter.

    Returns:
        Their samples, and how many texts are the same; or why garak did not run.
    """
    section = ModelSection(quantization="none", device="cpu", precision="fp32")
    with tempfile.TemporaryDirectory(prefix="eval-") as name:
        file = Path(name) / "pairs.json"
        file.write_text(json.dumps(pairs), "utf-8")
        found = sample(
            [str(ENVIRONMENTS / "garak" / "bin" / "python"), "-m", "benchmarks.peers.garak",
             str(resolve_source(section)), str(file), str(options.max_new_tokens),
             str(options.rounds)]
        )  # fmt: skip
    if "failed" in found:
        return found
    model = load_model(section).model.eval()
    seconds: list[float] = []
    texts: Texts = []
    for _ in range(options.rounds):
        started = time.perf_counter()
        texts = answered(model, template, pairs, options)
        seconds.append(time.perf_counter() - started)
    return {
        "samples_seconds": {GARAK: found["seconds"], OURS: seconds},
        "times_faster": statistics.median(found["seconds"]) / statistics.median(seconds),
        "identical_texts": sum(a == b for a, b in zip(texts, found["texts"], strict=True)),
    }


def main() -> None:
    """Measures, prints a table and writes the JSON result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="triplet JSONL; default: built-in")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32, help="prompts in a batch of ours")
    parser.add_argument("--padded-batch", type=int, default=32, help="prompts in a padded batch")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of triplets")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    config = RunConfig.model_validate({"model": {"device": "cpu", "precision": "fp32"}})
    loaded = load_model(config.model)
    model = add_lora(loaded.model, config.lora, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.01, generator=generator)
    template = load_template(config.model, loaded.tokenizer)
    pairs = choose_pairs(arguments.file, arguments.prompts, arguments.seed)
    plain = Plain(model, template, arguments.max_new_tokens)

    variants: dict[str, Callable[[], Texts]] = {
        ONE: lambda: plain(pairs, 1),
        PADDED: lambda: plain(pairs, arguments.padded_batch),
        OURS: lambda: answered(model, template, pairs, arguments),
    }
    answer_prompts(Answering(model, template, 2, 2), pairs[:2])  # warm-up
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    texts: dict[str, Texts] = {}
    rates = [matmul_rate()]
    for _ in range(arguments.rounds):
        for name, variant in variants.items():
            started = time.perf_counter()
            texts[name] = variant()
            seconds[name].append(time.perf_counter() - started)
        rates.append(matmul_rate())
    differing = [
        {"variant": name, "prompt": pair[1], "one_by_one": wanted, "found": found,
         "logits_apart": closeness(model, template, pair, (wanted, found))}
        for name in (PADDED, OURS)
        for pair, wanted, found in zip(pairs, texts[ONE], texts[name], strict=True)
        if wanted != found
    ]  # fmt: skip
    report = summarize(arguments, template, pairs, seconds, texts, differing, max(rates))
    report["garak"] = against_garak(template, pairs, arguments)
    show(report)
    write(report, arguments.out)


def summarize(
    arguments: Any,
    template: Any,
    pairs: Sequence[tuple[str, str]],
    seconds: dict[str, list[float]],
    texts: dict[str, Texts],
    differing: list[dict[str, Any]],
    rate: float,
) -> dict[str, Any]:
    """Turns raw samples into the report."""
    prompts = [template.encode_prompt(*pair) for pair in pairs]
    rates = {name: len(pairs) / statistics.median(samples) for name, samples in seconds.items()}
    return {
        **header("eval", {"choice of triplets": arguments.seed}),
        "file": str(arguments.file or "builtin"),
        "prompts": len(pairs),
        "prompt_tokens": sum(map(len, prompts)),
        "prompt_tokens_as_one_tree": len(pack(prompts)),
        "max_new_tokens": arguments.max_new_tokens,
        "batch": {ONE: 1, PADDED: arguments.padded_batch, OURS: arguments.batch},
        "prompts_per_second": rates,
        "samples_seconds": seconds,
        "times_faster": {other: rates[OURS] / rates[other] for other in (ONE, PADDED)},
        "identical_texts": {
            name: sum(a == b for a, b in zip(texts[ONE], found, strict=True))
            for name, found in texts.items()
        },
        "differing": differing,
        "matmul_flop_per_second": rate,
    }


def show(report: dict[str, Any]) -> None:
    """Prints the report."""
    machine = report["environment"]
    packages = machine["packages"]
    print(f"{report['prompts']} prompts of {report['file']}, {report['prompt_tokens']} tokens "
          f"({report['prompt_tokens_as_one_tree']} as one tree), "
          f"{report['max_new_tokens']} new ones at most; {machine['date']}")  # fmt: skip
    print(f"{machine['processor']}, {machine['threads']} threads, torch {packages['torch']}, "
          f"transformers {packages['transformers']}, peft {packages['peft']}")  # fmt: skip
    print(f"{'variant':16}{'batch':>6}{'prompts/s':>11}{'identical texts':>17}")
    for name, rate in report["prompts_per_second"].items():
        same = f"{report['identical_texts'][name]} of {report['prompts']}"
        print(f"{name:16}{report['batch'][name]:6}{rate:11.2f}{same:>17}")
    for other, ratio in report["times_faster"].items():
        print(f"{OURS} is {ratio:.1f}x as fast as {other}")
    print(f"against garak, fp32: {report['garak']}")
    for row in report["differing"]:
        print(f"{row['variant']} differs; the two best logits there are {row['logits_apart']:.2g} "
              f"apart:\n  {row['one_by_one']!r}\n  {row['found']!r}")  # fmt: skip


if __name__ == "__main__":
    main()
