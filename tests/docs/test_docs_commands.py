"""Every command that the documentation shows is one that the program understands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from llmcausal.cli.app import app
from llmcausal.config import RunConfig
from llmcausal.data.sources import SOURCES
from llmcausal.evaluation.suites import SUITES
from llmcausal.export import EXPORTERS
from llmcausal.profile import load_config, shipped_profiles
from tests.docs.shown import PAGES, REPOSITORY, blocks, command_lines

STANDS_FOR = {
    "a.b=c": "train.epochs=1",
    "a.b=0,1": "lora.rank=8,16",
    "KEY=V,V": "lora.rank=8,16",
}
"""Made-up words of a synopsis, and something of their kind."""
NUMBERS = {"N", "G", "SHARE"}
CHOICES = {
    ("eval", "suite"): SUITES.entries,
    ("export", "target"): EXPORTERS.entries,
    ("build", "source"): SOURCES.entries,
    ("build", "model"): shipped_profiles(),
    ("validate", "model"): shipped_profiles(),
}
"""Values that the parser takes as text, by command and option."""
ROOT: Any = typer.main.get_command(app)
SHOWN = sorted({(page.name, line) for page in PAGES for line in command_lines(page)})


def commands_of(line: str) -> Iterator[list[str]]:
    """Yields the arguments of one shown command; of alternatives, each name by itself."""
    line = line.replace("[OPTIONS]", "").replace("...", "").rstrip(". ")
    first, *others = re.split(r" \| ", line)
    words = shlex.split(first.replace("[", "").replace("]", ""))[1:]
    words = [STANDS_FOR.get(word, "1" if word in NUMBERS else word) for word in words]
    if not others:
        yield words
    for other in [words[-1], *others] if others else []:
        yield [*words[:-1], other, "--help"]  # names alone


def parse(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Reads arguments as the program does, without running it."""
    command, context, name = ROOT, typer.Context(ROOT), ""
    while hasattr(command, "list_commands") and arguments and not arguments[0].startswith("-"):
        name = arguments[0]
        command = command.get_command(context, name)
        assert command is not None, f"no such command: {name}"
        arguments = arguments[1:]
    if hasattr(command, "list_commands"):
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(arguments) <= known | {"--help"}, arguments
        return name, {}
    if "--help" in arguments:
        return name, {}
    return name, command.make_context(name, list(arguments)).params


def is_name(value: str) -> bool:
    """Says whether a value is to be replaced: PROFILE, RUN/best, merged|gguf."""
    return value.isupper() or "|" in value


def check_settings(name: str, values: dict[str, Any]) -> None:
    profile = values.get("profile")
    overrides = [STANDS_FOR.get(each, each) for each in values.get("overrides") or ()]
    overrides = [each for each in overrides if each != "KEY=VALUE"]
    for vary in values.get("vary") or ():
        keys, _, combinations = STANDS_FOR.get(vary, vary).partition("=")
        for combination in combinations.split(","):
            pairs = zip(keys.split(","), combination.split(":"), strict=True)
            overrides += [f"{key}={value}" for key, value in pairs]
    if name in ("train", "ablate", "doctor", "profile-memory"):
        assert profile is not None
        if not is_name(profile) and profile != "mine.toml":
            found = REPOSITORY / profile if profile.endswith(".toml") else profile
            load_config(found, overrides)
            return
    load_config("demo-cpu", overrides)


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=[f"{p}: {line}"[:90] for p, line in SHOWN])
def test_every_command_is_understood(page: str, line: str) -> None:
    for arguments in commands_of(line):
        name, values = parse(arguments)
        if values:
            check_settings(name, values)
        for (command, option), known in CHOICES.items():
            value = values.get(option) if name == command else None
            for each in value.split("|") if value and not value.isupper() else ():
                assert each in known or ":" in each, f"{option}: {each}"


