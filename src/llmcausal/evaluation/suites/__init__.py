"""Sources of test triplets.

A suite is a function of the data section and of a list that receives notes for the reader of the
result, such as the left-out parts of a benchmark. It returns triplets.
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
