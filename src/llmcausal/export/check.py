"""Loads an exported artifact the way its users will, and compares it with the model in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from llmcausal.data.template import ChatTemplate
from llmcausal.data.template_pieces import conversation
from llmcausal.errors import ModelError

REPORT = "export_check.json"

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

_POSITIONS = 16
"""Last prompt positions whose logits are compared."""

_NEW_TOKENS = 32

# Share of the largest logit. fp32 leaves room for sums taken in another order; merging into
# 16-bit weights also rounds each weight once, about half a unit in 2^8 or 2^11.
_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Behaviour:
    """What a model does on the check's prompts.

    Attributes:
        logits: One tensor a prompt (up to 16 last positions, vocabulary), fp32 on the CPU.
        answers: New token ids of each greedy answer.
        stopped: Whether each answer ended before the limit.
    """

    logits: list[torch.Tensor]
    answers: list[list[int]]
    stopped: list[bool]


def observe(model: Any, template: ChatTemplate, settings: GenerationConfig) -> Behaviour:
    """Runs the check's prompts one by one, greedily under `settings`."""
    greedy = GenerationConfig.from_dict(settings.to_dict())
    greedy.do_sample = False
    greedy.temperature = greedy.top_p = greedy.top_k = None
    greedy.max_new_tokens, greedy.max_length = _NEW_TOKENS, None
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else []
    behaviour = Behaviour([], [], [])
    for system, user in CHECK_PROMPTS:
        ids = torch.tensor([template.encode_prompt(system, user)], device=model.device)
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask).logits[0, -_POSITIONS:]
            output = model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)
        answer = output[0, ids.shape[1] :].tolist()
        behaviour.logits.append(logits.float().cpu())
        behaviour.answers.append(answer)
        behaviour.stopped.append(bool(answer) and answer[-1] in ends)
    return behaviour


def check_artifact(
    folder: Path,
    model: Any,
    reference: Behaviour,
    template: ChatTemplate,
    *,
    trust_remote_code: bool,
) -> dict[str, Any]:
    """Compares the artifact in `folder`, loaded back as `model`, with the reference.

    Returns:
        The report, also written to `folder/export_check.json`.

    Raises:
        ModelError: Naming everything in which the artifact differs.
    """
    settings = GenerationConfig.from_pretrained(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    exported = observe(model, template, settings)
    difference = max(
        float((a - b).abs().max()) for a, b in zip(exported.logits, reference.logits, strict=True)
    )
    largest = max(float(logits.abs().max()) for logits in reference.logits)
    tolerance = _TOLERANCES[model.dtype] * max(1.0, largest)
    report = {
        "dtype": str(model.dtype).removeprefix("torch."),
        "prompts": len(CHECK_PROMPTS),
        "max_abs_logit_difference": difference,
        "tolerance": tolerance,
        "max_abs_logit": largest,
        "same_prompt_tokens": _same_prompt_tokens(tokenizer, template),
        "same_answers": exported.answers == reference.answers,
        "answers_stopped": sum(exported.stopped),
        "reference_answers_stopped": sum(reference.stopped),
        "max_new_tokens": _NEW_TOKENS,
        "stop_ids": list(template.stop_ids),
        "answers": tokenizer.batch_decode(exported.answers),
    }
    if defects := _defects(report, settings, template):
        raise ModelError("\n".join(["the exported model differs from the trained one:", *defects]))
    text = json.dumps(report, ensure_ascii=False, allow_nan=False, indent=2)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")
    return report


def _same_prompt_tokens(tokenizer: Any, template: ChatTemplate) -> bool:
    """Whether the exported tokenizer renders prompts as the trained one's chat template does."""
    return all(
        _apply(tokenizer, None, messages) == _apply(template.tokenizer, template.text, messages)
        for messages in (
            conversation(system, user, folds_system=template.folds_system)
            for system, user in CHECK_PROMPTS
        )
    )


def _apply(tokenizer: Any, chat_template: str | None, messages: list[dict[str, str]]) -> Any:
    return tokenizer.apply_chat_template(
        messages, chat_template=chat_template, add_generation_prompt=True, return_dict=False
    )


def _defects(
    report: dict[str, Any], settings: GenerationConfig, template: ChatTemplate
) -> list[str]:
    defects = []
    # Written so that NaN fails too.
    if not report["max_abs_logit_difference"] <= report["tolerance"]:
        defects.append(
            f"logits differ by {report['max_abs_logit_difference']:.3g}, more than "
            f"{report['tolerance']:.3g} ({report['dtype']})"
        )
    if not report["same_prompt_tokens"]:
        defects.append("its tokenizer and chat template make other tokens of a prompt")
    if settings.eos_token_id != list(template.stop_ids):
        defects.append(f"it stops at {settings.eos_token_id}, not at {list(template.stop_ids)}")
    if report["reference_answers_stopped"] and not report["answers_stopped"]:
        defects.append("its answers never end, though the trained model's do")
    return defects
