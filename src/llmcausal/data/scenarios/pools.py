"""Values that scenarios of one split share; no value is in two splits."""

from __future__ import annotations

from collections.abc import Mapping

from llmcausal.attacks.goal import Split

POOLS: Mapping[Split, Mapping[str, tuple[str, ...]]] = {
    "train": {
        "person": (
            "Maria Lopez",
            "Tom Becker",
            "Aisha Khan",
            "John Carter",
            "Elena Rossi",
            "Peter Novak",
            "Grace Lee",
            "Omar Haddad",
            "Julia Stein",
            "Victor Hall",
        ),
        "city": (
            "Denver",
            "Oslo",
            "Vienna",
            "Boston",
            "Lyon",
            "Toronto",
            "Prague",
            "Seattle",
        ),
        "company": (
            "Northwind",
            "Bluefield",
            "Acme Tools",
            "Brightline",
            "Redwood Foods",
            "Sunvale",
        ),
        "date": (
            "March 3",
            "April 12",
            "May 20",
            "June 8",
            "July 15",
            "January 27",
            "August 2",
        ),
        "time": ("9:00 am", "10:30 am", "11:15 am", "1:00 pm", "2:45 pm", "4:20 pm"),
        "amount": ("$48", "$125", "$310", "$74", "$560", "$1,200", "$36", "$890"),
        "number": ("14", "23", "37", "52", "68", "81", "96", "45"),
        "code": ("AB-4471", "QX-2093", "LM-7715", "TR-6038", "KD-1182", "ZP-9964"),
    },
    "validation": {
        "person": ("Hannah Weiss", "Carlos Vega", "Mei Tanaka", "Samuel Reed", "Irina Popova"),
        "city": ("Lisbon", "Chicago", "Warsaw", "Geneva", "Austin"),
        "company": ("Greenhill", "Orbit Labs", "Stonebridge", "Clearwater"),
        "date": ("February 9", "October 31", "February 22", "October 6"),
        "time": ("8:15 am", "12:30 pm", "3:10 pm", "5:40 pm"),
        "amount": ("$59", "$230", "$415", "$92", "$1,750"),
        "number": ("16", "29", "33", "58", "72"),
        "code": ("FN-3350", "WB-8127", "GE-5546", "CY-2791"),
    },
    "test": {
        "person": (
            "Daniel Frost",
            "Sofia Marino",
            "Kenji Sato",
            "Laura Jensen",
            "Ahmed Salah",
            "Rachel Green",
            "Pavel Orlov",
            "Nina Brandt",
        ),
        "city": ("Dublin", "Helsinki", "Portland", "Naples", "Calgary", "Zurich"),
        "company": ("Silverpine", "Harbor Goods", "Maple Systems", "Ironbridge", "Fairview"),
        "date": ("September 5", "November 18", "December 11", "September 24", "December 29"),
        "time": ("7:45 am", "9:50 am", "12:05 pm", "2:15 pm", "6:30 pm"),
        "amount": ("$67", "$145", "$280", "$99", "$640", "$1,430"),
        "number": ("17", "26", "39", "54", "63", "88"),
        "code": ("HV-5208", "NU-1673", "SJ-8842", "PO-3917", "DY-7450"),
    },
}
