"""Results of benchmarks as Markdown tables and sentences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

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
        f"running with it: {result['beside']}" if result.get("beside") else "",
        f"incomplete: {result['complete']}" if isinstance(result.get("complete"), str) else "",
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
            f"our {within}", "our leanest", "its memory / the leanest other's"]  # fmt: skip
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
        for value in sorted({row["value"] for row in chosen}):
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
        [row["case"], row["variant"], row["tokens"], f"{row['flop'] / 1e9:,.0f}",
         spread(row["samples"]),
         *(f"{row['share_of_rate'][name]:.0%}" for name in libraries),
         f"{row['traffic_bytes'] / 2**30:.1f}", f"{row['share_of_bandwidth']:.0%}"]
        for row in result["rows"]
    ]  # fmt: skip
    classes = list(result["rows"][0]["operator_time"])
    times = [
        [row["case"], row["variant"], *(f"{row['operator_time'][each]:.0%}" for each in classes)]
        for row in result["rows"]
    ]
    head = ["case", "variant", "tokens", "GFLOP", "seconds",
            *(f"of {name}'s rate" for name in libraries), "GiB read and written",
            "of the bandwidth"]  # fmt: skip
    return (
        f"fp32 matrix products of this machine: {rates}; bytes copied: {moved} GB/s. Goal for ours "
        f"at 512 tokens and more: {result['goal']:.0%} of the rate.\n\n{table(head, rows)}\n"
        f"{_fewer_operations(result)}\n"
        f"Where operators spend their time:\n\n{table(['case', 'variant', *classes], times)}"
    )


def _fewer_operations(result: Result) -> str:
    text = []
    for case in dict.fromkeys(row["case"] for row in result["rows"]):
        flop = {row["variant"].startswith("ours"): row["flop"] for row in result["rows"]
                if row["case"] == case}  # fmt: skip
        text.append(f"{flop[False] / flop[True]:.2f} in {case}")
    return (
        "Plain's operations in products, as a multiple of ours (our speedup if both reach the same "
        f"rate): {'; '.join(text)}.\n"
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


def of_beside(result: Result) -> str:
    """Renders steps beside busy programs, and the goals."""
    rows = [
        [row["variant"], row["beside"], spread(row["samples"]), f"{row['times_alone']:.2f}",
         f"{goal:g}" if (goal := result["goals"].get(row["beside"])) else ""]
        for row in result["rows"]
    ]  # fmt: skip
    head = ["variant", "busy programs", "seconds per step", "relative to alone", "goal for ours"]
    return f"{result['case']}, {result['precision']}.\n\n{table(head, rows)}"


def of_precisions(result: Result) -> str:
    """Renders a checkpoint's answers by precision."""
    names = list(next(iter(result["rows"].values()))["figures"])
    rows = [
        [name, f"{row['answers_per_second']:.2f}",
         *(f"{each['value']:.1%} [{each['low']:.1%}, {each['high']:.1%}]"
           for each in row["figures"].values())]
        for name, row in result["rows"].items()
    ]  # fmt: skip
    return (
        f"{table(['precision', 'answers/s', *names], rows)}\n"
        f"bf16 is {result['times_faster']:.2f} times as fast; {result['identical_texts']} of "
        f"{result['prompts']} texts are the same.\n"
    )


def of_roofline(result: Result) -> str:
    """Renders predicted and measured step times."""
    rates = result["rates"]
    names = ("model", "weights", "strategy", "tokens", "shared", "triplets")
    rows = [
        [*(row[name] for name in names), f"{row['kernels']:,}", f"{row['measured']:.3g}",
         f"{row['predicted']:.3g}", f"{row['error']:+.0%}"]
        for row in result["rows"]
    ]  # fmt: skip
    head = [*names, "kernels", "measured s", "predicted s", "error"]
    return (
        f"This CPU: {rates['flops'] / 1e9:.0f} GFLOP/s, {rates['bytes'] / 1e9:.1f} GB/s, "
        f"{rates['launch'] * 1e6:.1f} us per kernel. {result['within_goal']} of {len(rows)} "
        f"predictions are within {result['goal']:.0%}.\n\n" + table(head, rows)
    )


SECTIONS: dict[str, Section] = {
    "startup": of_startup, "data": of_data, "estimates": of_estimates, "merging": of_merging,
    "eval": of_eval, "precisions": of_precisions, "step_peers_bf16": of_step_rows,
    "step_peers_bf16_amx": of_step_rows, "step_peers": of_step_rows, "beside": of_beside,
    "step_growth": of_step_growth, "limit_bf16": of_limit, "limit": of_limit,
    "step": of_step, "memory": of_memory, "roofline": of_roofline,
}  # fmt: skip
"""In the page's order: every benchmark but `counts`, which is no measure of a machine."""
