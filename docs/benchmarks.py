"""Writes docs/benchmarks.md and its pictures from benchmarks/results; --check compares.

No figure is typed here: what has no result is named as missing.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.__main__ import BENCHMARKS  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
PICTURES = REPOSITORY / "docs" / "benchmarks"
KEPT_ELSEWHERE = ("counts",)
"""No result of a machine: expected counts lie in tests/benchmarks."""
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
    return f"{count} prompts, {result['prompt_tokens']} tokens.\n\n" + table(
        ["variant", "batch", "answers/s", "same text as one by one"], rows
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
    compared = [
        [row["case"], row["fastest_ours"], row["fastest_peer"], f"{row['times_faster']:.2f}",
         row["leanest_ours"], row["leanest_peer"], f"{row['memory_of_leanest']:.0%}"]
        for row in result.get("comparisons", ())
    ]  # fmt: skip
    head = ["case", "fastest of ours", "fastest peer", "times as fast", "leanest of ours",
            "leanest peer", "memory of it"]  # fmt: skip
    return text + ("\n" + table(head, compared) if compared else "")


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
    "eval": of_eval, "step": of_step, "step_peers": of_step_rows, "memory": of_memory,
}  # fmt: skip


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


def files(results: Path) -> dict[Path, str]:
    """Returns the page and its pictures as they should be."""
    parts, made = [INTRODUCTION], {}
    for name, line in BENCHMARKS.items():
        if name in KEPT_ELSEWHERE:
            continue
        parts.append(f"## {name}\n\n`python -m benchmarks {name}`: {line}.\n")
        file = results / f"{name}.json"
        if not file.is_file():
            parts.append("No result is kept: this was not measured, or not written down.\n")
            continue
        result = json.loads(file.read_text("utf-8"))
        parts.append(circumstances(result))
        render = SECTIONS.get(name)
        parts.append(render(result) if render else f"Raw: `benchmarks/results/{name}.json`.\n")
        if drawn := picture(name, result):
            made[PICTURES / f"{name}.svg"] = drawn
            parts.append(f"![{line}](benchmarks/{name}.svg)\n")
    return {PAGE: "\n".join(parts), **made}


def main(arguments: list[str]) -> int:
    wrong = 0
    for file, text in files(RESULTS).items():
        if arguments != ["--check"]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
        elif not file.is_file() or file.read_text("utf-8") != text:
            print(f"{file} is not current: run `python docs/benchmarks.py`", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
