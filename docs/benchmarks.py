"""Writes docs/benchmarks.md and its pictures from benchmarks/results.

`--check` compares instead. No figure is typed here: what has no result is named as missing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.__main__ import BENCHMARKS  # noqa: E402
from benchmarks.pictures import picture  # noqa: E402
from benchmarks.tables import SECTIONS, Result, circumstances  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
PICTURES = REPOSITORY / "docs" / "benchmarks"
INTRODUCTION = """# Benchmarks

`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME` runs one and keeps its raw
samples in benchmarks/results, `make bench` runs most of them. `docs/benchmarks.py` makes this page
from those files; no figure in it is typed. Figures are medians, with the smallest and the largest
sample in brackets.

`python -m benchmarks counts` compares counts that do not depend on the machine (tokens computed,
operations dispatched, bytes allocated, modules imported) with the expected counts; the tests run
it.
"""
NOTES = {
    "step_peers_bf16": """`keep`, `recompute` and `lean` are [memory strategies](memory.md).
Our program computes shared tokens once, makes logits only at labels, computes each layer as one
function, and keeps no casts and no copy of shared keys. The others compute each member separately,
padded, with logits at every position; their weights are bf16 and their adapters fp32 under
autocast. Each variant runs until its last three steps agree to 5%.
""",
    "step_peers_bf16_amx": """As above, on a processor with AMX and with later code:
`keep, torch's products` computes adapted layers, MLPs and norms as one function each.
""",
    "step_peers": """As above, in fp32. `keep, torch's products` runs the modules of transformers
and peft over the same tree.
""",
    "beside": """A step waits for the slower of its threads. By default a waiting thread spins for
milliseconds. If it shares its core with the thread that it waits for, this spin takes the core's
whole turn. The command line sets `GOMP_SPINCOUNT`, so the thread sleeps sooner. Linux compares
priorities only within a session (autogroups), so nice 19 does not help against another terminal's
program.
""",
    "limit": """The count covers products with frozen weights and the output head; attention,
adapters and everything else are additional work. The bytes cover every operator's tensors, read or
written, as if no cache held any. torch's own products use MKL, which is slower than oneDNN on
this processor; ours uses oneDNN.
""",
    "startup": """trl's --help prints argparse's plain text; ours uses Typer and Rich, most of its
imports. No other program here has a `doctor`, or trains on the data of `train`.
""",
    "estimates": """The others estimate for a model and ignore the step: its tokens and what its
strategy keeps. No estimator, ours included, needs a run of the program.
""",
    "eval": """garak sends a probe's prompts one by one to its own `huggingface.Model`; the time
excludes scoring the answers. promptfoo was not run: it asks a server for each answer, so its
time would be the server's.
""",
    "data": """Ours checks the file, keeps a ledger of dropped triplets, and packs prefix trees, so
fewer tokens reach the model; the pipeline with `datasets` does none of this. Ours holds the
encoded triplets in memory, and `datasets` maps them from a file; to take less memory, ours would
have to write them to a file as well.
""",
}
"""What a reader needs with the figures: reasons, no figures."""


def load(folder: Path) -> dict[str, Result]:
    """Returns the results that are kept, by name."""
    found = ((name, folder / f"{name}.json") for name in SECTIONS)
    return {name: json.loads(file.read_text("utf-8")) for name, file in found if file.is_file()}


def files(folder: Path) -> dict[Path, str]:
    """Returns page and pictures as they should be by the results in a folder."""
    results = load(folder)
    parts, made = [INTRODUCTION], {}
    for name, render in SECTIONS.items():
        command, half, _ = name.partition("_bf16")
        line = BENCHMARKS[command]
        command += " --precision bf16" if half else ""
        parts.append(f"## {name}\n\n`python -m benchmarks {command}`: {line}.\n")
        result = results.get(name)
        if result is None:
            parts.append("No result is kept: this was not measured or not recorded.\n")
            continue
        parts += [circumstances(result), render(result)]
        if name in NOTES:
            parts.append(NOTES[name])
        if drawn := picture(name, result):
            made[PICTURES / f"{name}.svg"] = drawn
            parts.append(f"![{line}](benchmarks/{name}.svg)\n")
    return {PAGE: "\n".join(parts), **made}


def main(arguments: list[str]) -> int:
    from generated import publish

    by = "python docs/benchmarks.py"
    made = files(RESULTS).items()
    return max([publish(file, text, arguments, by) for file, text in made])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
