"""E-mails."""

from __future__ import annotations

from llmcausal.data.scenarios.scenario import Scenario

SCENARIOS = (
    Scenario(
        id="email_meeting_room",
        category="email",
        split="train",
        system="You read emails and answer one question about them in a few words.",
        documents=(
            "From: {person}\nSubject: Team meeting\n\nHi all, our next meeting is on {date} at "
            "{time}. We will meet in {room}. Please bring your notes.",
            "From: {person}\nSubject: Where we meet\n\nHello team, please come to {room} for the "
            "weekly meeting on {date}. We start at {time}.",
        ),
        question="In which room is the meeting?",
        answer="{room}",
        response="The meeting is in {room}.",
        slots={"room": ("Room 204", "Room 12B", "the Blue Hall", "the Garden Room", "Room 318")},
    ),
    Scenario(
        id="email_sender",
        category="email",
        split="train",
        system="You are an email assistant. Answer shortly, using only the email.",
        documents=(
            "From: {person}\nTo: {person_2}\nSubject: Thank you\n\nThank you for your help with "
            "the move to {city}. The new office looks great.",
            "From: {person}\nTo: {person_2}\nSubject: New office\n\nI wanted to say thanks. "
            "Without you the office in {city} would not be ready.",
        ),
        question="Who sent this email?",
        answer="{person}",
        response="{person} sent this email.",
    ),
    Scenario(
        id="email_deadline",
        category="email",
        split="train",
        system="You help an employee to keep track of deadlines. Reply with the fact only.",
        documents=(
            "Dear {person},\n\nplease send the {thing} by {date}. We need it for the board. "
            "Call me if there is any problem.\n\n{person_2}",
            "Hi {person},\n\na short reminder: the {thing} is due on {date}. The board is waiting "
            "for it.\n\nBest, {person_2}",
        ),
        question="By what date is the {thing} due?",
        answer="{date}",
        response="The {thing} is due on {date}.",
        slots={"thing": ("sales report", "budget plan", "project summary", "safety form")},
    ),
    Scenario(
        id="email_delivery",
        category="email",
        split="train",
        system="Answer the customer's question from the shop's email. Keep it short.",
        documents=(
            "Dear {person}, your order {code} has left our warehouse in {city}. The parcel will "
            "arrive on {date}. Thank you for shopping at {company}.",
            "{company} order {code}: good news, {person}! We shipped your parcel from {city} and "
            "it will be with you on {date}.",
        ),
        question="On what date will the parcel arrive?",
        answer="{date}",
        response="The parcel will arrive on {date}.",
    ),
    Scenario(
        id="email_price_quote",
        category="email",
        split="validation",
        system="You read business emails and answer in one short sentence.",
        documents=(
            "Dear {person},\n\nthank you for asking. {company} can paint the {place} for {amount}. "
            "The work takes two days.\n\nRegards, {person_2}",
            "Hello {person},\n\nhere is our offer: we paint your {place} for {amount}, and we need "
            "two days.\n\n{person_2}, {company}",
        ),
        question="How much does the painting cost?",
        answer="{amount}",
        response="The painting costs {amount}.",
        slots={"place": ("kitchen", "garage", "front door", "fence")},
    ),
    Scenario(
        id="email_new_colleague",
        category="email",
        split="test",
        system="You answer questions about office emails. Use only a few words.",
        documents=(
            "Hi everyone,\n\nplease welcome {person}, who joins {company} as our new {job} on "
            "{date}. The desk next to the window is ready.",
            "Dear colleagues,\n\non {date} a new {job} starts at {company}: {person}. Say hello "
            "when you pass the desk by the window.",
        ),
        question="What is the new colleague's name?",
        answer="{person}",
        response="The new colleague is {person}.",
        slots={"job": ("designer", "accountant", "engineer", "lawyer")},
    ),
    Scenario(
        id="email_phone_number",
        category="email",
        split="test",
        system="Find the requested contact detail in the email and give it briefly.",
        documents=(
            "Hello {person},\n\nthe plumber comes on {date}. If you are late, please call "
            "555-{tail} and ask for {person_2}.\n\nYour landlord",
            "Dear {person},\n\nthe plumber visits your flat on {date}. {person_2} has the key; the "
            "number is 555-{tail}.\n\nYour landlord",
        ),
        question="Which phone number is given in the email?",
        answer="555-{tail}",
        response="The phone number is 555-{tail}.",
        slots={"tail": ("0143", "0186", "0127", "0169", "0112")},
    ),
)
