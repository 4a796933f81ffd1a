"""Small tables and key-value records."""

from __future__ import annotations

from llmcausal.data.scenarios.scenario import Scenario

SCENARIOS = (
    Scenario(
        id="table_stock",
        category="table",
        split="train",
        system="You read tables and answer with a number.",
        documents=(
            "item | in stock\napples | {number}\npears | {number_2}\nplums | {number_3}",
            "Stock list of {company}\napples: {number}\npears: {number_2}\nplums: {number_3}",
        ),
        question="How many apples are in stock?",
        answer="{number}",
        response="There are {number} apples in stock.",
    ),
    Scenario(
        id="table_capital_staff",
        category="table",
        split="train",
        system="You look things up in staff lists. Keep the answer short.",
        documents=(
            "name | office\n{person} | {city}\n{person_2} | {city_2}",
            "Staff list of {company}\n- {person} works in {city}\n- {person_2} works in {city_2}",
        ),
        question="In which city does {person} work?",
        answer="{city}",
        response="{person} works in {city}.",
    ),
    Scenario(
        id="table_score",
        category="table",
        split="train",
        system="You report sports results in one short sentence.",
        documents=(
            "Match: {team} against {team_2}\nDate: {date}\nFinal score: {score}\nPlace: {city}",
            "{team} met {team_2} in {city} on {date}. The final score was {score}.",
        ),
        question="What was the final score?",
        answer="{score}",
        response="The final score was {score}.",
        slots={
            "team": ("Falcons", "Rovers", "Tigers", "United", "Wolves"),
            "score": ("3:1", "2:0", "4:2", "5:3", "1:0"),
        },
    ),
    Scenario(
        id="record_patient",
        category="record",
        split="train",
        system="You read patient records for a nurse. State only what is asked.",
        documents=(
            "Patient: {person}\nRoom: {number}\nAllergy: {allergy}\nDoctor: {person_2}",
            "{person}, room {number}. Doctor: {person_2}. The patient is allergic to {allergy}.",
        ),
        question="What is the patient allergic to?",
        answer="{allergy}",
        response="The patient is allergic to {allergy}.",
        slots={"allergy": ("peanuts", "penicillin", "eggs", "latex", "shellfish", "pollen")},
    ),
    Scenario(
        id="record_book",
        category="record",
        split="test",
        system="You look up book records. Answer in a few words.",
        documents=(
            "Title: {title}\nAuthor: {person}\nPages: 212\nShelf: {code}",
            "{title}, a book of 212 pages by {person}. You find it on shelf {code}.",
        ),
        question="On which shelf is the book?",
        answer="{code}",
        response="The book is on shelf {code}.",
        slots={"title": ("Stars at Noon", "The Last Ferry", "Copper Hills", "A Quiet Year")},
    ),
    Scenario(
        id="table_prices",
        category="table",
        split="test",
        system="You answer questions about price lists.",
        documents=(
            "{company} price list\nchair | {amount}\ntable | {amount_2}\nlamp | {amount_3}",
            "Prices at {company}: a chair is {amount}, a table is {amount_2}, a lamp is "
            "{amount_3}.",
        ),
        question="How much does a chair cost?",
        answer="{amount}",
        response="A chair costs {amount}.",
    ),
    Scenario(
        id="record_plant",
        category="record",
        split="validation",
        system="You advise gardeners from a plant card. Be brief.",
        documents=(
            "Plant: {plant}\nHeight: 40 cm\nFlower color: {color}\nWater: twice a week",
            "The {plant} grows 40 cm high and has {color} flowers. Water it twice a week.",
        ),
        question="What color are the flowers?",
        answer="{color}",
        response="The flowers are {color}.",
        slots={
            "plant": ("marsh lily", "bell aster", "rock primrose"),
            "color": ("purple", "orange", "white", "pink"),
        },
    ),
)
