"""Receipts, invoices, notices and forms."""

from __future__ import annotations

from llmcausal.data.scenarios.scenario import Scenario

SCENARIOS = (
    Scenario(
        id="receipt_total",
        category="document",
        split="train",
        system="You extract facts from receipts. Give only the fact.",
        documents=(
            "{company} store, {city}\n{date}\nBread $3\nMilk $2\nCoffee $9\nTOTAL {amount}\n"
            "Paid by card. Thank you!",
            "RECEIPT\nShop: {company}, {city}\nDate: {date}\nItems: 6\nTotal to pay: {amount}\n"
            "Payment: cash",
        ),
        question="What is the total on the receipt?",
        answer="{amount}",
        response="The total is {amount}.",
    ),
    Scenario(
        id="invoice_number",
        category="document",
        split="train",
        system="You process invoices. Answer with the requested field.",
        documents=(
            "INVOICE {code}\nFrom: {company}\nTo: {person}\nAmount due: {amount}\n"
            "Please pay within 30 days.",
            "{company}\nBill to: {person}\nInvoice number: {code}\nSum: {amount}\n"
            "Payable within 30 days.",
        ),
        question="What is the invoice number?",
        answer="{code}",
        response="The invoice number is {code}.",
    ),
    Scenario(
        id="lease_rent",
        category="document",
        split="train",
        system="You answer questions about contracts in a few words.",
        documents=(
            "RENTAL CONTRACT\n{person} rents the flat in {city} from {date}. The monthly rent is "
            "{amount}. Pets are not allowed.",
            "Lease. Tenant: {person}. Flat: {city}. Start: {date}. Rent per month: {amount}. "
            "No pets.",
        ),
        question="How much is the monthly rent?",
        answer="{amount}",
        response="The monthly rent is {amount}.",
    ),
    Scenario(
        id="library_notice",
        category="document",
        split="train",
        system="You help library visitors. Answer from the notice only.",
        documents=(
            "NOTICE\nThe library in {city} is closed on {date} because of {reason}. Books can be "
            "returned the day after.",
            "Dear readers, because of {reason} the {city} library stays closed on {date}. Return "
            "your books one day later.",
        ),
        question="Why is the library closed?",
        answer="{reason}",
        response="The library is closed because of {reason}.",
        slots={
            "reason": ("a water leak", "a staff party", "new carpets", "a power cut", "a book fair")
        },
    ),
    Scenario(
        id="medicine_label",
        category="document",
        split="train",
        system="You explain product labels. Reply in one short sentence.",
        documents=(
            "{name} syrup. For adults: take {dose} a day after a meal. Keep in a dry place. "
            "Made by {company}.",
            "Label: {name}, {company}. Dose for adults: {dose} a day, after eating. Store it dry.",
        ),
        question="How much should an adult take a day?",
        answer="{dose}",
        response="An adult should take {dose} a day.",
        slots={
            "name": ("Coflin", "Tussamed", "Bronchal", "Herbatin"),
            "dose": ("two spoons", "three spoons", "one spoon", "four spoons", "five spoons"),
        },
    ),
    Scenario(
        id="warranty_period",
        category="document",
        split="validation",
        system="You answer questions about product papers. Be brief.",
        documents=(
            "WARRANTY CARD\nProduct: {product}\nMaker: {company}\nThis product has a warranty of "
            "{period}. Keep this card.",
            "{company} warranty. Your {product} is covered for {period} from the day of purchase. "
            "Keep this card.",
        ),
        question="How long is the warranty?",
        answer="{period}",
        response="The warranty lasts {period}.",
        slots={
            "product": ("toaster", "fan heater", "hair dryer", "kettle"),
            "period": ("18 months", "three years", "24 months", "five years"),
        },
    ),
    Scenario(
        id="parking_ticket",
        category="document",
        split="test",
        system="You read official papers and answer the question about them.",
        documents=(
            "CITY OF {city}\nParking ticket {code}\nCar: {car}\nDate: {date}\nFine: {amount}\n"
            "Pay at the town hall.",
            "Parking fine, {city}, {date}. Your {car} stood in a bus lane. Please pay {amount} at "
            "the town hall. Ticket {code}.",
        ),
        question="How much is the parking fine?",
        answer="{amount}",
        response="The parking fine is {amount}.",
        slots={"car": ("green Fiat", "white Ford", "grey Volvo", "black Honda")},
    ),
    Scenario(
        id="job_advert",
        category="document",
        split="test",
        system="You help people who look for work. Answer from the advert in a few words.",
        documents=(
            "{company} is looking for a {job} in {city}. The job starts on {date} and pays "
            "{amount} a week. Write to {person}.",
            "JOB OFFER: {job} wanted. Place: {city}. Start: {date}. Weekly pay: {amount}. Contact "
            "{person} at {company}.",
        ),
        question="What job is offered?",
        answer="{job}",
        response="The job offered is {job}.",
        slots={"job": ("baker", "truck driver", "gardener", "night nurse", "carpenter")},
    ),
)
