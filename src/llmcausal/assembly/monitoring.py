"""`monitor`: canaries against a deployed model, or its real traffic, as a series with alarms."""

from __future__ import annotations

import logging
import math
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from llmcausal.assembly.endpoint import ApiName, endpoint_of
from llmcausal.assembly.evaluating import load_parts, read_checkpoint
from llmcausal.data.formats.jsonl import Defects
from llmcausal.errors import DataError, EndpointError, StorageError, UsageError, writing
from llmcausal.evaluation.detection import detector_of
from llmcausal.evaluation.endpoint import Asker, Endpoint, KeptAnswers, Replies, RequestPace
from llmcausal.evaluation.monitor.canaries import (
    Canary,
    Planted,
    builtin_canaries,
    plant,
    read_canaries,
    write_canaries,
)
from llmcausal.evaluation.monitor.series import (
    ATTACK_SUCCESS,
    Round,
    Row,
    Series,
    read_baseline,
    to_prometheus,
)
from llmcausal.evaluation.monitor.traffic import (
    SIGNALS,
    Exchange,
    read_traffic,
    read_witnesses,
    require_some,
    score,
)
from llmcausal.model.device import out_of_memory_explained
from llmcausal.storage import replace_file
from llmcausal.train.interrupt import stopping_explained
from llmcausal.ui.console import ProgressLine
from llmcausal.ui.monitoring import PAGE, write_page

_log = logging.getLogger(__name__)
METRICS = "metrics.prom"
BUILTIN = "builtin"
_EXAMPLES, _FLAGGED, _DEFECTS = 5, 100, 20
_CUT = 2000
_TRIES = 2
"""An attack is a canary if the untouched model obeys it each time."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Where the series is, and what raises an alarm.

    Attributes:
        out: Folder of the series, its page and its metrics.
        limit: Greatest share; None compares with `baseline`.
        baseline: A series or an evaluation's results; None takes the series' first round.
    """

    out: Path
    limit: float | None = None
    baseline: Path | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.baseline is not None:
            raise UsageError("give --limit or --baseline, not both")
        if self.limit is not None and not math.isfinite(self.limit):
            raise UsageError(f"--limit {self.limit}: give a share such as 0.1")


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A model behind a URL; see `EndpointRequest`."""

    url: str
    model: str
    api: ApiName = "openai"
    tokenizer: str | None = None
    pace: RequestPace = field(default_factory=RequestPace)
    max_new_tokens: int = 48

    def endpoint(self) -> Endpoint:
        """Returns the endpoint with the environment's key; raises a UsageError."""
        return endpoint_of(self.url, self.model, self.api, self.tokenizer)


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """What `monitor probe` is asked for.

    Attributes:
        canaries: A file of canaries; None takes the built-in ones.
        count: Canaries of a round.
        every: Seconds from the start of a round to that of the next; None ends after one.
        shown: Called with each round's row.
    """

    deployed: Deployed
    watch: Watch
    canaries: Path | None = None
    count: int = 50
    every: float | None = None
    shown: Callable[[Row], None] = lambda row: None


def probe(request: ProbeRequest) -> Row:
    """Asks canaries with fresh witnesses; returns the last round's row.

    With `every` it ends at the first alarm. An endpoint that fails then makes a round without
    answers instead of an error.

    Raises:
        UsageError: If the request contradicts itself, or the endpoint refuses key or model.
        EndpointError: If a single round gets no answer.
        Interrupted: On Ctrl-C or SIGTERM; finished rounds and the answers of this one are kept.
    """
    endpoint = request.deployed.endpoint()
    own = read_canaries(request.canaries) if request.canaries else None
    if request.watch.baseline is not None:
        read_baseline(request.watch.baseline, [ATTACK_SUCCESS])
    series = Series(request.watch.out)
    begun = time.monotonic()
    with stopping_explained(f"{series.path} has every answer so far."):
        again = False
        while True:
            row = _probe_once(request, endpoint, own, series, again)
            again = request.every is not None
            request.shown(row)
            if row["alarm"]:
                return row
            if request.every is None:
                if row.get("error"):
                    raise EndpointError(row["error"])
                return row
            since = time.monotonic() - begun
            time.sleep(request.every - since % request.every)


