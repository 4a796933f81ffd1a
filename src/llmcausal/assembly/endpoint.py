"""`eval --endpoint`: a deployed model, alone, against another, or against its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
    tested_elsewhere,
)
from llmcausal.assembly.prepare import load_template
from llmcausal.config import ModelSection, RunConfig
from llmcausal.data.template import ChatTemplate
from llmcausal.data.triplet import Triplet
from llmcausal.errors import UsageError
from llmcausal.evaluation.answer_store import AnswerStore
from llmcausal.evaluation.endpoint import (
    BASELINE_KEY_VARIABLE,
    KEY_VARIABLE,
    Api,
    Asker,
    Chat,
    Completions,
    Endpoint,
    EndpointOptions,
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
from llmcausal.evaluation.generation import Answering, PromptPair, answer_prompts
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
        checkpoint: Gives settings and rendering, and is the base without `baseline_model`.
        pace: Both endpoints share its budget of requests.
        reuse: Also take answers from finished evaluations.
        baseline_model: The model to compare with, asked in the same form.
        baseline_url: Where it is deployed; None takes `url`.
    """

    url: str
    model: str
    api: ApiName = "openai"
    tokenizer: str | None = None
    checkpoint: Path | None = None
    pace: RequestPace = field(default_factory=RequestPace)
    reuse: bool = False
    baseline_model: str | None = None
    baseline_url: str | None = None


@dataclass
class _Side:
    """A deployed model in an evaluation; `replies` are to `asked`."""

    part: Literal["endpoint", "baseline_endpoint"]  # of the result
    endpoint: Endpoint
    kept: KeptAnswers
    asked: Sequence[PromptPair] = ()
    replies: Replies = field(default_factory=Replies)

    @property
    def name(self) -> str:
        return self.part.replace("_", " ")

    @property
    def is_settled(self) -> bool:
        return all(
            each in self.replies.answers or each in self.replies.refused for each in self.asked
        )


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
    suite.notes.extend(tested_elsewhere(manifest, suite, request.data))
    endpoint = endpoint_of(
        request.url,
        request.model,
        request.api,
        request.tokenizer,
        lambda: _own_template(config.model, checkpoint),
    )
    baseline = _baseline_of(request, endpoint)
    deployed = plain_name(f"endpoint-{urlsplit(endpoint.address).netloc}-{endpoint.model}")
    folder = request.out or RUNS / deployed / request.folder_name("evaluation", suite=suite.name)
    store = AnswerStore() if config.evaluation.cache else None

    def kept(of: Endpoint) -> KeptAnswers:
        identity = [of.address, of.model, of.api.rendering, suite.name, request.data]
        return KeptAnswers(store, identity, finished=request.reuse)

    sides = [_Side("endpoint", endpoint, kept(endpoint))]
    if baseline is not None:
        sides.append(_Side("baseline_endpoint", baseline, kept(baseline)))
    with answers_kept(config.evaluation):
        usable, skipped = _ask(sides, suite.triplets, request, config.evaluation.max_new_tokens)
        base: Answers | None = None
        base_name = str(checkpoint)
        if baseline is not None:
            base = sides[1].replies.answers
            base_name = f"{baseline.model} at {urlsplit(baseline.address).netloc}"
        elif checkpoint is not None and request.baseline:
            usable, more, base = _of_checkpoint(config, manifest, checkpoint, usable)
            skipped += more
        result = score_answers(usable, skipped, sides[0].replies.answers, base)
    if base is not None:
        result["base"]["name"] = base_name
    result |= {side.part: _facts(side, request.api) for side in sides}
    result["notes"] = [*(_note(side, request.api) for side in sides), *suite.notes]
    result |= {"suite": suite.name, "command": command_line()}
    result["environment"] = run_directory.environment()
    write_results(result, folder)
    report = write_report(
        RunFiles({**result, "caveats": caveats(result)}), folder / REPORT, title=_named(endpoint)
    )
    if all(side.is_settled for side in sides):
        for side in sides:
            side.kept.finish()
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


