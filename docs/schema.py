"""Writes docs/config.schema.json from the settings; with --check only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from llmcausal.profile import json_schema

TARGET = Path(__file__).with_name("config.schema.json")


def main(arguments: list[str]) -> int:
    text = json.dumps(json_schema(), indent=2) + "\n"
    if arguments != ["--check"]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET} is not current: run `make schema`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