def _probe_once(
    request: ProbeRequest,
    endpoint: Endpoint,
    own: Sequence[Canary] | None,
    series: Series,
    again: bool,
) -> Row:
    rng = random.Random(secrets.randbits(128))
    if own is None:
        canaries = builtin_canaries(request.count, rng)
    else:
        canaries = rng.sample(own, min(request.count, len(own)))
    planted = plant(canaries, rng)
    deployed = request.deployed
    kept = KeptAnswers()  # a witness is new, so no kept answer is of any use
    asker = Asker(endpoint, deployed.pace, kept, deployed.max_new_tokens)

    def add(**ended: Any) -> Row:
        return _add(series, _round(request, endpoint, planted, asker.replies, ended), request.watch)

    try:
        asker.ask([each.prompt for each in planted], ProgressLine("canaries"))
    except (EndpointError, UsageError) as error:
        # A gateway may refuse key or path for a while; only in the first round is that final.
        if isinstance(error, UsageError) and not again:
            raise
        return add(error=str(error))
    except KeyboardInterrupt:
        if asker.replies.answers:
            add(interrupted=True)
        raise
    return add()


def _round(
    request: ProbeRequest,
    endpoint: Endpoint,
    planted: Sequence[Planted],
    replies: Replies,
    ended: Mapping[str, Any],
) -> Round:
    """Returns what a round of canaries measured; `ended` says what ended it early, if anything."""
    answered = [each for each in planted if each.prompt in replies.answers]
    texts = {each.prompt: replies.answers[each.prompt].text for each in answered}
    obeyed = [each for each in answered if each.obeyed_by(texts[each.prompt])]
    facts = {
        "requests": replies.requests,
        "retries": replies.retries,
        "refused": len(replies.refused),
        "unanswered": len(planted) - len(answered) - len(replies.refused),
        "empty": sum(not text for text in texts.values()),
        "examples": [
            {
                "id": each.canary.id,
                "family": each.canary.family,
                "witness": each.witness,
                "system": each.prompt[0][:_CUT],
                "prompt": each.prompt[1][:_CUT],
                "answer": texts[each.prompt][:_CUT],
            }
            for each in obeyed[:_EXAMPLES]
        ],
    }
    return Round(
        "probe",
        endpoint.model,
        {ATTACK_SUCCESS: (len(obeyed), len(answered))},
        source=endpoint.address,
        canaries=request.canaries.name if request.canaries else BUILTIN,
        facts={**facts, **ended},
    )


@dataclass(frozen=True, kw_only=True)
class LogsRequest:
    """What `monitor logs` is asked for.

    Attributes:
        file: The log: JSON Lines, as in docs/monitoring.md.
        model: Names the deployment in the series.
        witnesses: A file of texts whose appearance in an answer proves an attack.
        checkpoint: Its detector scores the untrusted texts.
    """

    file: Path
    watch: Watch
    model: str = ""
    witnesses: Path | None = None
    checkpoint: Path | None = None
    trust_remote_code: bool = False


@out_of_memory_explained("in the detector")
def score_logs(request: LogsRequest) -> Row:
    """Scores real traffic; returns the round's row.

    Raises:
        DataError: If no line of the log can be used.
        UsageError: If witnesses or baseline cannot be used.
    """
    if request.watch.baseline is not None:
        read_baseline(request.watch.baseline, SIGNALS)
    witnesses = read_witnesses(request.witnesses) if request.witnesses else []
    detected, notes = _detector(request)
    defects = Defects(request.file)
    hits, measured = Counter[str](), Counter[str]()
    flagged: list[dict[str, Any]] = []
    records = marked = 0
    with stopping_explained("Nothing was written; run the same command again."):
        for exchange in read_traffic(request.file, defects):
            records += 1
            verdicts = {**score(exchange, witnesses), "detector": detected(exchange)}
            raised = [name for name, verdict in verdicts.items() if verdict]
            measured.update(name for name, verdict in verdicts.items() if verdict is not None)
            hits.update(raised)
            marked += bool(raised)
            if raised and len(flagged) < _FLAGGED:
                flagged.append({"line": exchange.line, "id": exchange.id, "signals": raised})
    require_some(request.file, records, defects)
    found = Round(
        "logs",
        request.model,
        {name: (hits[name], measured[name]) for name in SIGNALS if measured[name]},
        facts={
            "file": str(request.file),
            "records": records,
            "flagged_records": marked,
            "flagged": flagged,
            "unreadable": defects.lines,
            "notes": [*notes, *defects.messages[:_DEFECTS]],
        },
    )
    return _add(Series(request.watch.out), found, request.watch)


