"""`eval --endpoint`: a deployed model, alone or against the checkpoint that it came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from llmcausal.assembly import run_directory
from llmcausal.assembly.evaluating import (
    AnyEvaluation,
    answers_kept,
    choose_suite,
    command_line,
    load_parts,
    plain_name,
    read_checkpoint,
)
from llmcausal.assembly.prepare import load_template
from llmcausal.config import ModelSection, RunConfig
from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import Triplet
from llmcausal.errors import UsageError
from llmcausal.evaluation.answer_store import AnswerStore
from llmcausal.evaluation.endpoint import (
    KEY_VARIABLE,
    Api,
    Asker,
    Chat,
    Completions,
    Endpoint,
    KeptAnswers,
    Ollama,
    Replies,
    RequestPace,
)
from llmcausal.evaluation.evaluate import (
    Answers,
    encoding_once,
    fitting,
    prompts_of,
    require_some,
    score_answers,
)
from llmcausal.evaluation.generation import Answering, answer_prompts
from llmcausal.evaluation.results import write_results
from llmcausal.evaluation.summary import caveats
from llmcausal.model.device import out_of_memory_explained
from llmcausal.serving import template_of
from llmcausal.ui.console import ProgressLine
from llmcausal.ui.report import REPORT, RunFiles, write_report

RUNS = Path("runs")
ApiName = Literal["openai", "completions", "ollama"]


@dataclass(frozen=True)
class EndpointRequest(AnyEvaluation):
    """The options of `eval --endpoint`.

    Attributes:
        model: The model's name at the endpoint.
        api: The form of requests; `completions` renders token ids in this process.
        tokenizer: Exported folder or hub id whose chat template renders them; None takes the
            checkpoint's.
        checkpoint: Gives settings and rendering, and is compared with the endpoint.
        reuse: Also take answers from finished evaluations.
    """

    url: str
    model: str
    api: ApiName = "openai"
    tokenizer: str | None = None
    checkpoint: Path | None = None
    pace: RequestPace = field(default_factory=RequestPace)
    reuse: bool = False


@out_of_memory_explained("in the evaluation")
def evaluate_endpoint(request: EndpointRequest) -> dict[str, Any]:
    """Evaluates a deployed model and writes the result, without perplexity and representations.

    Raises:
        UsageError: If the request contradicts itself, or the endpoint refuses the key.
        EndpointError: If the endpoint does not answer.
        DataError: If no triplet has all its answers.
        Interrupted: On Ctrl-C or SIGTERM.
    """
    checkpoint = request.checkpoint
    own, manifest = RunConfig(), dict[str, Any]()
    if checkpoint is not None:
        own, manifest = read_checkpoint(checkpoint, request.trust_remote_code)
    config = request.applied_to(own)
    suite = choose_suite(config.data, config.evaluation, request.suite)
    endpoint = endpoint_of(
        request.url,
        request.model,
        request.api,
        request.tokenizer,
        lambda: _own_template(config.model, checkpoint),
    )
    deployed = plain_name(f"endpoint-{urlsplit(endpoint.address).netloc}-{endpoint.model}")
    folder = request.out or RUNS / deployed / request.folder_name("evaluation", suite=suite.name)
    kept = KeptAnswers(
        AnswerStore() if config.evaluation.cache else None,
        [endpoint.address, endpoint.model, endpoint.api.rendering, suite.name, request.data],
        finished=request.reuse,
    )
    prompts = prompts_of(suite.triplets)
    with answers_kept(config.evaluation):
        replies = Asker(endpoint, request.pace, kept, config.evaluation.max_new_tokens).ask(
            prompts, request.progress or ProgressLine("answers of the endpoint")
        )
        usable, skipped = _answered(suite.triplets, replies)
        base = None
        if checkpoint is not None and request.baseline:
            usable, more, base = _of_checkpoint(config, manifest, checkpoint, usable)
            skipped += more
        result = score_answers(usable, skipped, replies.answers, base)
    if base is not None:
        result["base"]["name"] = str(checkpoint)
    result |= _facts(endpoint, request.api, replies, suite.notes)
    result |= {"suite": suite.name, "command": command_line()}
    result["environment"] = run_directory.environment()
    write_results(result, folder)
    report = write_report(
        RunFiles({**result, "caveats": caveats(result)}),
        folder / REPORT,
        title=f"{endpoint.model} at {endpoint.address}",
    )
    if all(prompt in replies.answers or prompt in replies.refused for prompt in prompts):
        kept.finish()
    return {**result, "written": str(folder), "report": str(report)}


def endpoint_of(
    url: str,
    model: str,
    api: ApiName,
    tokenizer: str | None,
    own_template: Callable[[], ChatTemplate],
) -> Endpoint:
    """Returns the endpoint with the environment's key.

    Args:
        own_template: Renders the ids of `completions` without `tokenizer`; may raise a UsageError.

    Raises:
        UsageError: If a tokenizer is given that renders nothing.
    """
    form: Api
    if api == "completions":
        form = Completions(own_template() if tokenizer is None else template_of(tokenizer))
    elif tokenizer is not None:
        raise UsageError(f"--tokenizer renders nothing with --api {api}: leave it out")
    else:
        form = Chat() if api == "openai" else Ollama()
    return Endpoint(url, model, form, os.environ.get(KEY_VARIABLE, ""))


def _own_template(section: ModelSection, checkpoint: Path | None) -> ChatTemplate:
    if checkpoint is None:
        raise UsageError(
            "--api completions renders token ids: give --checkpoint, or --tokenizer with the "
            "exported folder"
        )
    return load_template(section)


def _answered(
    triplets: Sequence[Triplet], replies: Replies
) -> tuple[list[Triplet], list[dict[str, str]]]:
    """Returns the triplets with all their answers, and why the others lack some."""
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


def _of_checkpoint(
    config: RunConfig, manifest: dict[str, Any], checkpoint: Path, triplets: Sequence[Triplet]
) -> tuple[list[Triplet], list[dict[str, str]], Answers]:
    """Answers in this process the prompts that the endpoint has answered."""
    parts = load_parts(config, manifest, checkpoint)
    section = config.evaluation
    answering = Answering(
        parts.model,
        encoding_once(parts.template),
        section.max_new_tokens,
        section.batch_size,
        store=AnswerStore() if section.cache else None,
    )
    usable, skipped = fitting(answering, triplets)
    prompts = prompts_of(usable)
    found = answer_prompts(answering, prompts, progress=ProgressLine("answers of the checkpoint"))
    return usable, skipped, dict(zip(prompts, found, strict=True))


def _facts(endpoint: Endpoint, api: str, replies: Replies, notes: Sequence[str]) -> dict[str, Any]:
    note = f"The tuned side is {endpoint.model} at {endpoint.address}."
    if replies.kept:
        note += f" {replies.kept} of {len(replies.answers)} answers are from an earlier evaluation."
    if api != "completions":
        note += " It renders prompts with its own chat template, which is not checked here."
    facts = {
        "url": endpoint.address,
        "model": endpoint.model,
        "api": api,
        "requests": replies.requests,
        "retries": replies.retries,
        "kept": replies.kept,
    }
    return {"endpoint": facts, "notes": [note, *notes]}
