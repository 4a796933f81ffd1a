"""An exported artifact, loaded back as its users load it and compared with the model in memory."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from llmcausal.data.template import ChatTemplate, conversation
from llmcausal.errors import ModelError
from llmcausal.export.source import AttackSuite, ExportSource, Figures

CHECK_PROMPTS = (
    ("Answer in one short sentence.", "What is the capital of France?"),
    (
        "You summarise e-mails in one sentence.",
        "Hi all, the review moves from Tuesday to Thursday at 10:00, room 4. Please tell Ana.",
    ),
    ("Translate the user's text into German.", "Good morning, how are you?"),
    ("Say whether the review is positive or negative.", "The lamp broke after two days."),
)
"""(system, user) pairs; plain text, so that every tokenizer path must agree on their tokens."""

NEW_TOKENS = 48
"""Longest answer to those."""

# Share of the largest logit. fp32 leaves room for sums taken in another order; merging into
# 16-bit weights also rounds each weight once, about half a unit in 2^8 or 2^11; q8_0 rounds to
# 255 steps a block. What is quantized further is judged by its answers alone.
TOLERANCES = {"f32": 1e-4, "f16": 1e-2, "bf16": 5e-2, "q8_0": 1e-1}
NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_POSITIONS = 16
"""Last prompt positions whose logits are compared."""


@dataclass(frozen=True)
class TransformersModel:
    """A transformers model, with or without an adapter, and the settings in its folder."""

    model: Any
    settings: GenerationConfig
    name: str = "transformers"

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Returns the logits of the prompt's last positions, fp32 on the CPU."""
        tensor = torch.tensor([list(ids)], device=self.model.device)
        with torch.inference_mode():
            output = self.model(input_ids=tensor, attention_mask=torch.ones_like(tensor))
        last: torch.Tensor = output.logits[0, -_POSITIONS:].float().cpu()
        return last

    def answer(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """Continues a prompt greedily; returns the new tokens, the ending one included."""
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
    """Whether llama.cpp can be run from Python here (package xllamacpp)."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCppModel:
    """A GGUF file run by llama.cpp; `context` bounds a prompt and its answer, in tokens.

    Raises:
        ModelError: If llama.cpp refuses the file.
    """

    def __init__(self, file: Path, context: int) -> None:
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
        """Address of its HTTP server, on this machine alone."""
        return str(self._server.listening_address)

    def answer(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        request = {
            "prompt": list(ids),
            "n_predict": max_new_tokens,
            "temperature": 0,
            "n_probs": 1,  # the only form in which the answer's token ids come back
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
        request = urllib.request.Request(  # its server listens on this machine only
            self.url + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())


@dataclass(frozen=True)
class Loaded:
    """An artifact as its users load it.

    Attributes:
        reading: Gives logits.
        answering: Answers prompts; the same model, or another program on the same file.
        tokens_of: Renders a conversation with the artifact's own template.
        weights: Number format of its weights.
        defects: What is wrong with the files themselves.
    """

    reading: TransformersModel
    answering: TransformersModel | LlamaCppModel
    tokens_of: Callable[[list[dict[str, str]]], list[int]]
    weights: str
    defects: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Behaviour:
    """What a model does on the check's prompts.

    Attributes:
        logits: Per prompt [up to 16 last positions, vocabulary], fp32 on the CPU.
        answers: New token ids of each greedy answer.
        stopped: Whether each answer ended before the limit.
        attacked: Answers to the attacked prompts, as text.
    """

    logits: list[torch.Tensor]
    answers: list[list[int]]
    stopped: list[bool]
    attacked: list[str]


def observe(
    source: ExportSource, reading: TransformersModel, answering: TransformersModel | LlamaCppModel
) -> Behaviour:
    """Runs the check's prompts one by one, greedily."""
    template = source.template
    prompts = [template.encode_prompt(*prompt) for prompt in CHECK_PROMPTS]
    suite = source.attacks
    answers = [answering.answer(ids, NEW_TOKENS) for ids in prompts]
    return Behaviour(
        logits=[reading.logits(ids) for ids in prompts],
        answers=answers,
        stopped=[bool(ids) and ids[-1] in template.stop_ids for ids in answers],
        attacked=[
            _text(template, answering.answer(template.encode_prompt(*prompt), suite.max_new_tokens))
            for prompt in suite.prompts
        ]
        if suite
        else [],
    )


def check(source: ExportSource, loaded: Loaded, reference: Behaviour) -> dict[str, Any]:
    """Compares the artifact with the reference, and reports.

    Raises:
        ModelError: Naming everything in which the artifact differs.
    """
    template = source.template
    exported = observe(source, loaded.reading, loaded.answering)
    difference = max(
        float((a - b).abs().max()) for a, b in zip(exported.logits, reference.logits, strict=True)
    )
    largest = max(float(logits.abs().max()) for logits in reference.logits)
    share = TOLERANCES.get(loaded.weights)
    if share is not None:
        share = max(share, TOLERANCES[NAMES[source.dtype]]) * max(1.0, largest)
    report = {
        "checked": True,
        "weights": loaded.weights,
        "loaded_by": list(dict.fromkeys([loaded.reading.name, loaded.answering.name])),
        "prompts": len(CHECK_PROMPTS),
        "max_abs_logit_difference": difference,
        "tolerance": share,
        "max_abs_logit": largest,
        "same_prompt_tokens": _same_prompt_tokens(template, loaded),
        "same_answers": exported.answers == reference.answers,
        "answers_stopped": sum(exported.stopped),
        "reference_answers_stopped": sum(reference.stopped),
        "max_new_tokens": NEW_TOKENS,
        "stop_ids": list(template.stop_ids),
        "answers": template.tokenizer.batch_decode(exported.answers),
        "attacks": _attacks(source.attacks, exported.attacked, reference.attacked),
    }
    if defects := [*loaded.defects, *_defects(report)]:
        raise ModelError("\n".join(["the exported model differs from the trained one:", *defects]))
    return report


def _attacks(
    suite: AttackSuite | None, exported: Sequence[str], reference: Sequence[str]
) -> dict[str, Any] | None:
    if suite is None:
        return None
    same = sum(a == b for a, b in zip(exported, reference, strict=True))
    return {
        "prompts": len(suite.prompts),
        "same_answers": same,
        "trained": suite.score(reference),
        "exported": suite.score(exported),
    }


def _text(template: ChatTemplate, ids: list[int]) -> str:
    text = template.tokenizer.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text).strip()


