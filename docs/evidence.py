"""Writes docs/evidence.md, its picture and README's table from benchmarks/results/evidence.json.

`--check` compares instead. No figure is typed here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from generated import between_marks, publish  # noqa: E402

from benchmarks.pictures import shares  # noqa: E402
from benchmarks.tables import circumstances, table  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "evidence.json"
EARLIER = {
    "demo": """## The demo's own size

What `make demo` trains with on a processor with bf16: the same objective on fewer triplets.
""",
    "weight": """## With the preference's weight at 1

The comparison before the profiles had `lambda_preference = 4`, on another processor and on other
rows of SEP. It decides on the invariance.
""",
    "earlier": """## An earlier comparison

The preference's weight was 1 and the profiles had the invariance term. Methods and variants that
the comparisons above do not have are here, most with one seed.
""",
}
"""Other results, by the end of their file's name and the start of their tables' titles."""
RENAMED = {
    "weight": {
        "ours": "llmcausal, weight 1",
        "with invariance": "llmcausal, weight 1, with the invariance",
    },
    "earlier": {
        "ours": "llmcausal, weight 1, with the invariance",
        "without invariance": "llmcausal, weight 1, without the invariance",
        "without swap": "llmcausal, weight 1, without the role swap",
        "without preference": "llmcausal, weight 1, without the preference",
        "first two terms": "llmcausal, weight 1, without swap, preference and invariance",
    },
}
"""What methods were when a result was made, by the keys of `EARLIER`."""
PAGE = REPOSITORY / "docs" / "evidence.md"
PICTURE = REPOSITORY / "docs" / "evidence.svg"
README = REPOSITORY / "README.md"
BEST = "attack_success_best_of_k"
COLUMNS = {
    BEST: "any of {k} attacks works",
    "attack_success_rate": "an attack works",
    "before_search": "before the search",
    "instruction_following": "follows the instruction when trusted",
    "utility": "utility",
    "utility_under_attack": "utility under attack",
    "empty_answers": "empty",
    "refusals": "refusing",
    "repetitions": "repeating",
    "likeness": "likeness to the untouched",
}
ABOUT = {
    "adaptive": "A search against each model itself (GCG, `eval --adaptive`) adds text to the "
    "attack in the first built-in test prompts. Every method gets the same few steps; "
    "attackers who search longer do better.\n\n",
}
INTRODUCTION = """# Evidence

This page compares defences with equal data and steps under the same attacks, in generated text.
`python docs/evidence.py` makes it from the result; no figure in it is typed.

