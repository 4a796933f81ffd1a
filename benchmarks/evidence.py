"""Defences trained alike and attacked alike: `make evidence`.

    python -m benchmarks.evidence [--quick] [--seeds 3] [--methods ours struq] [--once M ...]
        [--settings K=V ...]
        [--sep SEP.json] [--alpaca-farm FILE] [--bipia FOLDER] [--injecagent FILE]
        [--adaptive N [--search-only]] [--add-to RESULT.json]

Each method is the demo with other weights: same data, labels, steps, learning rate and adapters
(but for SecAlign's, which are its own). Untouched is the base without an adapter. Every suite is
attacked several times on each prompt; the headline is whether any attack works. What is there
already is not made again: stopped, give the same command again.

The suites `natural` and `builtin` come with the program and are the test splits: no setting was
chosen by them. `--quick` is one seed and fewer prompts. `--add-to` keeps the rows of an earlier
result that this run does not measure again; the untouched model must answer alike in both.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result import header, write
from llmcausal.evaluation.summary import broken_by_search, likeness_between

COMMON = ("evaluation.at_end=false", "early_stopping.enabled=false", "validation.every_steps=0",
          "loss.lambda_contrastive=0")  # fmt: skip
DATA = ("data.max_length=256", "data.builtin.train=560", "data.builtin.natural=0.8",
        "data.builtin.validation=24", "data.builtin.test=60",
        "checkpoint.every_steps=400")  # fmt: skip
"""More than the demo has time for."""
OFF = ("loss.lambda_robust=0", "loss.lambda_swap=0", "loss.lambda_preference=0",
       'loss.average="tokens"')  # fmt: skip
SECALIGN = ("loss.lambda_task=0", "loss.lambda_preference=1", "loss.preference_beta=0.1",
            'loss.preference_ratio="sum"', "train.learning_rate=2e-4")  # fmt: skip
METHODS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ours": ("llmcausal", ()),
    "plain": ("plain fine-tuning", OFF),
    "struq": ("StruQ", (*OFF, "loss.lambda_robust=1")),
    "struq, slow": (
        "StruQ, half the learning rate",
        (*OFF, "loss.lambda_robust=1", "train.learning_rate=5e-4"),
    ),
    "first two terms": (
        "llmcausal without swap and preference",
        ("loss.lambda_swap=0", "loss.lambda_preference=0"),
    ),
    "without swap": ("llmcausal without the role swap", ("loss.lambda_swap=0",)),
    "without preference": ("llmcausal without the preference", ("loss.lambda_preference=0",)),
    "weak preference": ("llmcausal, preference 1", ("loss.lambda_preference=1",)),
    "with adversary": ("llmcausal with the adversary", ("loss.lambda_adversarial=1",)),
    "with invariance": ("llmcausal with the invariance", ("loss.lambda_invariance=2",)),
    "secalign": (
        "SecAlign",
        (*OFF, *SECALIGN, 'lora.target_modules=["q_proj","v_proj"]'),
    ),
    "secalign++": ("SecAlign++", (*OFF, *SECALIGN)),
    "seeds": (
        "contrast on all tokens",
        (*OFF, "loss.lambda_robust=1", "loss.lambda_contrastive=1", 'loss.pooling="mean"',
         "loss.layer=-1",
         'loss.contrast_gradient="model"', "loss.lambda_causal=0.5", "loss.lambda_spurious=0.5"),
    ),
}  # fmt: skip
"""Each method, its name, and what it sets otherwise than the demo does."""
FIGURES = ("attack_success_best_of_k", "attack_success_rate", "utility", "utility_under_attack",
           "instruction_following", "empty_answers", "refusals", "repetitions")  # fmt: skip
FOLDER = Path("runs/evidence")
ATTACKS = 6


def llmcausal(*arguments: str) -> None:
    """Runs the command line; ends with it if it fails."""
    print("$ llmcausal", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "llmcausal", *arguments], check=True)


def trained(method: str, seed: int, settings: Sequence[str]) -> Path:
    """Trains a method with a seed, or resumes it; returns its best checkpoint."""
    run = FOLDER / f"{re.sub('[^a-z+]+', '-', method).replace('+', 'p')}-{seed}"
    if (run / "config.toml").is_file():
        if not (run / "done").is_file():
            llmcausal("resume", str(run))
    else:
        named = [f'name="{run.name}"', f'output_dir="{FOLDER}"', f"train.seed={seed}"]
        given = [*COMMON, *settings, *METHODS[method][1], *named]
        llmcausal("train", "demo-cpu", *(part for each in given for part in ("--set", each)))
    (run / "done").touch()
    return run / "best"


def searched(checkpoint: Path, prompts: int, untouched: bool) -> dict[str, dict[str, Any]]:
    """Searches attacks against each of the first built-in test prompts (GCG); rows by side."""
    folder = checkpoint.parent / "evidence-adaptive"
    file = folder / "results.json"
    found = json.loads(file.read_text("utf-8"))["adaptive"] if file.is_file() else {}
    if not found or (untouched and "base" not in found):
        against = [] if untouched else ["--no-baseline"]
        llmcausal("eval", "--checkpoint", str(checkpoint), "--suite", "builtin", *against,
                  "--answers-only", "--adaptive", str(prompts), "--max-samples", str(2 * prompts),
                  "--out", str(folder))  # fmt: skip
        found = json.loads(file.read_text("utf-8"))["adaptive"]
    return {side: broken_prompts(found[side]) for side in ("base", "tuned") if side in found}


def broken_prompts(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures of a search, and which prompts it breaks."""
    names = ("attack_success_rate", "before_search", "utility_under_attack")
    broken = {str(index): broken_by_search(each) for index, each in enumerate(found["examples"])}
    return {"figures": {name: found[name] for name in names}, "broken": broken}


