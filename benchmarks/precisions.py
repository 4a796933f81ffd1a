"""The same checkpoint answering the same prompts in bf16 and in fp32: how fast, and how alike.

    python -m benchmarks.precisions [--checkpoint runs/demo-cpu/best] [--triplets 60]

Each precision loads the NF4 model with the checkpoint's adapter, as `llmcausal eval` does, and
answers benign and attacked prompts of built-in test triplets. Attack success and utility stand with
their 95% intervals; greedy texts part where the two best tokens are nearer than rounding.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.result import header, write
from llmcausal.launched import settle_libraries

PRECISIONS = ("fp32", "bf16")
FIGURES = ("attack_success_rate", "utility", "utility_under_attack")


def answered(checkpoint: Path, precision: str, count: int) -> dict[str, Any]:
    """Evaluates the checkpoint in one precision, without cache or baseline."""
    from llmcausal.assembly.prepare import load_template
    from llmcausal.data.builtin import generate
    from llmcausal.evaluation.evaluate import evaluate
    from llmcausal.evaluation.generation import Answering
    from llmcausal.model.factory import load_model
    from llmcausal.profile import load_config
    from llmcausal.train.build import build_adapters
    from llmcausal.train.checkpoint import CONFIG, restore_weights

    config = load_config(checkpoint / CONFIG, [f'model.precision="{precision}"'])
    loaded = load_model(config.model, config.memory)
    model = build_adapters(config, loaded)
    restore_weights(checkpoint, model, None)
    template = load_template(config.model, loaded.tokenizer)
    triplets = list(generate("test", count, seed=config.data.builtin.seed))
    section = config.evaluation
    answering = Answering(model, template, section.max_new_tokens, section.batch_size)
    evaluate(answering, triplets[:2], baseline=False)  # warm-up
    started = time.perf_counter()
    found = evaluate(answering, triplets, baseline=False)
    seconds = time.perf_counter() - started
    prompts = {(row["id"], row["member"]): row["answer"] for row in found["generations"]}
    return {
        "seconds": seconds,
        "answers": prompts,
        "answers_per_second": len(prompts) / seconds,
        "figures": {name: found["tuned"][name] for name in FIGURES},
    }


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/demo-cpu/best"))
    parser.add_argument("--triplets", type=int, default=60)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    settle_libraries()
    found = {each: answered(arguments.checkpoint, each, arguments.triplets) for each in PRECISIONS}
    texts = [found[each].pop("answers") for each in PRECISIONS]
    same = sum(texts[0][key] == texts[1][key] for key in texts[0])
    result = header("precisions", {}) | {
        "rows": found,
        "times_faster": found["bf16"]["answers_per_second"] / found["fp32"]["answers_per_second"],
        "identical_texts": same,
        "prompts": len(texts[0]),
    }
    for name, row in found.items():
        figures = ", ".join(
            f"{metric} {each['value']:.1%} [{each['low']:.1%}, {each['high']:.1%}]"
            for metric, each in row["figures"].items()
        )
        print(f"{name}: {row['answers_per_second']:.2f} answers/s; {figures}")
    print(f"bf16 is {result['times_faster']:.2f} times as fast; {same} of {len(texts[0])} texts "
          "are the same")  # fmt: skip
    write(result, arguments.out)


if __name__ == "__main__":
    main()
