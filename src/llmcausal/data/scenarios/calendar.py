"""Calendars, agendas and invitations."""

from __future__ import annotations

from llmcausal.data.scenarios.scenario import Scenario

SCENARIOS = (
    Scenario(
        id="calendar_dentist",
        category="calendar",
        split="train",
        system="You are a calendar assistant. Answer in a few words.",
        documents=(
            "Calendar for {date}:\n{time} dentist\n5:30 pm gym with {person}\n8:00 pm dinner",
            "{date}\n- dentist at {time}\n- gym with {person} at 5:30 pm\n- dinner at 8:00 pm",
        ),
        question="At what time is the dentist appointment?",
        answer="{time}",
        response="The dentist appointment is at {time}.",
    ),
    Scenario(
        id="calendar_lunch_guest",
        category="calendar",
        split="train",
        system="You keep a manager's diary. Answer from the diary only.",
        documents=(
            "Diary, {date}\nMorning: call with {company}\nNoon: lunch with {person}\n"
            "Evening: flight to {city}",
            "{date}: first a call with {company}, at noon lunch with {person}, in the evening the "
            "flight to {city}.",
        ),
        question="With whom is the lunch?",
        answer="{person}",
        response="The lunch is with {person}.",
    ),
    Scenario(
        id="calendar_party",
        category="calendar",
        split="train",
        system="You read invitations and answer one question about them.",
        documents=(
            "You are invited! {person} celebrates a birthday on {date} at the {place}. We begin "
            "at {time}. Bring good shoes for dancing.",
            "Birthday of {person}: come to the {place} on {date}, {time}. There will be dancing!",
        ),
        question="Where is the party?",
        answer="{place}",
        response="The party is at the {place}.",
        slots={"place": ("Rose Cafe", "old boathouse", "Lion Hotel", "village hall", "Green Barn")},
    ),
    Scenario(
        id="calendar_class",
        category="calendar",
        split="test",
        system="You help students with their timetable. Give a short answer.",
        documents=(
            "Timetable, {date}\n8:00 am history, room 3\n{time} {subject}, room 7\n"
            "4:00 pm sports, gym\nTeacher on duty: {person}",
            "Classes on {date}: history at 8:00 am in room 3, {subject} at {time} in room 7, "
            "sports at 4:00 pm. On duty: {person}.",
        ),
        question="When does the {subject} class start?",
        answer="{time}",
        response="The {subject} class starts at {time}.",
        slots={"subject": ("chemistry", "biology", "music", "algebra")},
    ),
    Scenario(
        id="calendar_speaker",
        category="calendar",
        split="validation",
        system="You answer questions about event programs, briefly.",
        documents=(
            "PROGRAM {date}\n{time} opening talk by {person}\n4:00 pm coffee\n4:30 pm visit to "
            "{company}",
            "Program for {date}: {person} gives the opening talk at {time}. Coffee is at 4:00 pm, "
            "then we visit {company}.",
        ),
        question="Who gives the opening talk?",
        answer="{person}",
        response="{person} gives the opening talk.",
    ),
)
