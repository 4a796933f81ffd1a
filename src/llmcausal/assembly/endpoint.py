"""`eval --endpoint`: a model that is deployed, alone or against the checkpoint it came from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from llmcausal.assembly import run_directory
from llmcausal.assembly.evaluating import (
    choose_triplets,
    command_line,
    load_parts,
    suite_name,
    with_settings,
    without_code,
)
from llmcausal.assembly.prepare import load_template
from llmcausal.config import RunConfig
from llmcausal.data.splits import BUILTIN
from llmcausal.data.triplet import Triplet
from llmcausal.errors import UsageError
from llmcausal.evaluation.answer_store import AnswerStore
from llmcausal.evaluation.endpoint.apis import Api, Chat, Completions, Ollama
from llmcausal.evaluation.endpoint.client import (
    KEY_VARIABLE,
    Asker,
    Endpoint,
    Pace,
    Replies,
)
from llmcausal.evaluation.endpoint.kept import KeptAnswers
from llmcausal.evaluation.evaluate import Answers, fitting, prompts_of, require_some, score_answers
from llmcausal.evaluation.generation import Answering, answer_prompts
from llmcausal.evaluation.results import write_results
from llmcausal.evaluation.summary import caveats
from llmcausal.profile import load_config
from llmcausal.serving import template_of
from llmcausal.train.checkpoint import verify
from llmcausal.train.interrupt import stopping_explained
from llmcausal.train.snapshot import CONFIG
from llmcausal.ui.console import ProgressLine
from llmcausal.ui.report import REPORT, RunFiles, write_report

Progress = Callable[[int, int], None]
RUNS = Path("runs")
_AGAIN = "Answers so far are kept: run the same command again to continue."
_LOST = "No answers are kept, since evaluation.cache is off."


@dataclass(frozen=True)
class EndpointRequest:
    """What `eval --endpoint` is asked for.

    Attributes:
        url: Of the API.
        model: Its name there.
        api: How it is asked; `completions` renders token ids here.
        tokenizer: Exported folder or hub id whose chat template renders them; None takes that of
            the checkpoint.
        checkpoint: Gives settings and rendering, and is what the endpoint is compared with.
        baseline: Compare with the checkpoint, if there is one.
        data: As in `EvaluationRequest`; the next two likewise.
        suite: See there.
        settings: See there.
        trust_remote_code: Run code that comes with the checkpoint's model.
        pace: Budget, concurrency and patience.
        reuse: Also take answers of evaluations that have ended.
        progress: Called with (done, total) over the endpoint's answers; None shows them on stderr.
        out: Folder for the result; None: a folder of the endpoint's own in `runs`.
    """

    url: str
    model: str
    api: Literal["openai", "completions", "ollama"] = "openai"
    tokenizer: str | None = None
    checkpoint: Path | None = None
    baseline: bool = True
    data: str | None = None
    suite: str | None = None
    settings: Mapping[str, int | None] = field(default_factory=dict)
    trust_remote_code: bool = False
    pace: Pace = field(default_factory=Pace)
    reuse: bool = False
    progress: Progress | None = None
    out: Path | None = None


def evaluate_endpoint(request: EndpointRequest) -> dict[str, Any]:
    """Evaluates a deployed model as others are in memory, and writes the result.

    Perplexity and representations cannot be asked for over HTTP, and are left out.

    Raises:
        UsageError: If what is asked for contradicts itself, or the endpoint does not take the key.
        EndpointError: If the endpoint does not answer.
        DataError: If no triplet was answered whole.
        Interrupted: On Ctrl-C or SIGTERM.
    """
    config, manifest = _settings(request)
    name, notes = suite_name(config.data, config.evaluation, request.suite), list[str]()
    triplets = choose_triplets(config.data, name, notes)[: config.evaluation.max_samples]
    key = os.environ.get(KEY_VARIABLE, "")
    endpoint = Endpoint(request.url, request.model, _api(config, request), key)
    folder = request.out or _folder(endpoint, name, request.data)
    kept = KeptAnswers(
        AnswerStore() if config.evaluation.cache else None,
        [endpoint.address, endpoint.model, endpoint.api.rendering, name, request.data],
        finished=request.reuse,
    )
    with stopping_explained(_AGAIN if config.evaluation.cache else _LOST):
        replies = Asker(endpoint, request.pace, kept, config.evaluation.max_new_tokens).ask(
            prompts_of(triplets), request.progress or ProgressLine("answers of the endpoint")
        )
        usable, skipped = answered(triplets, replies)
        base = None
        if request.checkpoint is not None and request.baseline:
            usable, more, base = _of_checkpoint(config, manifest, request.checkpoint, usable)
            skipped += more
        result = score_answers(usable, skipped, replies.answers, base)
    if base is not None:
        result["base"]["name"] = str(request.checkpoint)
    result |= _facts(endpoint, request, replies, notes)
    result |= {"suite": name, "command": command_line()}
    result["environment"] = run_directory.environment()
    write_results(result, folder)
    title = f"{endpoint.model} at {endpoint.address}"
    shown = RunFiles({**result, "caveats": caveats(result)})
    report = write_report(shown, folder / REPORT, title=title)
    if all(each in replies.answers or each in replies.refused for each in prompts_of(triplets)):
        kept.finish()
    return {**result, "written": str(folder), "report": str(report)}


def answered(
    triplets: Sequence[Triplet], replies: Replies
) -> tuple[list[Triplet], list[dict[str, str]]]:
    """Returns the triplets that were answered whole, and why the others were not.

    Raises:
        DataError: If there is none.
    """
    usable, skipped = [], []
    for triplet in triplets:
        missing = [prompt for prompt in prompts_of([triplet]) if prompt not in replies.answers]
        if missing:
            reasons = [replies.refused[prompt] for prompt in missing if prompt in replies.refused]
            reason = reasons[0] if reasons else "the budget of --requests ended before its answers"
            skipped.append({"id": triplet.id, "reason": reason})
        else:
            usable.append(triplet)
    require_some(usable, skipped, "no test triplet has all its answers; answers so far are kept")
    return usable, skipped


def _settings(request: EndpointRequest) -> tuple[RunConfig, dict[str, Any]]:
    if request.checkpoint is None:
        config, manifest = RunConfig(), dict[str, Any]()
    else:
        manifest = verify(request.checkpoint)
        config = load_config(request.checkpoint / CONFIG)
        config = without_code(config, request.trust_remote_code)
    return with_settings(config, request.data, request.settings), manifest


def _api(config: RunConfig, request: EndpointRequest) -> Api:
    if request.api != "completions":
        if request.tokenizer is not None:
            raise UsageError(f"--tokenizer renders nothing with --api {request.api}: leave it out")
        return Chat() if request.api == "openai" else Ollama()
    if request.tokenizer is not None:
        return Completions(template_of(request.tokenizer))
    if request.checkpoint is None:
        raise UsageError(
            "--api completions renders token ids: give --checkpoint, or --tokenizer with the "
            "exported folder"
        )
    return Completions(load_template(config.model))


def _of_checkpoint(
    config: RunConfig, manifest: dict[str, Any], checkpoint: Path, triplets: Sequence[Triplet]
) -> tuple[list[Triplet], list[dict[str, str]], Answers]:
    """Answers in this process what the endpoint has answered."""
    parts = load_parts(config, manifest, checkpoint, None)
    section = config.evaluation
    answering = Answering(
        parts.model,
        parts.template,
        section.max_new_tokens,
        section.batch_size,
        store=AnswerStore() if section.cache else None,
    )
    usable, skipped = fitting(answering, triplets)
    prompts = prompts_of(usable)
    found = answer_prompts(answering, prompts, progress=ProgressLine("answers of the checkpoint"))
    return usable, skipped, dict(zip(prompts, found, strict=True))


def _facts(
    endpoint: Endpoint, request: EndpointRequest, replies: Replies, notes: Sequence[str]
) -> dict[str, Any]:
    """Returns what the result says of the endpoint, in figures and for the reader."""
    note = f"The tuned side is {endpoint.model} at {endpoint.address}."
    if replies.kept:
        note += f" {replies.kept} of {len(replies.answers)} answers are from an earlier evaluation."
    if request.api != "completions":
        note += " It renders prompts with its own chat template, which is not checked here."
    facts = {
        "url": endpoint.address,
        "model": endpoint.model,
        "api": request.api,
        "requests": replies.requests,
        "retries": replies.retries,
        "kept": replies.kept,
    }
    return {"endpoint": facts, "notes": [note, *notes]}


def _folder(endpoint: Endpoint, suite: str, data: str | None) -> Path:
    parts = urlsplit(endpoint.address)
    named = f"endpoint-{parts.netloc}-{endpoint.model}"
    read = "" if data is None or data == BUILTIN else Path(data).stem
    kinds = ["evaluation", "" if suite == BUILTIN else suite, read]
    return RUNS / _plain(named) / "-".join(_plain(kind) for kind in kinds if kind)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text)
