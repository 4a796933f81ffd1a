"""Scenarios whose documents have a syntax, or an answer that is not a plain quotation."""

from __future__ import annotations

import configparser
import csv
import json
import random
import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, get_args

import pytest
import yaml

from llmcausal.attacks.base import Split
from llmcausal.data.scenarios import Filling, Scenario, themes

THEMES_HERE = (
    "documents_legal",
    "documents_manuals",
    "passages_history",
    "passages_science",
    "rag_knowledge",
    "rag_company",
    "tables_csv",
    "tables_json",
    "code_python",
    "code_other",
    "logs",
    "configuration",
    "web_pages",
)
BY_THEME: dict[str, tuple[Scenario, ...]] = {name: themes()[name] for name in THEMES_HERE}
ALL = [scenario for scenarios in BY_THEME.values() for scenario in scenarios]
HTML = [s for s in ALL if s.id.startswith("html_")]


def fillings(scenario: Scenario, count: int = 60) -> list[Filling]:
    rng = random.Random(scenario.id)
    return [scenario.fill(rng) for _ in range(count)]


def named(prefix: str) -> list[Scenario]:
    found = [scenario for scenario in ALL if scenario.id.startswith(prefix)]
    assert found
    return found


def case_answers(scenario: Scenario) -> set[str]:
    """The answers of the cases, where the answer is one key of them."""
    key = scenario.answer.strip("{}")
    return {str(case[key]) for case in scenario.cases}


def leaves(value: Any) -> Iterator[str]:
    """Keys and values of parsed data, as text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield str(value)


class Tags(HTMLParser):
    """Fails at a tag that closes none, and records attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pieces: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pieces += [value or "" for _, value in attrs]
        if tag not in ("br", "meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


class TestSets:
    @pytest.mark.parametrize("theme", THEMES_HERE)
    def test_every_theme_is_in_every_split(self, theme: str) -> None:
        assert {scenario.split for scenario in BY_THEME[theme]} == set(get_args(Split))

    def test_no_split_asks_the_question_of_another(self) -> None:
        asked: dict[str, str] = {}
        for scenario in ALL:
            # A name or a number instead of a slot does not make another question.
            question = re.sub(r"\{\w+\}", "{}", scenario.question)
            if question.startswith("Which label"):
                continue
            assert asked.setdefault(question, scenario.split) == scenario.split, question

    @pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.id)
    def test_a_document_is_short_enough_for_a_small_model(self, scenario: Scenario) -> None:
        for filled in fillings(scenario):
            assert len(filled.document.split()) <= 100
            assert len(filled.document) <= 700
        assert len(scenario.system.split(".")) <= 7


class TestAnswers:
    @pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.id)
    def test_it_is_quoted_from_the_document_or_named_in_the_prompt(
        self, scenario: Scenario
    ) -> None:
        for filled in fillings(scenario):
            quoted = filled.answer in filled.document
            assert quoted or filled.answer in scenario.system
            assert quoted or scenario.cases, "only a case ties a label to its text"
            # The prompt alone must not give the answer away.
            assert quoted != (filled.answer.casefold() in scenario.system.casefold())

    @pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.id)
    def test_the_check_takes_the_right_answer_alone(self, scenario: Scenario) -> None:
        filled = fillings(scenario)
        for one in filled:
            assert one.check.passes(one.response)
            assert one.check.passes(one.answer)
        right = {f.answer: f for f in filled}
        assert len(right) >= 2
        for answer, one in right.items():
            for other in right.values():
                assert other.answer == answer or not one.check.passes(other.answer)

    @pytest.mark.parametrize(
        "scenario", [s for s in ALL if s.cases], ids=lambda scenario: scenario.id
    )
    def test_a_label_is_no_word_of_a_text_with_another_label(self, scenario: Scenario) -> None:
        filled = fillings(scenario, 200)
        assert {f.answer for f in filled} >= {a for a in case_answers(scenario) if "{" not in a}
        labels = {f.answer for f in filled if f.answer in scenario.system}
        for f in filled:
            for label in labels - {f.answer}:
                assert not re.search(rf"\b{re.escape(label)}\b", f.document)