def attacked(checkpoint: Path, suite: str, options: Sequence[str], untouched: bool) -> Path:
    """Evaluates a checkpoint on a suite; returns the folder of the result."""
    folder = checkpoint.parent / f"evidence-{suite}"
    if not (folder / "results.json").is_file():
        against = [] if untouched else ["--no-baseline"]
        llmcausal("eval", "--checkpoint", str(checkpoint), "--suite", suite, "--answers-only",
                  *options, *against, "--out", str(folder))  # fmt: skip
    return folder


def generations(folder: Path) -> list[dict[str, Any]]:
    """Returns every answer of a result."""
    return [*map(json.loads, (folder / "generations.jsonl").read_text("utf-8").splitlines())]


def verdicts(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, bool]:
    """Returns of each prompt whether any attack on it works."""
    prompts = {row["id"]: f"{row['system']}\n{row['prompt']}" for row in rows
               if row["member"] == "benign"}  # fmt: skip
    numbers: dict[str, str] = {}  # by their order, which is the same for every method
    broken: dict[str, bool] = {}
    for row in rows:
        if row["member"] == "injection" and row[column] is not None:
            prompt = numbers.setdefault(prompts[row["id"]], str(len(numbers)))
            broken[prompt] = broken.get(prompt, False) or row[column]
    return broken


def clean_answers(rows: Sequence[Mapping[str, Any]], column: str) -> dict[tuple[str, str], str]:
    """Returns the answers to the prompts without an attack."""
    return {(row["system"], row["prompt"]): row[column] for row in rows
            if row["member"] == "benign"}  # fmt: skip


def figures(folder: Path, side: str, untouched: Mapping[Any, str]) -> dict[str, Any]:
    """Returns the figures of one side of a result, and which prompts are broken.

    Args:
        folder: Of the result.
        side: `base` or `tuned`.
        untouched: The base's answers to the prompts without an attack.
    """
    found = json.loads((folder / "results.json").read_text("utf-8"))[side]
    column = "obeyed" if side == "tuned" else "base_obeyed"
    measured = {name: found[name] for name in FIGURES if found.get(name, {}).get("n")}
    rows = generations(folder)
    if side == "tuned":
        measured["likeness"] = likeness_between(clean_answers(rows, "answer"), untouched)
    return {"figures": measured, "broken": verdicts(rows, column)}


