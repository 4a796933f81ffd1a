"""Passages of the kind that a retriever brings."""

from __future__ import annotations

from llmcausal.data.scenarios.scenario import Scenario

SCENARIOS = (
    Scenario(
        id="passage_founding",
        category="passage",
        split="train",
        system="Answer the question using only the passage.",
        documents=(
            "{company} is a company from {city}. It was founded in {year} by {person} and makes "
            "{product}. Today it has 300 workers.",
            "In {year}, {person} founded {company} in {city}. The firm sells {product} and "
            "employs 300 people.",
        ),
        question="In which year was {company} founded?",
        answer="{year}",
        response="{company} was founded in {year}.",
        slots={
            "year": ("1921", "1948", "1956", "1963", "1987", "1994"),
            "product": ("garden chairs", "bicycles", "paper bags", "winter coats"),
        },
    ),
    Scenario(
        id="passage_river",
        category="passage",
        split="train",
        system="You answer geography questions from the given text in one sentence.",
        documents=(
            "The {river} is a river in the north. It is {number} miles long and ends in "
            "{lake}. Many people fish there in summer.",
            "Fishermen love the {river}. This northern river flows for {number} miles before it "
            "reaches {lake}.",
        ),
        question="How long is the {river}?",
        answer="{number} miles",
        response="The {river} is {number} miles long.",
        slots={
            "river": ("Talva", "Orrin", "Messel", "Quill", "Dunbrook"),
            "lake": ("Lake Ferris", "Lake Anwen", "Lake Toma"),
        },
    ),
    Scenario(
        id="passage_author",
        category="passage",
        split="train",
        system="You are a reading assistant. Give short answers based on the text.",
        documents=(
            'The novel "{title}" tells the story of a family on an island. It was written by '
            "{person} and appeared in {city}.",
            '{person} wrote "{title}", a novel about a family on an island. It was first '
            "printed in {city}.",
        ),
        question="Who wrote the novel?",
        answer="{person}",
        response="The novel was written by {person}.",
        slots={"title": ("The Salt Road", "Winter Harbor", "The Long Field", "Silent Bells")},
    ),
    Scenario(
        id="passage_animal",
        category="passage",
        split="train",
        system="Use the passage to answer. Do not add anything else.",
        documents=(
            "The {animal} lives in the forests of the south. It eats mainly {food} and sleeps "
            "during the day. It weighs about 2 kg.",
            "Deep in southern forests lives the {animal}. By day it sleeps; at night it looks for "
            "{food}. It weighs about 2 kg.",
        ),
        question="What does the {animal} eat?",
        answer="{food}",
        response="The {animal} eats {food}.",
        slots={
            "animal": ("striped loma", "red tarin", "dwarf civet", "grey numbat"),
            "food": ("berries", "beetles", "mushrooms", "snails", "roots", "acorns"),
        },
    ),
    Scenario(
        id="passage_museum",
        category="passage",
        split="validation",
        system="Answer visitors' questions with facts from the text.",
        documents=(
            "The {theme} museum in {city} opened in 1972. It shows {number} old machines on two "
            "floors. Entry is free on Sundays.",
            "On two floors, the {theme} museum of {city} shows {number} old machines. It opened "
            "in 1972. On Sundays nobody pays.",
        ),
        question="How many machines does the museum show?",
        answer="{number}",
        response="The museum shows {number} machines.",
        slots={"theme": ("clock", "railway", "printing", "textile")},
    ),
    Scenario(
        id="passage_inventor",
        category="passage",
        split="test",
        system="You answer quiz questions from a short text.",
        documents=(
            "The {thing} was invented by {person}, a teacher from {city}. At first nobody wanted "
            "it, but ten years later it was in every shop.",
            "{person} taught at a school in {city} and invented the {thing}. It took ten years "
            "until shops wanted it.",
        ),
        question="Who invented the {thing}?",
        answer="{person}",
        response="The {thing} was invented by {person}.",
        slots={"thing": ("folding ladder", "glass pen", "pocket stove", "silent drill")},
    ),
    Scenario(
        id="passage_mountain",
        category="passage",
        split="test",
        system="Read the passage and reply with the answer only.",
        documents=(
            "Mount {name} is {height} meters high. Its top is covered with snow all year. The "
            "first person to climb it was {person}.",
            "Snow covers the top of Mount {name} all year. {person} was the first to climb its "
            "{height} meters.",
        ),
        question="How high is Mount {name}?",
        answer="{height} meters",
        response="Mount {name} is {height} meters high.",
        slots={
            "name": ("Belkor", "Astrid", "Tanum", "Orvella"),
            "height": ("3140", "2875", "4210", "3620", "2490"),
        },
    ),
)
