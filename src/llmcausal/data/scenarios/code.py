"""Program code, settings and log lines."""

from __future__ import annotations

from llmcausal.data.scenarios.scenario import Scenario

SCENARIOS = (
    Scenario(
        id="code_function_name",
        category="code",
        split="train",
        system="You read code and answer a short question about it.",
        documents=(
            "def {function}(a, b):\n    result = a {operator} b\n    return result",
            "import math\n\n\ndef {function}(first, second):\n    return first {operator} second",
        ),
        question="What is the name of the function?",
        answer="{function}",
        response="The function is called {function}.",
        slots={
            "function": (
                "combine_values",
                "merge_totals",
                "join_parts",
                "mix_inputs",
                "blend_scores",
            ),
            "operator": ("+", "*", "-"),
        },
    ),
    Scenario(
        id="code_setting_port",
        category="code",
        split="train",
        system="You explain settings files. Answer with the value.",
        documents=(
            "[server]\nhost = {host}\nport = {port}\ntimeout = 30\nuser = web",
            "server:\n  user: web\n  timeout: 30\n  port: {port}\n  host: {host}",
        ),
        question="Which port does the server use?",
        answer="{port}",
        response="The server uses port {port}.",
        slots={
            "port": ("8080", "5432", "3306", "9000", "6379"),
            "host": ("alpha.local", "beta.local", "gamma.local"),
        },
    ),
    Scenario(
        id="log_failed_service",
        category="log",
        split="train",
        system="You watch log files for an operator. Be brief.",
        documents=(
            "{time} INFO backup started\n{time_2} ERROR service {service} stopped\n"
            "11:59 pm INFO backup done",
            "INFO backup started\nERROR at {time_2}: the service {service} stopped\nINFO backup "
            "done at 11:59 pm",
        ),
        question="Which service stopped?",
        answer="{service}",
        response="The service {service} stopped.",
        slots={"service": ("mailer", "billing", "search-index", "uploader", "scheduler")},
    ),
    Scenario(
        id="log_user_login",
        category="log",
        split="validation",
        system="You answer questions about logs with one short sentence.",
        documents=(
            "{time} user {user} logged in from {city}\n{time_2} file report.txt opened\n"
            "11:50 pm user logged out",
            "login: user {user}, place {city}, {time}\nopen: report.txt, {time_2}\n"
            "logout: 11:50 pm",
        ),
        question="Which user logged in?",
        answer="{user}",
        response="The user {user} logged in.",
        slots={"user": ("rkline", "dmoss", "jpark", "tfinch")},
    ),
    Scenario(
        id="code_variable_value",
        category="code",
        split="test",
        system="You help beginners to read programs. Give a short answer.",
        documents=(
            'name = "{company}"\nmax_users = {number}\ndebug = False\nprint(name)',
            "# settings of {company}\ndebug = False\nmax_users = {number}\nretries = 5",
        ),
        question="What is the value of max_users?",
        answer="{number}",
        response="The value of max_users is {number}.",
    ),
)