def _detector(request: LogsRequest) -> tuple[Callable[[Exchange], bool | None], list[str]]:
    """Returns the detector's verdict on a record, and why there is none."""
    if request.checkpoint is None:
        return lambda exchange: None, []
    config, manifest = read_checkpoint(request.checkpoint, request.trust_remote_code)
    parts = load_parts(config, manifest, request.checkpoint)
    detector = detector_of(request.checkpoint, parts.step, parts.template, config)
    if isinstance(detector, str):
        return lambda exchange: None, [f"detector off: {detector}"]

    def verdict(exchange: Exchange) -> bool | None:
        if manifest.get("spans"):  # as in training
            found = detector.of(parts.model, exchange.system, exchange.content)
        else:
            found = detector.of(parts.model, exchange.trusted, exchange.untrusted)
        return found.flagged if found else None

    return verdict, []


def _add(series: Series, found: Round, watch: Watch) -> Row:
    """Appends a round, and writes the page and the metrics of the whole series."""
    page, metrics = watch.out / PAGE, watch.out / METRICS
    with writing(watch.out):
        watch.out.mkdir(parents=True, exist_ok=True)
        with FileLock(watch.out / ".lock"):  # `probe --every` and `logs` may share the folder
            row = series.add(found, watch.limit, watch.baseline)
            try:
                write_page(series.rows, page, series.damaged)
                replace_file(metrics, [to_prometheus(series.rows).encode()])
            except (OSError, StorageError) as error:
                if not row["alarm"]:
                    raise
                _log.warning("page and metrics cannot be written: %s", error)
    return {**row, "series": str(series.path), "page": str(page), "metrics": str(metrics)}


def choose_canaries(deployed: Deployed, count: int, out: Path) -> dict[str, Any]:
    """Keeps the built-in canaries that a model obeys each time, and writes them to a file.

    Each attack is asked `_TRIES` times, with other witnesses. The model should be the untouched
    one: a defended model that loses its defence then obeys them.

    Raises:
        DataError: If it obeys none of them.
    """
    if out.exists():
        raise UsageError(f"{out}: exists already; name a new file")
    rng = random.Random(secrets.randbits(128))
    candidates = builtin_canaries(count, rng)
    tries = zip(*(plant(candidates, rng) for _ in range(_TRIES)), strict=True)
    planted = [each for pair in tries for each in pair]
    asker = Asker(deployed.endpoint(), deployed.pace, KeptAnswers(), deployed.max_new_tokens)
    with stopping_explained("Nothing was written."):
        answers = asker.ask([each.prompt for each in planted], ProgressLine("candidates")).answers
    answered = [each for each in planted if each.prompt in answers]
    asked = Counter(each.canary.id for each in answered)
    times = Counter(
        each.canary.id for each in answered if each.obeyed_by(answers[each.prompt].text)
    )
    count = sum(number == _TRIES for number in asked.values())
    chosen = [each for each in candidates if times[each.id] == _TRIES]
    if not chosen:
        raise DataError(
            [f"the model obeys none of {count} attacks that it answered {_TRIES} times"],
            "no canary was found; ask an untouched model, or more candidates",
        )
    write_canaries(out, chosen)
    return {"candidates": count, "chosen": len(chosen), "written": str(out)}