def _baseline_of(request: EndpointRequest, endpoint: Endpoint) -> Endpoint | None:
    """Returns the deployed model to compare with, if there is one; raises a UsageError."""
    url, model = request.baseline_url, request.baseline_model
    if model is None:
        return None
    if not request.baseline:
        raise UsageError("--baseline-model and --no-baseline exclude one another: leave one out")
    options = EndpointOptions(model="--baseline-model")
    other = replace(endpoint, model=model, options=options)
    if url is not None:
        options = replace(options, url="--baseline-endpoint", key=BASELINE_KEY_VARIABLE)
        key = os.environ.get(BASELINE_KEY_VARIABLE, "")
        other = replace(other, url=url, key=key, options=options)
    if (other.address, other.model) == (endpoint.address, endpoint.model):
        raise UsageError(
            f"--baseline-model {model}: is the evaluated model itself; name another one, or give "
            "--baseline-endpoint with another URL"
        )
    return other


def _own_template(section: ModelSection, checkpoint: Path | None) -> ChatTemplate:
    if checkpoint is None:
        raise UsageError(
            "--api completions renders token ids: give --checkpoint, or --tokenizer with the "
            "exported folder"
        )
    return load_template(section)


def _ask(
    sides: Sequence[_Side],
    triplets: Sequence[Triplet],
    request: EndpointRequest,
    max_new_tokens: int,
) -> tuple[list[Triplet], list[dict[str, str]]]:
    """Asks each side in turn; returns the triplets with all answers, and why others lack some.

    A budget of requests is for all sides. A side leaves the next one half of the rest, or as much
    as it lacks, so that a spent budget has left pairs of answers.
    """
    usable, skipped, left = list(triplets), list[dict[str, str]](), request.pace.requests
    for index, side in enumerate(sides):
        side.asked = prompts_of(usable)
        pace = request.pace
        if left is not None:
            lacking = [each.kept.lacking(side.asked, max_new_tokens) for each in sides[index + 1 :]]
            pace = replace(pace, requests=left - min(sum(lacking), left // 2))
        shown = request.progress or ProgressLine(f"answers of the {side.name}")
        asker = Asker(side.endpoint, pace, side.kept, max_new_tokens)
        side.replies = asker.ask(side.asked, shown)
        if left is not None:
            left -= side.replies.requests
        usable, more = _answered(usable, side)
        skipped += more
    return usable, skipped


def _answered(
    triplets: Sequence[Triplet], side: _Side
) -> tuple[list[Triplet], list[dict[str, str]]]:
    """Returns the triplets with all their answers, and why the others lack some."""
    answers, refused = side.replies.answers, side.replies.refused
    usable, skipped = [], []
    for triplet in triplets:
        missing = [prompt for prompt in prompts_of([triplet]) if prompt not in answers]
        if missing:
            reasons = [refused[prompt] for prompt in missing if prompt in refused]
            reason = reasons[0] if reasons else "the budget of --requests ended before its answers"
            skipped.append({"id": triplet.id, "reason": f"{side.name}: {reason}"})
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


def _named(endpoint: Endpoint) -> str:
    return f"{endpoint.model} at {endpoint.address}"


def _facts(side: _Side, api: str) -> dict[str, Any]:
    return {
        "url": side.endpoint.address,
        "model": side.endpoint.model,
        "api": api,
        "requests": side.replies.requests,
        "retries": side.replies.retries,
        "kept": side.replies.kept,
    }


def _note(side: _Side, api: str) -> str:
    replies = side.replies
    role = "tuned side" if side.part == "endpoint" else "base"
    note = f"The {role} is {_named(side.endpoint)}."
    if replies.kept:
        note += f" {replies.kept} of {len(replies.answers)} answers are from an earlier evaluation."
    if api != "completions":
        note += " It renders prompts with its own chat template, which is not checked here."
    return note
