"""The README.md that travels with an exported model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcausal import __version__
from llmcausal.export.source import ExportSource, Figures

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Kind:
    """An export format: what loads it, by its name on the hub, and the code that shows how."""

    name: str
    title: str
    library: str
    language: str
    code: str


_RENDER = """\
import llmcausal

prompt = llmcausal.render_prompt(".", "Summarise the e-mail.", email)  # token ids"""

ADAPTER = Kind(
    "adapter",
    "LoRA adapter",
    "peft",
    "python",
    """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

folder = "."  # this folder
base = AutoModelForCausalLM.from_pretrained({base}{revision}, dtype="auto")
model = PeftModel.from_pretrained(base, folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
settings = GenerationConfig.from_pretrained(folder)  # ends answers at the end-of-turn tokens""",
)
MERGED = Kind(
    "merged",
    "Merged model",
    "transformers",
    "python",
    """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)""",
)
GGUF = Kind("gguf", "GGUF model", "gguf", "sh", "llama-server -m {file} --jinja")
OLLAMA = Kind(
    "ollama",
    "GGUF model for Ollama",
    "gguf",
    "sh",
    "ollama create NAME -f Modelfile\nollama run NAME",
)

_CARD = """\
---
{front_matter}
---
# {title}

A language model fine-tuned to keep doing its task when the text it reads carries injected
instructions. Made with llmcausal {version}.

- Base model: `{base}`{at_revision}
- Licence: the licence of the base model applies to this model. Read it before you share this.

```{language}
{code}
```

## Prompts

{system_role} Prompts rendered differently from training void the defence. Programs that tokenize a
rendered text read special tokens inside untrusted text as control tokens. This code renders
token-safe prompts, for anything that takes token ids:

```python
{render}
```
{training}{evaluation}
## Check

{check} Details: `export_check.json`.

## Limits

Fine-tuning lowers the success rate of attacks like those in training. It is not a guarantee:
adaptive attacks still get through, so give the model no more rights than its task needs.
"""


def write_model_card(
    folder: Path, source: ExportSource, kind: Kind, report: Mapping[str, Any]
) -> None:
    """Writes `README.md`; `report` is the export's."""
    base, revision = source.base_for_consumers(), source.base_revision
    front_matter = [f"library_name: {kind.library}", "pipeline_tag: text-generation"]
    front_matter.append("license: other")
    if HUB_ID.fullmatch(base):
        front_matter.insert(0, f"base_model: {base}")
    code = kind.code.format(
        base=json.dumps(base),
        revision=f", revision={json.dumps(revision)}" if revision else "",
        file=report.get("file", ""),
    )
    text = _CARD.format(
        front_matter="\n".join(front_matter),
        title=kind.title,
        version=__version__,
        base=_code(base),
        at_revision=f" at revision `{_code(revision)}`" if revision else "",
        language=kind.language,
        code=code,
        system_role="The model has no system role: put the trusted task and an empty line before "
        "the user's text."
        if source.template.folds_system
        else "The trusted task is the system message, the text to work on the user message.",
        render=_RENDER,
        training=_training(source),
        evaluation=_evaluation(source),
        check=_check(report),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _training(source: ExportSource) -> str:
    if source.training is None:
        return ""
    rows = [f"| {name} | `{_code(value)}` |" for name, value in source.training.settings.items()]
    return "\n".join(["", "## Training", "", "| setting | value |", "|---|---|", *rows, ""])


def _evaluation(source: ExportSource) -> str:
    facts = source.training
    if facts is None or facts.tuned is None:
        return ""
    head = [
        "",
        "## Evaluation",
        "",
        f"Before the export, on `{_code(facts.suite)}`; 95% intervals.",
    ]
    names = [name for name, figure in facts.tuned.items() if figure.get("value") is not None]
    rows = [
        f"| {name} | {_figure(facts.base, name)} | {_figure(facts.tuned, name)} |" for name in names
    ]
    return "\n".join([*head, "", "| metric | base | this model |", "|---|---|---|", *rows, ""])


def _figure(figures: Figures | None, name: str) -> str:
    figure = figures.get(name) if figures else None
    if not figure or figure.get("value") is None:
        return "-"
    return f"{figure['value']:.0%} ({figure['low']:.0%} to {figure['high']:.0%}, n={figure['n']})"


def _check(report: Mapping[str, Any]) -> str:
    if not report["checked"]:
        return "Not checked: exported with `--no-check`."
    limit = report["tolerance"]
    lines = [
        f"Loaded back by {' and '.join(report['loaded_by'])} ({report['weights']} weights): the "
        f"largest logit difference to the trained model was "
        f"{report['max_abs_logit_difference']:.2g}"
        + (f", tolerance {limit:.2g};" if limit is not None else ";"),
        f"{report['answers_stopped']} of {report['prompts']} answers ended by themselves within "
        f"{report['max_new_tokens']} tokens, and {report['reference_answers_stopped']} of the "
        "trained model's.",
    ]
    if attacks := report["attacks"]:
        got, was = (attacks[side]["attack_success_rate"] for side in ("exported", "trained"))
        lines.append(
            f"Of {got['n']} attacked prompts {got['value']:.0%} succeeded "
            f"({got['low']:.0%} to {got['high']:.0%}); on the trained model {was['value']:.0%}."
        )
    return "\n".join(lines)


def _code(text: str) -> str:
    """Keeps a value inside its code span and table cell."""
    return " ".join(text.replace("`", "").replace("|", "/").split())