class TestSyntax:
    @pytest.mark.parametrize("scenario", named("json_"), ids=lambda scenario: scenario.id)
    def test_json_records_hold_the_answer_as_one_value(self, scenario: Scenario) -> None:
        for filled in fillings(scenario):
            parsed = json.loads(filled.document)
            assert scenario.cases or filled.answer in leaves(parsed)

    @pytest.mark.parametrize("scenario", named("csv_"), ids=lambda scenario: scenario.id)
    def test_csv_rows_are_even_and_a_cell_is_the_answer(self, scenario: Scenario) -> None:
        for filled in fillings(scenario):
            lines = filled.document.splitlines()
            rows = list(csv.reader(lines, delimiter=";" if ";" in lines[0] else ","))
            assert len({len(row) for row in rows}) == 1
            assert len(rows) >= 3
            assert len(rows[0]) >= 2
            assert filled.answer in [cell for row in rows[1:] for cell in row]

    @pytest.mark.parametrize("scenario", named("markdown_"), ids=lambda scenario: scenario.id)
    def test_markdown_tables_are_even_and_have_a_rule(self, scenario: Scenario) -> None:
        for filled in fillings(scenario):
            rows = [line.split("|")[1:-1] for line in filled.document.splitlines()]
            assert len({len(row) for row in rows}) == 1
            assert all(re.fullmatch(r"\s*:?-{2,}:?\s*", cell) for cell in rows[1])
            assert filled.answer in [cell.strip() for row in rows[2:] for cell in row]

    @pytest.mark.parametrize("scenario", named("python_"), ids=lambda scenario: scenario.id)
    def test_python_compiles(self, scenario: Scenario) -> None:
        for filled in fillings(scenario):
            compile(filled.document, scenario.id, "exec")

    def test_python_among_other_code_compiles(self) -> None:
        by_id = {scenario.id: scenario for scenario in BY_THEME["code_other"]}
        for filled in fillings(by_id["sql_injection_or_safe"]):
            compile(filled.document, "sql", "exec")
        snippets = fillings(by_id["script_language"])
        for filled in snippets:
            if filled.answer == "Python":
                compile(filled.document, "snippet", "exec")
            else:
                with pytest.raises(SyntaxError):
                    compile(filled.document, "snippet", "exec")

    @pytest.mark.parametrize(
        "scenario", [*named("yaml_"), *named("toml_"), *named("ini_")], ids=lambda s: s.id
    )
    def test_settings_hold_the_answer_as_one_value(self, scenario: Scenario) -> None:
        for filled in fillings(scenario):
            if scenario.id.startswith("yaml_"):
                parsed = yaml.safe_load(filled.document)
            elif scenario.id.startswith("toml_"):
                parsed = tomllib.loads(filled.document)
            else:
                reader = configparser.ConfigParser()
                reader.read_string(filled.document)
                parsed = {name: dict(reader[name]) for name in reader.sections()}
            assert filled.answer in leaves(parsed)

    def test_the_format_named_is_the_one_that_parses(self) -> None:
        (scenario,) = [s for s in BY_THEME["configuration"] if s.id == "config_format_name"]
        for filled in fillings(scenario):
            text = filled.document.split("\n\n")[-1]
            if filled.answer == "JSON":
                json.loads(text)
            elif filled.answer == "YAML":
                assert isinstance(yaml.safe_load(text), dict)
            elif filled.answer == "INI":
                configparser.ConfigParser().read_string(text)
            else:
                tags = Tags()
                tags.feed(text)
                assert not tags.open

    @pytest.mark.parametrize("scenario", HTML, ids=lambda scenario: scenario.id)
    def test_html_tags_are_closed_and_a_piece_is_the_answer(self, scenario: Scenario) -> None:
        for filled in fillings(scenario):
            tags = Tags()
            tags.feed(filled.document)
            assert not tags.open
            assert any(filled.answer in piece for piece in tags.pieces)
