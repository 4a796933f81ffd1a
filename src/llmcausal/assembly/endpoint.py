"""`eval --endpoint`: a deployed model, alone, against another, or against its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from llmcausal.assembly import run_directory
from llmcausal.assembly.evaluating import (
    AnyEvaluation,
    answering_of,
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
from llmcausal.evaluation.generation import PromptPair, answer_prompts
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
    """A deployed model in an evaluation, which needs its answers to `asked`."""

    part: Literal["endpoint", "baseline_endpoint"]  # of the result
    endpoint: Endpoint
    kept: KeptAnswers
    asker: Asker
    max_new_tokens: int
    asked: Sequence[PromptPair] = ()

    @property
    def name(self) -> str:
        return self.part.replace("_", " ")

    @property
    def replies(self) -> Replies:
        return self.asker.replies

    @property
    def is_settled(self) -> bool:
        return all(each in self.replies.answers for each in self.asked)

    def lacks(self, prompt: PromptPair) -> bool:
        """Whether its answer costs a request."""
        known = prompt in self.replies.answers or prompt in self.replies.refused
        return not known and self.kept.get(prompt, self.max_new_tokens) is None

    def ask(self, prompts: Sequence[PromptPair], request: EndpointRequest, most: int | None) -> int:
        """Asks for the answers that it lacks; returns the number of requests, `most` at most."""
        if not prompts:
            return 0
        before = self.replies.requests
        requests = None if most is None else before + most
        self.asker.pace = replace(self.asker.pace, requests=requests)
        self.asker.ask(prompts, request.progress or ProgressLine(f"answers of the {self.name}"))
        return self.replies.requests - before


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
        None if checkpoint is None else config.model,
        "give --checkpoint, or --tokenizer with the exported folder",
    )
    baseline = _baseline_of(request, endpoint)
    deployed = plain_name(f"endpoint-{_place(endpoint)}-{endpoint.model}")
    names = ["evaluation"]
    if baseline is not None:
        place = "" if baseline.address == endpoint.address else f"{_place(baseline)}-"
        names.append(plain_name(f"vs-{place}{baseline.model}"))
    folder = request.out or RUNS / deployed / request.folder_name(*names, suite=suite.name)
    store = AnswerStore() if config.evaluation.cache else None

    tokens = config.evaluation.max_new_tokens

    def side_of(part: Literal["endpoint", "baseline_endpoint"], of: Endpoint) -> _Side:
        identity = [of.address, of.model, of.api.rendering, suite.name, request.data]
        kept = KeptAnswers(store, identity, finished=request.reuse)
        return _Side(part, of, kept, Asker(of, request.pace, kept, tokens), tokens)

    sides = [side_of("endpoint", endpoint)]
    if baseline is not None:
        sides.append(side_of("baseline_endpoint", baseline))
    with answers_kept(config.evaluation):
        usable, skipped = _ask(sides, suite.triplets, request)
        base: Answers | None = None
        base_name = str(checkpoint)
        if baseline is not None:
            base = sides[1].replies.answers
            base_name = f"{baseline.model} at {_place(baseline)}"
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
    own: ModelSection | None = None,
    advice: str = "give --tokenizer",
) -> Endpoint:
    """Returns the endpoint with the environment's key.

    Args:
        own: Its chat template renders the ids of `completions` without `tokenizer`.

    Raises:
        UsageError: With `advice` if nothing renders ids, or if a tokenizer renders nothing.
    """
    form: Api
    if api == "completions":
        if tokenizer is not None:
            form = Completions(template_of(tokenizer))
        elif own is not None:
            form = Completions(load_template(own))
        else:
            raise UsageError(f"--api completions renders token ids: {advice}")
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


def _ask(
    sides: Sequence[_Side], triplets: Sequence[Triplet], request: EndpointRequest
) -> tuple[list[Triplet], list[dict[str, str]]]:
    """Asks all sides; returns the triplets with all answers, and why others lack some.

    A budget of requests is for all sides: each round asks all of them for the prompts that the rest
    can pay, in order. What retries and refusals leave over, the next round spends. The baseline
    answers one prompt before all others, so that a mistake in its options costs one request.
    """
    left, baselines = request.pace.requests, sides[1:]
    for side in baselines:
        spent = side.ask(prompts_of(triplets)[:1], request, left)
        left = None if left is None else left - spent
    while True:
        planned, spent = _payable(sides, prompts_of(_open(triplets, sides)), left), 0
        for index, side in enumerate(sides):
            wanted = planned.intersection(prompts_of(_open(triplets, sides)))
            prompts = [
                prompt
                for prompt in prompts_of(triplets)
                if prompt in wanted
                and all(prompt in before.replies.answers for before in sides[:index])
            ]
            most = None
            if left is not None:
                lacking = [each.lacks(prompt) for each in sides[index + 1 :] for prompt in planned]
                rest = left - spent
                most = rest - min(sum(lacking), rest // 2)
            spent += side.ask(prompts, request, most)
        if left is None or not spent:
            break
        left -= spent
    for side in sides:
        side.asked = prompts_of(_open(triplets, sides))
    return _answered(triplets, sides)


def _open(triplets: Sequence[Triplet], sides: Sequence[_Side]) -> list[Triplet]:
    """Returns the triplets of which no side has refused a prompt."""
    refused = {prompt for side in sides for prompt in side.replies.refused}
    return [each for each in triplets if refused.isdisjoint(prompts_of([each]))]


def _payable(
    sides: Sequence[_Side], prompts: Sequence[PromptPair], left: int | None
) -> set[PromptPair]:
    """Returns the first prompts that the rest of the budget pays, the last one perhaps in part."""
    if left is None:
        return set(prompts)
    found, cost = set[PromptPair](), 0
    for prompt in prompts:
        if cost >= left:
            break
        found.add(prompt)
        cost += sum(side.lacks(prompt) for side in sides)
    return found


def _answered(
    triplets: Sequence[Triplet], sides: Sequence[_Side]
) -> tuple[list[Triplet], list[dict[str, str]]]:
    """Returns the triplets with all their answers, and why the others lack some."""
    usable, skipped = list[Triplet](), list[dict[str, str]]()
    for triplet in triplets:
        prompts, reasons = prompts_of([triplet]), list[str]()
        for side in sides:
            refused = side.replies.refused
            reasons += [f"{side.name}: {refused[each]}" for each in prompts if each in refused]
        for side in sides:
            if any(each not in side.replies.answers for each in prompts):
                ended = "the budget of --requests ended before its answers"
                reasons.append(f"{side.name}: {ended}")
        if reasons:
            skipped.append({"id": triplet.id, "reason": reasons[0]})
        else:
            usable.append(triplet)
    require_some(usable, skipped, "no test triplet has all its answers; answers so far are kept")
    return usable, skipped


def _of_checkpoint(
    config: RunConfig, manifest: dict[str, Any], checkpoint: Path, triplets: Sequence[Triplet]
) -> tuple[list[Triplet], list[dict[str, str]], Answers]:
    """Answers in this process the prompts that the endpoint has answered."""
    parts = load_parts(config, manifest, checkpoint)
    parts = replace(parts, template=encoding_once(parts.template))
    answering = answering_of(config.evaluation, parts)
    usable, skipped = fitting(answering, triplets)
    prompts = prompts_of(usable)
    found = answer_prompts(answering, prompts, progress=ProgressLine("answers of the checkpoint"))
    return usable, skipped, dict(zip(prompts, found, strict=True))


def _place(endpoint: Endpoint) -> str:
    """Returns host, port and the path of the API, unless that is the usual one."""
    url = urlsplit(endpoint.address)
    path = url.path.removesuffix(endpoint.api.path)
    return url.netloc + ("" if path == endpoint.api.root else path)


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
