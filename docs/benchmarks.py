"""Writes docs/benchmarks.md, its pictures and README's Speed from benchmarks/results.

`--check` compares instead. No figure is typed here: what has no result is named as missing.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.__main__ import BENCHMARKS  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
PICTURES = REPOSITORY / "docs" / "benchmarks"
README = REPOSITORY / "README.md"
BEGIN = "<!-- docs/benchmarks.py writes this from benchmarks/results: begin -->\n"
END = "<!-- end -->\n"
INTRODUCTION = """# Benchmarks

`python -m benchmarks` lists them, `python -m benchmarks NAME` runs one and keeps its raw samples in
benchmarks/results, `make bench` runs most of them. This page is made
from those files by `docs/benchmarks.py`; no figure in it is typed. Figures are medians, with the
smallest and the largest sample in brackets.

`python -m benchmarks counts` compares what does not depend on the machine (tokens computed,
operations dispatched, bytes allocated, modules imported) with what is expected; the tests run it.
"""
Result = dict[str, Any]
Section = Callable[[Result], str]


def spread(samples: Sequence[float], form: str = ".3g") -> str:
    """Returns the median, with the extremes if there are several samples."""
    middle = format(statistics.median(samples), form)
    if len(samples) < 2:
        return f"{middle} (one sample)"
    return f"{middle} [{format(min(samples), form)}, {format(max(samples), form)}]"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def mib(count: float | None) -> str:
    """Formats bytes; a dash for none."""
    return "-" if count is None else f"{count / 2**20:,.0f}"


def circumstances(result: Result) -> str:
    """Says when and on what a result was measured."""
    facts = result["environment"]
    packages = facts["packages"]
    parts = [
        facts["date"],
        f"{facts['processor']}, {facts['threads']} threads",
        f"cores {', '.join(map(str, result['cores']))}" if "cores" in result else "",
        f"Python {facts['python']}, torch {packages['torch']}, "
        f"transformers {packages['transformers']}, peft {packages['peft']}",
        f"load average at the start {result['load_average_at_start'][0]:.1f}"
        if "load_average_at_start" in result
        else "",
        f"beside it: {result['beside']}" if result.get("beside") else "",
        f"not whole: {result['complete']}" if isinstance(result.get("complete"), str) else "",
    ]
    return f"Measured {'; '.join(part for part in parts if part)}.\n"


def of_startup(result: Result) -> str:
    """Renders start-up times."""
    rows = [[f"`{row['command']}`", spread(row["samples"])] for row in result["rows"]
            if "samples" in row]  # fmt: skip
    failing = [[f"`{row['command']}`", f"`{row['failed']}`"] for row in result["rows"]
               if "failed" in row]  # fmt: skip
    text = table(["command", "seconds"], rows)
    return text + ("\nNot measured:\n\n" + table(["command", "why"], failing) if failing else "")


def of_data(result: Result) -> str:
    """Renders the data path."""
    rows = [
        [row["variant"], f"{row['triplets']:,}", spread(row["per_second"], ",.0f"),
         mib(row["peak_rss_bytes"]), row["computed_tokens"] or "-"]
        if "per_second" in row else [row["variant"], "", f"failed: {row['failed']}", "", ""]
        for row in result["rows"]
    ]  # fmt: skip
    head = ["pipeline", "triplets", "triplets/s", "peak resident MiB", "tokens for the model"]
    return table(head, rows)


def of_estimates(result: Result) -> str:
    """Renders memory estimators."""
    rows = [
        [row["case"], row["estimator"], mib(row["measured_bytes"]), mib(row["estimated_bytes"]),
         f"{row['estimated_bytes'] / row['measured_bytes'] - 1:+.1%}", f"{row['seconds']:.1f}",
         row.get("note", "")]
        if "estimated_bytes" in row
        else [row["case"], row["estimator"], mib(row.get("measured_bytes")), "", "", "",
              row["failed"]]
        for row in result["rows"]
    ]  # fmt: skip
    return table(
        ["step", "estimator", "measured MiB", "estimated MiB", "error", "seconds", ""], rows
    )


def of_merging(result: Result) -> str:
    """Renders the peak of a merge."""
    keys = {"base_bytes": "base", "largest_shard_bytes": "largest file",
            "before_bytes": "process before the merge", "peak_bytes": "peak"}  # fmt: skip
    rows = [[label, mib(result[key])] for key, label in keys.items()]
    return table(
        ["", "MiB"], [*rows, ["peak / largest file", f"{result['peak_of_largest_shard']:.2f}"]]
    )


def of_eval(result: Result) -> str:
    """Renders answers per second."""
    count = result["prompts"]
    rows = [
        [name, result["batch"][name], spread([count / sample for sample in samples]),
         f"{result['identical_texts'][name]} of {count}"]
        for name, samples in result["samples_seconds"].items()
    ]  # fmt: skip
    text = f"{count} prompts, {result['prompt_tokens']} tokens.\n\n" + table(
        ["variant", "batch", "answers/s", "same text as one by one"], rows
    )
    garak = result["garak"]
    if "failed" in garak:
        return f"{text}\ngarak failed: {garak['failed']}\n"
    rows = [
        [name, spread([count / sample for sample in samples])]
        for name, samples in garak["samples_seconds"].items()
    ]
    return (
        f"{text}\nThe fp32 model without an adapter, which garak can load, on the same prompts: "
        f"ours is {garak['times_faster']:.1f} times as fast, {garak['identical_texts']} of "
        f"{count} texts are the same.\n\n{table(['program', 'answers/s'], rows)}"
    )


def of_step(result: Result) -> str:
    """Renders the step on a file of triplets."""
    count = result["triplets"]
    rows = [
        [name, result["tokens"][name], spread([sample / count for sample in samples])]
        for name, samples in result["samples_seconds"].items()
    ]
    head = ["variant", "tokens computed", "seconds per triplet"]
    return f"{count} triplets of `{result['file']}`.\n\n" + table(head, rows)


def of_step_rows(result: Result) -> str:
    """Renders steps by case and variant."""
    rows = [
        [row["case"], row["variant"], spread(row["samples"]), row["tokens"],
         mib(row["allocated_peak_bytes"]), mib(row["peak_rss_bytes"]),
         row.get("reason") or ("yes" if row["ranked"] else row["note"])]
        if "samples" in row
        else [row.get("case", "all"), row["variant"], f"failed: {row['failed']}", "", "", "", ""]
        for row in result["rows"]
    ]  # fmt: skip
    text = table(["case", "variant", "seconds per triplet", "tokens", "tensors MiB",
                  "resident MiB", "same loss"], rows)  # fmt: skip
    return text + (f"\n{versus(result)}" if result.get("comparisons") else "")


def versus(result: Result) -> str:
    """Renders our variants against the fastest of the others, and the goals."""
    found = sorted(result["comparisons"], key=itemgetter("length", "share"))
    within = f"fastest within {result['goals']['memory']:.0%}"
    rows = [
        [f"{row['length']}, {row['share']:.0%}", row["other"],
         *(_against(row[kind]) for kind in ("fastest", "within", "leanest")),
         f"{row['memory_of_leanest']:.0%} of {row['leanest_other']}"]
        for row in found
    ]  # fmt: skip
    head = ["prompt tokens, shared", "fastest other", "our fastest: speed, memory",
            f"our {within}", "our leanest", "its memory of the leanest other's"]  # fmt: skip
    return f"{table(head, rows)}\n{verdict(result, found)}"


def _against(ours: Result | None) -> str:
    if ours is None:
        return "none"
    name = ours["variant"].removeprefix("ours: ")
    return f"{name}: {ours['times_faster']:.2f}x, {ours['memory']:.0%}"


def verdict(result: Result, found: Sequence[Result]) -> str:
    """Says how often the goals were met, and where another program was better."""
    faster, memory = result["goals"]["times_faster"], result["goals"]["memory"]
    text = []
    for goal, where, chosen in (
        (faster["50% shared"], "50% shared or more", [r for r in found if r["share"] >= 0.5]),
        (faster["0% shared"], "less than 50% shared", [r for r in found if r["share"] < 0.5]),
    ):
        met = sum(row["fastest"]["times_faster"] >= goal for row in chosen)
        both = [row for row in chosen if row["within"] and row["within"]["times_faster"] >= goal]
        missed = [row for row in chosen if row not in both]
        text.append(
            f"- {where}: at least {goal:g} times the fastest other in {met} of {len(chosen)}; with "
            f"at most {memory:.0%} of its memory at the same time in {len(both)}"
            + (f" (not in {'; '.join(row['case'] for row in missed)})." if missed else ".")
        )
    heavy = [row["case"] for row in found if row["weights"] > memory]
    if heavy:
        text.append(
            f"- The weights alone are more than {memory:.0%} of the fastest other's memory in "
            f"{'; '.join(heavy)}: no step with the same fp32 weights can be within it."
        )
    lean = sum(row["memory_of_leanest"] <= memory for row in found)
    text.append(
        f"- Our leanest takes at most {memory:.0%} of the leanest other's memory in {lean} of "
        f"{len(found)}."
    )
    slower = [row["case"] for row in found if row["fastest"]["times_faster"] < 1]
    larger = [row["case"] for row in found if row["memory_of_leanest"] > 1]
    text.append(f"- Another program is faster in: {'; '.join(slower) or 'none'}.")
    text.append(f"- Another program takes less memory in: {'; '.join(larger) or 'none'}.")
    return "\n".join(text) + "\n"


def of_step_growth(result: Result) -> str:
    """Renders growth: a table for each axis, time and memory of each variant."""
    text = ""
    for axis in dict.fromkeys(row["axis"] for row in result["rows"]):
        chosen = [row for row in result["rows"] if row["axis"] == axis and "samples" in row]
        variants = list(dict.fromkeys(row["variant"] for row in chosen))
        rows = []
        for value in dict.fromkeys(row["value"] for row in chosen):
            found = {row["variant"]: row for row in chosen if row["value"] == value}
            cells = [
                f"{statistics.median(found[name]['samples']):.3g} s, "
                f"{mib(found[name]['allocated_peak_bytes'])} MiB" if name in found else "failed"
                for name in variants
            ]  # fmt: skip
            rows.append([f"{value:g}", *cells])
        text += f"Per triplet, by {axis}:\n\n{table([axis, *variants], rows)}\n"
    return text.rstrip("\n") + "\n"


def of_limit(result: Result) -> str:
    """Renders shares of the machine's rates, and where operators spend their time."""
    rates = "; ".join(
        f"{name} {spread([rate / 1e9 for rate in found], ',.0f')} GFLOP/s"
        for name, found in result["flop_per_second"].items()
    )
    moved = spread([rate / 1e9 for rate in result["bytes_per_second"]])
    libraries = list(result["flop_per_second"])
    rows = [
        [row["case"], row["variant"], row["tokens"], spread(row["samples"]),
         *(f"{row['share_of_rate'][name]:.0%}" for name in libraries),
         f"{row['traffic_bytes'] / 2**30:.1f}", f"{row['share_of_bandwidth']:.0%}"]
        for row in result["rows"]
    ]  # fmt: skip
    classes = list(result["rows"][0]["operator_time"])
    times = [
        [row["case"], row["variant"], *(f"{row['operator_time'][each]:.0%}" for each in classes)]
        for row in result["rows"]
    ]
    head = ["case", "variant", "tokens", "seconds", *(f"of {name}'s rate" for name in libraries),
            "GiB read and written", "of the bandwidth"]  # fmt: skip
    return (
        f"fp32 matrix products of this machine: {rates}; bytes copied: {moved} GB/s. Goal for ours "
        f"at 512 tokens and more: {result['goal']:.0%} of the rate.\n\n{table(head, rows)}\n"
        f"Where operators spend their time:\n\n{table(['case', 'variant', *classes], times)}"
    )


