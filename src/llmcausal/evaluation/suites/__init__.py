"""Sources of test triplets.

A suite is a function that takes the data section and a list, and returns triplets. It adds notes
for the result's readers to the list, such as a benchmark's left-out parts.
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
