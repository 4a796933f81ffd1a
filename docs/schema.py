"""Writes the JSON schemas of settings, results and `doctor --json`; with --check only compares."""

from __future__ import annotations

import json
import sys

from generated import publish

from llmcausal.config import RunConfig
from llmcausal.diagnostics import check
from llmcausal.evaluation import results


def main(arguments: list[str]) -> int:
    schemas = {
        "config.schema.json": RunConfig.model_json_schema(),
        "doctor.schema.json": check.json_schema(),
        "results.schema.json": results.EvaluationResult.model_json_schema(),
    }
    codes = [
        publish(name, json.dumps(schema, indent=2) + "\n", arguments)
        for name, schema in schemas.items()
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
