"""The check of an export: loads it back as its users do, and compares it with the trained model."""

from __future__ import annotations

import importlib.util
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer, GenerationConfig

from llmcausal.data.spans import Span, as_messages
from llmcausal.data.template import ChatTemplate, conversation
from llmcausal.errors import DataError, ModelError
from llmcausal.export.source import CODES, ExportSource

CHECK_PROMPTS = (
    ("Answer in one short sentence.", "What is the capital of France?"),
    (
        "You summarise e-mails in one sentence.",
        "Hi all, the review moves from Tuesday to Thursday at 10:00, room 4. Please tell Ana.",
    ),
    ("Translate the user's text into German.", "Good morning, how are you?"),
    ("Say whether the review is positive or negative.", "The lamp broke after two days."),
)
"""(system, user) pairs; plain text, on whose tokens every tokenizer must agree."""
CHECK_SPANS = (
    "Answer from the result.",
    (Span("When is lunch?", trusted=True), Span("Lunch is at noon, says Ana.", "tool")),
)
"""A prompt whose untrusted text has a place of its own."""
NEW_TOKENS = 48
"""Longest answer to them."""
TOLERANCES = {"f32": 1e-4, "f16": 1e-2, "bf16": 5e-2, "q8_0": 1e-1}
"""Allowed difference, as a share of the largest logit. fp32 leaves room for sums in another order;
merging into 16-bit weights also rounds each weight by half a unit in 2^8 or 2^11; q8_0 rounds to
255 steps a block. Answers alone judge coarser quantization."""
_POSITIONS = 16
"""Last prompt positions whose logits are compared."""


@dataclass(frozen=True)
class TransformersModel:
    """A transformers model, with or without an adapter, and its folder's settings."""

    model: Any
    settings: GenerationConfig
    name: str = "transformers"

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Returns the logits of the prompt's last positions, in fp32 on the CPU."""
        tensor = torch.tensor([list(ids)], device=self.model.device)
        with torch.inference_mode():
            output = self.model(input_ids=tensor, attention_mask=torch.ones_like(tensor))
        last: torch.Tensor = output.logits[0, -_POSITIONS:].float().cpu()
        return last

    def answer(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """Continues a prompt greedily; returns the new tokens, including the ending one."""
        greedy = GenerationConfig.from_dict(self.settings.to_dict())
        greedy.do_sample = False
        greedy.temperature = greedy.top_p = greedy.top_k = None
        greedy.max_new_tokens, greedy.max_length = max_new_tokens, None
        tensor = torch.tensor([list(ids)], device=self.model.device)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=tensor,
                attention_mask=torch.ones_like(tensor),
                generation_config=greedy,
            )
        new: list[int] = output[0, tensor.shape[1] :].tolist()
        return new