@pytest.mark.parametrize(
    "line",
    [
        "llmcausal train demo-cpu --set loss.tua=1",
        "llmcausal train demo-gpu",
        "llmcausal train demo-cpu --epochs 3",
        "llmcausal trian demo-cpu",
        "llmcausal export --out y",
        "llmcausal eval --checkpoint x --suite bipai",
        "llmcausal export --checkpoint x --out y --format merge",
        "llmcausal data validate a.jsonl --model demo-gpu",
        "llmcausal ablate demo-cpu --vary lora.rnak=1,2",
        "llmcausal --instal-completion",
    ],
)
def test_a_command_that_is_wrong_would_be_found(line: str) -> None:
    with pytest.raises(Exception, match=r"(?s)."):
        test_every_command_is_understood("page.md", line)


def test_commands_are_found_wherever_they_are_shown() -> None:
    by_page = {page: {line for name, line in SHOWN if name == page} for page, _ in SHOWN}
    assert "llmcausal train demo-cpu" in by_page["cli.md"]  # indented
    assert "llmcausal doctor rtx4050" in by_page["README.md"]  # fenced, with a comment
    assert "llmcausal data stats mine.jsonl" in by_page["troubleshooting.md"]  # in a sentence
    continued = [line for line in by_page["data.md"] if "--map document=text --split" in line]
    assert continued


def test_the_quick_start_is_that_of_the_readme() -> None:
    programs = ("make", "pip", "llmcausal")
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    beginning = readme.partition("\n## ")[0]
    shown = set(command_lines(REPOSITORY / "docs" / "quick-start.md", programs))
    wanted = [
        line
        for line in command_lines(REPOSITORY / "README.md", programs)
        if line in re.sub(" +", " ", beginning)
    ]
    assert len(wanted) >= 6
    assert [line for line in wanted if line not in shown] == []


def test_every_make_target_and_benchmark_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    pages = [*PAGES, REPOSITORY / "CONTRIBUTING.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert set(re.findall(r"(?:`|^ {4}|\n)make ([a-z-]+)", text)) <= targets
    modules = set(re.findall(r"python -m (benchmarks\.[a-z_]+)", text))
    assert modules
    for module in modules:
        assert (REPOSITORY / module.replace(".", "/")).with_suffix(".py").is_file(), module


def test_every_file_that_a_page_names_exists() -> None:
    for page in [*PAGES, REPOSITORY / "CONTRIBUTING.md"]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:src|tests|docs|profiles|benchmarks)/[\w./-]+\.\w+)`", text):
            path = REPOSITORY / name
            assert (path.parent if "NAME" in name else path).exists(), f"{page.name}: {name}"
        if page.name == "README.md":
            for target in re.findall(r"\]\(([^)#:]+)\)", text):
                assert (REPOSITORY / target).exists(), f"{page.name}: {target}"


def test_a_page_that_is_not_current_is_named(tmp_path: Path) -> None:
    for name in ("cli.py", "generated.py"):
        shutil.copy(REPOSITORY / "docs" / name, tmp_path)
    (tmp_path / "cli.md").write_text("old", encoding="utf-8")
    command = [sys.executable, tmp_path / "cli.py"]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cli.md is not current" in done.stderr
    subprocess.run(command, check=True)
    assert subprocess.run([*command, "--check"]).returncode == 0


def test_the_reference_of_commands_has_every_option_of_the_help() -> None:
    """The page is made from the parser's objects; `--help` is what a user sees."""
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    sections = re.split(r"^## llmcausal ", page, flags=re.M)[1:]
    by_name = {section.partition("\n")[0]: section for section in sections}
    assert {"train", "eval", "data build", "data validate"} <= by_name.keys()
    for name in ("eval", "data build"):
        done = subprocess.run(
            [sys.executable, "-m", "llmcausal", *name.split(), "--help"],
            capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", done.stdout.partition("Examples")[0]))
        missing = {o for o in options - {"--help"} if f"`{o}" not in by_name[name]}
        assert len(options) > 5
        assert missing == set()


def keys(section: BaseModel, prefix: str = "") -> Iterator[str]:
    for name, value in section:
        if isinstance(value, BaseModel):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_reference_of_settings_has_every_key() -> None:
    page = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_.]+)` \| [^|]+ \| [^|]+ \| [^|].+\|$", page, re.M)
    assert sorted(rows) == sorted(keys(RunConfig()))


def test_no_block_is_left_open() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.M)
        assert len(fences) == 2 * len(blocks(page)), page.name