def of_memory(result: Result) -> str:
    """Renders predictions and strategies."""
    text = ""
    if found := result.get("prediction"):
        text += (f"{found['configurations']} configurations: median error "
                 f"{found['median_error']:.2%}, worst {found['worst_error']:.2%}.\n\n")  # fmt: skip
    if found := result.get("strategies"):
        rows = [
            [name, mib(row["measured_bytes"]), f"{row['share_of_naive']:.0%}",
             f"{row['step_seconds']:.2f}"]
            for name, row in found["rows"].items() if "share_of_naive" in row
        ]  # fmt: skip
        text += table(["strategy", "peak MiB", "of the usual recipe", "seconds per step"], rows)
    return text


SECTIONS: dict[str, Section] = {
    "startup": of_startup, "data": of_data, "estimates": of_estimates, "merging": of_merging,
    "eval": of_eval, "step_peers": of_step_rows, "step_growth": of_step_growth, "limit": of_limit,
    "step": of_step, "memory": of_memory,
}  # fmt: skip
"""In the page's order: every benchmark but `counts`, which is no measure of a machine."""
NOTES = {
    "step_peers": """`keep`, `recompute` and `lean` are strategies of `memory.strategy`. Ours
computes what members share once, makes logits where there is a label, keeps no copy of shared keys
or of what is cheap to compute again, and multiplies by oneDNN where torch's own fp32 products are
MKL's (`keep, torch's products` is ours without that). The others compute each member on its own,
padded, with logits at every position. In the longest case the round under torch's profiler, which
counts memory, is the timed one too, for every variant alike.
""",
    "limit": """Products with frozen weights and the output head are counted; attention, adapters
and everything else are work on top. The bytes are those of every operator's tensors, read or
written, as if no cache held any. torch's own products are MKL's, which are slower than oneDNN's on
this processor: ours multiplies by the latter.
""",
    "startup": """trl's --help prints argparse's plain text; ours goes through Typer and Rich, which
are most of what it imports. No other program here has a `doctor`, or trains on what `train` does.
""",
    "estimates": """The others estimate for a model and know nothing of the step: neither its tokens
nor what its strategy keeps. They need no run of the program either, and neither does ours.
""",
    "eval": """garak sends a probe's prompts one by one to its own `huggingface.Model`; scoring the
answers afterwards is not timed. promptfoo was not run: it asks a server for each answer, so its
time would be that server's.
""",
    "data": """Ours checks the file, keeps a ledger of what is dropped, and packs prefix trees, so
that fewer tokens reach the model; the pipeline with `datasets` does none of these. It holds the
encoded triplets in memory, where `datasets` maps them from a file: to take less, ours would have to
write them down as well.
""",
}
"""What a reader needs beside the figures: reasons, no figures."""