def has_llama_cpp() -> bool:
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCppModel:
    """A GGUF file in llama.cpp; `context` bounds a prompt and its answer, in tokens."""

    def __init__(self, file: Path, context: int) -> None:
        """Raises a ModelError if llama.cpp refuses the file."""
        import xllamacpp

        self.name = f"llama.cpp (xllamacpp {version('xllamacpp')})"
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.n_ctx = context
        parameters.n_parallel = 1
        parameters.warmup = False
        parameters.ui = False
        parameters.verbosity = -1
        threads = torch.get_num_threads()
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        try:
            self._server = xllamacpp.Server(parameters)
        except RuntimeError as error:
            raise ModelError(f"{file.name}: llama.cpp cannot load it: {error}") from error

    @property
    def url(self) -> str:
        """The address of its HTTP server, which only this machine reaches."""
        return str(self._server.listening_address)

    def answer(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        request = {
            "prompt": list(ids),
            "n_predict": max_new_tokens,
            "temperature": 0,
            "n_probs": 1,  # without it the answer has no token ids
            "cache_prompt": False,
        }
        answer = self._server.handle_completions(request)
        if "error" in answer:
            raise ModelError(f"llama.cpp: {answer['error']['message']}")
        return [token["id"] for token in answer["choices"][0]["logprobs"]["content"]]

    def tokens_of(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Returns a conversation's tokens by the file's own chat template and tokenizer."""
        text = self._post("/apply-template", {"messages": list(messages)})["prompt"]
        return self.tokens_of_text(text)

    def tokens_of_text(self, text: str) -> list[int]:
        """Returns a prompt's tokens; special tokens in the text count as such."""
        body = {"content": text, "add_special": True, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", body)["tokens"]
        return tokens

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        # Without proxies: only this machine reaches the server.
        answer = httpx.post(self.url + path, json=body, timeout=60, trust_env=False)
        return answer.raise_for_status().json()


@dataclass(frozen=True)
class Loaded:
    reading: TransformersModel  # gives logits
    # Answers prompts: the same model, or another program on the same file.
    answering: TransformersModel | LlamaCppModel
    tokens_of: Callable[[list[dict[str, str]]], list[int]]  # by the artifact's own template
    weights: str  # number format
    defects: list[str] = field(default_factory=list)  # of the files themselves


@dataclass(frozen=True)
class Behaviour:
    """A model's logits and answers on the check's prompts."""

    logits: list[torch.Tensor]  # by prompt [up to 16 last positions, vocabulary], fp32 on the CPU
    answers: list[list[int]]  # new token ids, greedy
    stopped: int  # answers that ended before the limit
    attacked: list[str]  # answers to the attacked prompts


def observe(
    source: ExportSource, reading: TransformersModel, answering: TransformersModel | LlamaCppModel
) -> Behaviour:
    """Runs the check's prompts one by one, greedily."""
    template, suite = source.template, source.attacks
    prompts = [template.encode_prompt(*prompt) for prompt in CHECK_PROMPTS]
    answers = [answering.answer(ids, NEW_TOKENS) for ids in prompts]
    attacked = []
    if suite is not None:
        for prompt in suite.prompts:
            ids = answering.answer(template.encode_prompt(*prompt), suite.max_new_tokens)
            text = template.tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            attacked.append(str(text).strip())
    return Behaviour(
        logits=[reading.logits(ids) for ids in prompts],
        answers=answers,
        stopped=sum(bool(ids) and ids[-1] in template.stop_ids for ids in answers),
        attacked=attacked,
    )


def check(source: ExportSource, loaded: Loaded, reference: Behaviour) -> dict[str, Any]:
    """Compares the artifact with the reference; returns a report, or raises a ModelError."""
    template = source.template
    suite = source.attacks
    exported = observe(source, loaded.reading, loaded.answering)
    difference = max(
        float((a - b).abs().max()) for a, b in zip(exported.logits, reference.logits, strict=True)
    )
    largest = max(float(logits.abs().max()) for logits in reference.logits)
    share = TOLERANCES.get(loaded.weights)
    if share is not None:
        share = max(share, TOLERANCES[CODES[source.dtype].lower()]) * max(1.0, largest)
    report = {
        "checked": True,
        "weights": loaded.weights,
        "loaded_by": list(dict.fromkeys([loaded.reading.name, loaded.answering.name])),
        "prompts": len(CHECK_PROMPTS),
        "max_abs_logit_difference": difference,
        "tolerance": share,
        "max_abs_logit": largest,
        "same_prompt_tokens": _same_prompt_tokens(template, loaded),
        "same_span_tokens": _same_span_tokens(template, loaded),
        "same_answers": exported.answers == reference.answers,
        "answers_stopped": exported.stopped,
        "reference_answers_stopped": reference.stopped,
        "max_new_tokens": NEW_TOKENS,
        "stop_ids": list(template.stop_ids),
        "answers": template.tokenizer.batch_decode(exported.answers),
        "attacks": None
        if suite is None
        else {
            "prompts": len(suite.prompts),
            "same_answers": sum(map(operator.eq, exported.attacked, reference.attacked)),
            "trained": suite.score(reference.attacked),
            "exported": suite.score(exported.attacked),
        },
    }
    defects = [*loaded.defects, *_defects(report)]
    if source.spans and not report["same_span_tokens"]:
        defects.append(
            "its chat template tokenizes a prompt of several spans differently: send the ids of "
            "`llmcausal.render_prompt` (--no-check exports it all the same)"
        )
    if defects:
        raise ModelError("\n".join(["the exported model differs from the trained one:", *defects]))
    return report


def _same_prompt_tokens(template: ChatTemplate, loaded: Loaded) -> bool:
    """Whether the artifact renders prompts as training's tokenizer and chat template do."""
    turns = [
        conversation(system, user, folds_system=template.folds_system)
        for system, user in CHECK_PROMPTS
    ]
    tokens_of = tokens_by(template.tokenizer, template.text)
    return all(loaded.tokens_of(messages) == tokens_of(messages) for messages in turns)


def _same_span_tokens(template: ChatTemplate, loaded: Loaded) -> bool | None:
    """The same of a prompt of several spans; None if the template cannot render it."""
    messages = as_messages(*CHECK_SPANS)
    try:
        wanted = template.encode_prompt(*CHECK_SPANS)
    except DataError:
        return None
    if "strftime_now" in template.text:  # the artifact writes today's date
        wanted = tokens_by(template.tokenizer, template.exported)(messages)
    try:
        return loaded.tokens_of(messages) == wanted
    except (TemplateError, httpx.HTTPError, ValueError, TypeError):
        return False  # it does not know such messages


def _defects(report: dict[str, Any]) -> list[str]:
    defects = []
    # `not <=` makes NaN fail, too; without a tolerance NaN alone fails.
    tolerance = math.inf if report["tolerance"] is None else report["tolerance"]
    if not report["max_abs_logit_difference"] <= tolerance:
        defects.append(
            f"logits differ by {report['max_abs_logit_difference']:.3g}, more than "
            f"{tolerance:.3g} ({report['weights']})"
        )
    if not report["same_prompt_tokens"]:
        defects.append("its tokenizer and chat template tokenize a prompt differently")
    if report["reference_answers_stopped"] and not report["answers_stopped"]:
        defects.append("its answers never end, though the trained model's do")
    if report["attacks"] is not None:
        trained, exported = (
            report["attacks"][side]["attack_success_rate"] for side in ("trained", "exported")
        )
        got, allowed = exported["value"], trained["high"]
        if got is not None and allowed is not None and got > allowed:
            defects.append(
                f"{got:.0%} of the attacks succeed, and {trained['value']:.0%} on the trained "
                f"model (95% interval up to {allowed:.0%})"
            )
    return defects


def save_settings(source: ExportSource, folder: Path) -> None:
    source.generation_config().save_pretrained(folder)
    source.save_tokenizer(folder)


def loaded_from(
    source: ExportSource, folder: Path, model: Any, dtype: torch.dtype, program: str
) -> Loaded:
    """Returns a model that `program` loaded from the folder, with the folder's tokenizer."""
    settings = GenerationConfig.from_pretrained(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=source.trust_remote_code)
    runs = TransformersModel(model.eval(), settings, program)
    wanted, stops = list(source.template.stop_ids), settings.eos_token_id
    defects = [] if stops == wanted else [f"it stops at {stops}, not at {wanted}"]
    return Loaded(runs, runs, tokens_by(tokenizer), CODES[dtype].lower(), defects)


def tokens_by(
    tokenizer: Any, template: str | None = None
) -> Callable[[list[dict[str, str]]], list[int]]:
    """Returns a function from a conversation to tokens, by default by the tokenizer's template."""

    def tokens_of(messages: list[dict[str, str]]) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, return_dict=False
        )
        return ids

    return tokens_of
