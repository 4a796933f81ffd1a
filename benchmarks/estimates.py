"""Predicted memory of a training step: ours and other estimators, with the truth measured.

    python -m benchmarks.estimates [--count 5] [--steps 2]

Cases are rows of `benchmarks.memory`; the truth is what torch's allocator gave in real steps, by
the profiler's memory events. `accelerate estimate-memory` refuses a local folder and asks the hub,
so its own arithmetic (`calculate_maximum_sizes`, `estimate_training_usage`: full training with
Adam) is called on the same model without weights. `alloc` is its `ghost` on that model with
adapters, told rows and length. Neither is told of strategies, prefixes or NF4: they have no way to.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.memory import CASES, SMOLLM2, TINY, alone, case_settings, save_tiny
from benchmarks.result import header, write
from benchmarks.step_workers import ENVIRONMENTS

ALLOC = ENVIRONMENTS / "alloc"
CHOSEN = [
    case for case in CASES
    if case[:3] in {(TINY, "none", "keep"), (SMOLLM2, "none", "keep"),
                    (SMOLLM2, "none", "recompute"), (SMOLLM2, "nf4", "recompute")}
]  # fmt: skip
_BARE = """
import json, sys, time
import torch
from transformers import AutoConfig, AutoModelForCausalLM
started = time.perf_counter()
settings = json.loads(sys.argv[1])
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(settings["folder"]))
"""
_ANSWER = """
print(json.dumps({"estimated_bytes": int(estimated), "seconds": time.perf_counter() - started}))
"""
_ACCELERATE = (
    _BARE
    + """
from accelerate.commands.estimate import estimate_training_usage
from accelerate.utils import calculate_maximum_sizes
total, _ = calculate_maximum_sizes(model)
estimated = max(estimate_training_usage(total, "float32").values())
"""
    + _ANSWER
)
_ALLOC = (
    _BARE
    + """
from alloc.ghost import ghost
from peft import LoraConfig, get_peft_model
model = get_peft_model(model, LoraConfig(r=settings["rank"], target_modules="all-linear"))
report = ghost(model, dtype="float32", batch_size=settings["rows"],
               seq_length=settings["length"], optimizer_type="adamw")
if report.estimation_failed:
    raise SystemExit("alloc: estimation failed")
estimated = report.total_gb * 2**30
"""
    + _ANSWER
)
OTHERS = {
    "accelerate": (_ACCELERATE, "full fp32 training with Adam; knows no length, adapters or NF4"),
    "alloc": (_ALLOC, "adapters, rows and length; knows no strategy, prefixes or NF4"),
}


def other(code: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Runs another estimator in a process of its own; a failure is an answer too."""
    paths = os.pathsep.join([str(ALLOC), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(settings)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def case_rows(case: Any, folder: str, smollm2: str, steps: int) -> list[dict[str, Any]]:
    """Measures one case and asks each estimator."""
    settings = case_settings(case, folder)
    load = settings["workload"]
    shown = (f"{'SmolLM2' if case[0] == SMOLLM2 else case[0]}, {case[1]}, {case[2]}, 3 x "
             f"{load['member_tokens']} tokens, {load['shared_tokens']} shared")  # fmt: skip
    truth = alone("measured", settings, steps)
    if "failed" in truth:
        return [{"case": shown, "estimator": "none", "failed": str(truth["failed"])}]
    known = {"case": shown, "measured_bytes": truth["measured_bytes"]}
    found = alone("predicted", settings, steps)
    if "failed" in found:
        rows = [{**known, "estimator": "llmcausal", "failed": str(found["failed"])}]
    else:
        rows = [{**known, "estimator": "llmcausal", "estimated_bytes": found["predicted_bytes"],
                 "seconds": found["prediction_seconds"]}]  # fmt: skip
    told = {
        "folder": smollm2 if case[0] == SMOLLM2 else f"{folder}/tiny",
        "rank": case[5], "rows": 3 * load["triplets"], "length": load["member_tokens"],
    }  # fmt: skip
    for name, (code, note) in OTHERS.items():
        rows.append({**known, "estimator": name, "note": note, **other(code, told)})
    return rows


def main() -> int:
    """Measures, prints and writes the result."""
    from llmcausal.config import ModelSection
    from llmcausal.model.factory import resolve_source

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=len(CHOSEN), help="first cases only")
    parser.add_argument("--steps", type=int, default=2, help="measured; at least 2")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = header("estimates", {"triplets": 0})
    result["rows"] = []
    smollm2 = str(resolve_source(ModelSection(name=SMOLLM2)))
    with tempfile.TemporaryDirectory(prefix="estimates-") as folder:
        save_tiny(folder)
        for case in CHOSEN[: arguments.count]:
            for row in case_rows(case, folder, smollm2, arguments.steps):
                result["rows"].append(row)
                print({key: value for key, value in row.items() if key != "note"}, flush=True)
            write(result, arguments.out)  # an interrupted run leaves what it has
    return int(any("failed" in row for row in result["rows"]))


if __name__ == "__main__":
    sys.exit(main())
