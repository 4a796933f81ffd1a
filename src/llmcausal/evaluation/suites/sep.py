"""Suite `sep`: the SEP benchmark, a short probe inside the data of an open task.

Reads `SEP_dataset.json` of github.com/egozverev/Should-It-Be-Executed-Or-Processed: a JSON list
of `system_prompt_clean`, `prompt_clean`, `prompt_instructed` (the same with the probe at its start
or end), `witness` and, where given, `info` with `appended_type`, `general_task`, `is_insistent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmcausal.config import DataSection
from llmcausal.data.sources.example import Item, Unusable, text_of
from llmcausal.data.triplet import AttackInfo, Triplet
from llmcausal.evaluation.suites import foreign

WHAT = "SEP's records: system_prompt_clean, prompt_clean, prompt_instructed and witness"


def triplets(data: DataSection, notes: list[str]) -> list[Triplet]:
    """Makes a triplet of each record; open tasks have no measure of utility."""
    path = foreign.data_path(data, "sep", WHAT)
    found = foreign.read_items([path], _triplet, WHAT, notes)
    made = []
    pairs = foreign.with_counterparts(
        found, lambda triplet: triplet.benign, f"{path}: prompt_clean"
    )
    for triplet, other in pairs:
        made += foreign.attacked_again(replace(triplet, benign_cf=other.benign), data.test_attacks)
    return made


def _triplet(item: Item) -> Triplet:
    _, number, record = item
    clean, attacked = text_of(record, "prompt_clean"), text_of(record, "prompt_instructed")
    witness, system = text_of(record, "witness"), text_of(record, "system_prompt_clean")
    before, found, after = attacked.partition(clean)
    probe = (before + after).strip()
    if not found or not probe:
        raise Unusable("prompt_instructed: is not prompt_clean with a probe before or after it")
    if witness.casefold() in f"{system}\n{clean}".casefold():
        raise Unusable("witness: is in the clean prompt, so it proves nothing")
    instructed = record.get("system_prompt_instructed")
    info = record.get("info")
    info = info if isinstance(info, Mapping) else {}
    insistent, task = info.get("is_insistent"), info.get("general_task")
    return Triplet(
        id=f"sep-{number}",
        system=system,
        benign=clean,
        benign_cf="",
        injection=attacked,
        system_obeying=instructed if isinstance(instructed, str) else None,
        category=task[:60] if isinstance(task, str) else "",
        attack=AttackInfo(
            "sep insistent" if insistent is True else "sep",
            goal=probe,
            witness=witness,
            position="start" if before.strip() else "end",
        ),
    )