def _same_prompt_tokens(template: ChatTemplate, loaded: Loaded) -> bool:
    """Whether the artifact renders prompts as the training's tokenizer and chat template do."""
    return all(
        loaded.tokens_of(messages)
        == template.tokenizer.apply_chat_template(
            messages, chat_template=template.text, add_generation_prompt=True, return_dict=False
        )
        for messages in (
            conversation(system, user, folds_system=template.folds_system)
            for system, user in CHECK_PROMPTS
        )
    )


def _defects(report: dict[str, Any]) -> list[str]:
    defects = []
    # Written so that NaN fails too, and where there is no tolerance, NaN and infinity alone.
    tolerance = float("inf") if report["tolerance"] is None else report["tolerance"]
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
        defects += _robbed_of_defence(report["attacks"]["trained"], report["attacks"]["exported"])
    return defects


def _robbed_of_defence(trained: Figures, exported: Figures) -> list[str]:
    """Says whether more attacks succeed than the trained model's interval allows."""
    name = "attack_success_rate"
    got, allowed = exported[name]["value"], trained[name]["high"]
    if got is None or allowed is None or got <= allowed:
        return []
    return [
        f"{got:.0%} of the attacks succeed, and {trained[name]['value']:.0%} on the trained model "
        f"(95% interval up to {allowed:.0%})"
    ]


def save_settings(source: ExportSource, folder: Path) -> None:
    """Writes tokenizer, chat template and generation settings."""
    source.generation_config().save_pretrained(folder)
    source.save_tokenizer(folder)


def loaded_from(
    source: ExportSource, folder: Path, model: Any, dtype: torch.dtype, program: str
) -> Loaded:
    """Returns a model that `program` loaded from the folder, with the folder's other contents."""
    settings = GenerationConfig.from_pretrained(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=source.trust_remote_code)
    runs = TransformersModel(model.eval(), settings, program)
    wanted, defects = list(source.template.stop_ids), list[str]()
    if settings.eos_token_id != wanted:
        defects.append(f"it stops at {settings.eos_token_id}, not at {wanted}")
    return Loaded(runs, runs, tokens_by(tokenizer), NAMES[dtype], defects)


def tokens_by(tokenizer: Any) -> Callable[[list[dict[str, str]]], list[int]]:
    """Returns how a tokenizer renders a conversation with its own chat template."""

    def tokens_of(messages: list[dict[str, str]]) -> list[int]:
        ids: list[int] = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        return ids

    return tokens_of
