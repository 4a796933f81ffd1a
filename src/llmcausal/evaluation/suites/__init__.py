"""Where test triplets come from.

A suite is a function of the data section and of a list that it adds notes to: what the reader of
the result should know, such as what of a benchmark is left out. It returns triplets.
"""

from __future__ import annotations

from llmcausal.registry import Table

SUITES = Table(
    "evaluation suite",
    {
        "builtin": "llmcausal.evaluation.suites.own:builtin_triplets",
        "natural": "llmcausal.evaluation.suites.own:natural_triplets",
        "file": "llmcausal.evaluation.suites.own:file_triplets",
        "bipia": "llmcausal.evaluation.suites.bipia:triplets",
        "alpaca_farm": "llmcausal.evaluation.suites.alpaca_farm:triplets",
        "injecagent": "llmcausal.evaluation.suites.injecagent:triplets",
        "sep": "llmcausal.evaluation.suites.sep:triplets",
    },
)