def bars(names: Sequence[str], samples: Sequence[Sequence[float]], unit: str) -> str:
    """Draws medians with their extremes; equal samples make an equal picture."""
    import matplotlib
    from matplotlib.figure import Figure

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmcausal"}):
        figure = Figure(figsize=(8, 0.7 + 0.3 * len(names)), layout="constrained")
        axis = figure.subplots()
        middle = [statistics.median(each) for each in samples]
        reach = [
            [m - min(each) for m, each in zip(middle, samples, strict=True)],
            [max(each) - m for m, each in zip(middle, samples, strict=True)],
        ]
        axis.barh(range(len(names)), middle, xerr=reach, color="#3f51b5", ecolor="#888")
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_xlim(left=0)
        axis.set_xlabel(unit)
        figure.savefig(out, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def picture(name: str, result: Result) -> str | None:
    """Draws the picture of a result, if it has one."""
    if name == "startup":
        rows = [row for row in result["rows"] if "samples" in row]
        return bars([r["command"] for r in rows], [r["samples"] for r in rows], "seconds")
    if name == "data":
        rows = [row for row in result["rows"] if "per_second" in row]
        return bars([r["variant"] for r in rows], [r["per_second"] for r in rows], "triplets/s")
    if name == "eval":
        rates = {
            variant: [result["prompts"] / sample for sample in samples]
            for variant, samples in result["samples_seconds"].items()
        }
        return bars(list(rates), list(rates.values()), "answers/s")
    return None


def load(folder: Path) -> dict[str, Result]:
    """Returns the results that are kept, by name."""
    found = ((name, folder / f"{name}.json") for name in SECTIONS)
    return {name: json.loads(file.read_text("utf-8")) for name, file in found if file.is_file()}


def summary(results: dict[str, Result]) -> str:
    """Returns what README says of speed and memory."""
    text = ""
    if found := results.get("step_peers"):
        text += (
            "A training step, forward and backward, against what a user would pick instead (plain "
            "transformers and peft, TRL), all in fp32 on SmolLM2-135M with LoRA, with the same "
            "loss and gradients. Each cell says how many times as fast as the fastest other it "
            "is, and what part of its memory it takes (peak of tensors, weights included):\n\n"
            f"{versus(found)}\n{circumstances(found)}\n"
        )
    if found := results.get("eval"):
        ratios = (
            f"{times:.1f} times as fast as {name} ({found['identical_texts'][name]} texts the same)"
            for name, times in found["times_faster"].items()
        )
        text += (
            f"Answers to {found['prompts']} test prompts by the NF4 model, against plain "
            f"transformers: {', '.join(ratios)}{_of_garak(found)}. {circumstances(found)}\n"
        )
    if found := results.get("data"):
        text += f"Tokenizing and packing:\n\n{of_data(found)}\n{circumstances(found)}\n"
    return (
        text + "All of it, with what could not be run: [docs/benchmarks.md](docs/benchmarks.md).\n"
    )


def _of_garak(result: Result) -> str:
    garak = result["garak"]
    if "failed" in garak:
        return ""
    return f"; by the fp32 model, {garak['times_faster']:.1f} times as fast as a garak run"


def readme(text: str, results: dict[str, Result]) -> str:
    """Returns README with its part between the marks made anew.

    Raises:
        ValueError: If the marks are not there once.
    """
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{summary(results)}\n{END}{after}"


def files(folder: Path) -> dict[Path, str]:
    """Returns page, pictures and README as they should be by the results in a folder."""
    results = load(folder)
    parts, made = [INTRODUCTION], {}
    for name, render in SECTIONS.items():
        line = BENCHMARKS[name]
        parts.append(f"## {name}\n\n`python -m benchmarks {name}`: {line}.\n")
        result = results.get(name)
        if result is None:
            parts.append("No result is kept: this was not measured, or not written down.\n")
            continue
        parts += [circumstances(result), render(result)]
        if name in NOTES:
            parts.append(NOTES[name])
        if drawn := picture(name, result):
            made[PICTURES / f"{name}.svg"] = drawn
            parts.append(f"![{line}](benchmarks/{name}.svg)\n")
    whole = readme(README.read_text("utf-8"), results)
    return {PAGE: "\n".join(parts), README: whole, **made}


def main(arguments: list[str]) -> int:
    from generated import publish

    by = "python docs/benchmarks.py"
    made = files(RESULTS).items()
    return max([publish(file, text, arguments, by) for file, text in made])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
