"""Writes docs/config.schema.json from the settings; with --check only compares."""

from __future__ import annotations

import json
import sys

from generated import publish

from llmcausal.profile import json_schema


def main(arguments: list[str]) -> int:
    text = json.dumps(json_schema(), indent=2) + "\n"
    return publish("config.schema.json", text, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