{runs}
Every method is the demo with other loss weights: same data, labels, steps and adapters
(except SecAlign's, which are only on the queries and values). All have the demo's
learning rate, unless the name or a note says otherwise. `untouched` is the model without an
adapter. Shares are pooled over {seeds}, with Wilson's 95% interval; several seeds answer the same
prompts, so the intervals are somewhat too narrow. p compares a method with the row that has no p
on the same prompts and seeds, for the first column: an exact permutation test that keeps a
prompt's seeds together.
Likeness is the share of words that clean answers have in common with the untouched model's.
"""


def pooled(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[int, int] | None:
    """Returns successes and trials of a metric over seeds; None where it was not measured."""
    figures = [row["figures"][metric] for row in rows if metric in row["figures"]]
    if not figures:
        return None
    return sum(round(each["value"] * each["n"]) for each in figures), sum(f["n"] for f in figures)


def share(found: tuple[int, int] | None) -> str:
    """Writes a share with its interval."""
    if found is None:
        return "-"
    count, n = found
    interval = binomtest(count, n).proportion_ci(method="wilson")
    return f"{count / n:.1%} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def likeness(rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes the mean likeness over seeds; it is no share of prompts."""
    values = [row["figures"]["likeness"]["value"] for row in rows if "likeness" in row["figures"]]
    return f"{sum(values) / len(values):.0%}" if values else "-"


def p_value(rows: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> str:
    """Compares two methods on the prompts of the same seeds by an exact permutation test.

    A prompt's seeds stay together: their verdicts are not independent. If the methods were alike,
    the sign of each prompt's difference would be a coin's.
    """
    by_seed = {row["seed"]: row["broken"] for row in ours}
    difference: dict[str, int] = {}
    for row in rows:
        # The untouched base has no seed: it is compared with every seed.
        seeds = by_seed if row["method"] == "untouched" else {row["seed"]} & by_seed.keys()
        for seed in seeds:
            for prompt, broken in row["broken"].items():
                more = int(broken) - int(by_seed[seed][prompt])
                difference[prompt] = difference.get(prompt, 0) + more
    sums = np.ones(1)  # how probable each sum is, from the lowest to the highest
    for size in map(abs, difference.values()):
        sums = np.convolve(sums, [0.5, *[0.0] * (2 * size - 1), 0.5]) if size else sums
    middle = len(sums) // 2
    as_far = abs(np.arange(len(sums)) - middle) >= abs(sum(difference.values()))
    return f"{sums[as_far].sum():.2g}"


def section(
    suite: str, rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], k: int, before: str
) -> str:
    """Returns the table of a suite; `before` begins its title."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    of = {method: [row for row in rows if row["method"] == method] for method in methods}
    measured = [m for m in COLUMNS if any(m in row["figures"] for row in rows)]
    n = max((f[1] for m in methods if (f := pooled(of[m], measured[0]))), default=0)
    head = ["method", *(COLUMNS[metric].format(k=k) for metric in measured), "p"]
    lines = []
    for method in methods:
        cells = [likeness(of[method]) if metric == "likeness" else share(pooled(of[method], metric))
                 for metric in measured]  # fmt: skip
        same = method == "ours" or "ours" not in of
        lines.append([names[method], *cells, "" if same else p_value(of[method], of["ours"])])
    about = ABOUT.get(suite, "")
    return f"## {before}{suite}\n\n{about}n {n} in the first column.\n\n{table(head, lines)}"


def runs(result: Mapping[str, Any]) -> str:
    """Returns how a result was made: commands, machines, notes."""
    return "\n".join(
        f"    {each['command']}\n\n{circumstances(dict(each)).strip()}\n\n{each['note']}\n"
        for each in [result, *result.get("earlier", [])]
    )


def sections(result: Mapping[str, Any], before: str = "") -> list[str]:
    """Returns the tables of all suites; `before` begins their titles."""
    rows = result["rows"]
    tables = []
    for suite in dict.fromkeys(row["suite"] for row in rows):
        chosen = [row for row in rows if row["suite"] == suite]
        tables.append(section(suite, chosen, result["names"], result["attacks"], before))
    return tables


def page(result: Mapping[str, Any], earlier: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the page; `earlier` maps the keys of `EARLIER` to their results."""
    seeds = len({row["seed"] for row in result["rows"]})
    parts = [
        INTRODUCTION.format(runs=runs(result), seeds=f"{seeds} seeds" if seeds > 1 else "one seed"),
        "![The share of prompts on which any attack works, by suite and method](evidence.svg)\n",
        *sections(result),
    ]
    for key, other in earlier.items():
        renamed = {**other, "names": {**other["names"], **RENAMED.get(key, {})}}
        parts += [EARLIER[key], runs(other), *sections(renamed, f"{key}, ")]
    return "\n".join(parts)


SHORT = {
    ("sep", BEST): "SEP: any of {k} attacks works",
    ("natural", BEST): "natural tasks: any of {k} works",
    ("builtin", "attack_success_rate"): "built-in tasks: an attack works",
    ("builtin", "utility"): "built-in tasks: right answers",
}
"""The columns of README's table."""


def readme(text: str, result: Mapping[str, Any]) -> str:
    """Returns README with the table between its marks renewed.

    Raises:
        ValueError: If the marks are not there once.
    """
    rows = result["rows"]
    suites = {row["suite"] for row in rows}
    shown = {key: label for key, label in SHORT.items() if key[0] in suites}
    order = ("untouched", "plain", "struq", "secalign++", "ours")
    methods = [m for m in order if any(row["method"] == m for row in rows)]
    lines = []
    for method in methods:
        of = [row for row in rows if row["method"] == method]
        cells = [share(pooled([r for r in of if r["suite"] == s], metric)) for s, metric in shown]
        lines.append([result["names"][method], *cells])
    head = ["", *(label.format(k=result["attacks"]) for label in shown.values())]
    return between_marks(text, "evidence", f"\n{table(head, lines)}\n")


def drawing(result: Mapping[str, Any]) -> str:
    """Returns the picture: one group of bars a suite."""
    rows = result["rows"]
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        metric = BEST if BEST in row["figures"] else "attack_success_rate"
        own = [r for r in rows if (r["suite"], r["method"]) == (row["suite"], row["method"])]
        if found := pooled(own, metric):
            name = result["names"][row["method"]]
            groups.setdefault(row["suite"], {})[name] = found[0] / found[1]
    return shares(groups, "prompts on which any attack works")


def main(arguments: list[str]) -> int:
    """Writes page and picture, or compares them."""
    if not RESULT.is_file():
        return 0
    result = json.loads(RESULT.read_text("utf-8"))
    by = "python docs/evidence.py"
    files = {key: RESULT.with_stem(f"evidence_{key}") for key in EARLIER}
    earlier = {key: json.loads(file.read_text("utf-8")) for key, file in files.items()}
    made = {PAGE: page(result, earlier), PICTURE: drawing(result)}
    made[README] = readme(README.read_text("utf-8"), result)
    return max([publish(file, text, arguments, by) for file, text in made.items()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