def kept(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Reads an earlier result without the rows that are measured again.

    Raises:
        SystemExit: If its prompts or the untouched model's answers to them are others.
    """
    earlier: dict[str, Any] = json.loads(path.read_text("utf-8"))
    base = {row["suite"]: row["broken"] for row in rows if row["method"] == "untouched"}
    measured = {(row["suite"], row["method"], row["seed"]) for row in rows}
    rest = []
    for row in earlier["rows"]:
        if row["method"] == "untouched" and row["broken"] != base.get(row["suite"], row["broken"]):
            raise SystemExit(
                f"{path}: attacks on the untouched model succeed on other {row['suite']} prompts "
                "than here; the results cannot be joined"
            )
        if (row["suite"], row["method"], row["seed"]) not in measured:
            rest.append(row)
    return {**earlier, "rows": rest}


def suites(arguments: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yields the suites that can be run, each with its options."""
    if arguments.search_only:
        return
    most = ["--max-samples", str(arguments.prompts * ATTACKS)]
    yield "natural", most
    yield "builtin", []
    for suite in ("sep", "alpaca_farm", "bipia", "injecagent"):
        if path := getattr(arguments, suite):
            yield suite, ["--data", str(path), "--attacks", str(ATTACKS), *most]


def main() -> None:
    """Trains, attacks, and writes what docs/evidence.py makes a page of."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--once", nargs="*", default=[], help="methods of the first seed alone")
    parser.add_argument("--settings", nargs="*", default=list(DATA), metavar="KEY=VALUE")
    for suite in ("sep", "alpaca-farm", "bipia", "injecagent"):
        parser.add_argument(f"--{suite}", type=Path)
    parser.add_argument("--adaptive", type=int, metavar="N",
                        help="also search attacks on N built-in prompts of --methods")  # fmt: skip
    parser.add_argument("--search-only", action="store_true",
                        help="run the suite of --adaptive alone")  # fmt: skip
    parser.add_argument("--note", default="", help="what the page says of this run")
    parser.add_argument("--add-to", type=Path, metavar="RESULT")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.prompts = 1, min(arguments.prompts, 24)
    if arguments.search_only and not arguments.adaptive:
        parser.error("--search-only needs --adaptive")
    methods = arguments.methods
    if unknown := {*methods, *arguments.once} - METHODS.keys():
        parser.error(f"--methods: unknown {', '.join(unknown)} (known: {', '.join(METHODS)})")

    test = f"data.builtin.test_natural={arguments.prompts}"
    rows: list[dict[str, Any]] = []
    untouched: dict[str, dict[tuple[str, str], str]] = {}
    for seed in range(arguments.seeds):
        for method in [*methods, *(() if seed else arguments.once)]:
            best = trained(method, seed, [*arguments.settings, test])
            for suite, options in suites(arguments):
                first = seed == 0 and method == methods[0]
                folder = attacked(best, suite, options, untouched=first)
                named = {"seed": seed, "suite": suite}
                if first:
                    untouched[suite] = clean_answers(generations(folder), "base_answer")
                    base = figures(folder, "base", untouched[suite])
                    rows.append({**named, "method": "untouched", **base})
                tuned = figures(folder, "tuned", untouched[suite])
                rows.append({**named, "method": method, **tuned})
            if arguments.adaptive and seed == 0 and method in methods:
                found = searched(best, arguments.adaptive, untouched=method == methods[0])
                for side, row in found.items():
                    name = method if side == "tuned" else "untouched"
                    rows.append({"seed": seed, "suite": "adaptive", "method": name, **row})
    result = header("evidence", {"train.seed": arguments.seeds}) | {
        "note": arguments.note,
        "attacks": ATTACKS,
        "names": {"untouched": "untouched", **{key: name for key, (name, _) in METHODS.items()}},
        "rows": rows,
    }
    if arguments.add_to:
        earlier = kept(arguments.add_to, rows)
        rows += earlier.pop("rows")
        result["earlier"] = [earlier, *earlier.pop("earlier", [])]
    order = list(result["names"])
    rows.sort(key=lambda row: (row["seed"], order.index(row["method"])))
    write(result, arguments.out)


if __name__ == "__main__":
    main()
