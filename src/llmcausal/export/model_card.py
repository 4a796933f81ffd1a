"""The README.md that travels with an exported model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from llmcausal import __version__
from llmcausal.export.source import ExportSource

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

folder = "."  # this folder
base = AutoModelForCausalLM.from_pretrained({base}{revision}, dtype="auto")
model = PeftModel.from_pretrained(base, folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
settings = GenerationConfig.from_pretrained(folder)  # ends answers at the end-of-turn tokens"""

_LOAD_MERGED = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)"""

_CARD = """\
---
{front_matter}
---
# {title}

{kind} of a language model fine-tuned to keep doing its task when the text it reads carries
injected instructions. Made with llmcausal {version}.

- Base model: `{base}`{at_revision}
- Licence: the licence of the base model applies to this model. Read it before you share this.

```python
{code}
```

Use the chat template in this folder. {system_role}
`apply_chat_template` reads special tokens inside untrusted text as control tokens: take them out
of such text first.

Checked on export, loaded back with plain {library} in {dtype}: the largest logit difference to
the trained model was {difference:.2g}, tolerance {tolerance:.2g} (`export_check.json`).

Fine-tuning lowers the success rate of attacks like those it was trained on. It is no guarantee:
adaptive attacks still get through, so give the model no more rights than its task needs.
"""


def write_model_card(
    folder: Path, source: ExportSource, kind: Literal["adapter", "merged"], report: dict[str, Any]
) -> None:
    """Writes `README.md`; `report` is the export check's."""
    base = source.base_for_consumers()
    adapter = kind == "adapter"
    library = "peft" if adapter else "transformers"
    front_matter = [f"library_name: {library}", "pipeline_tag: text-generation", "license: other"]
    if _HUB_ID.fullmatch(base):
        front_matter.insert(0, f"base_model: {base}")
    code = _LOAD_ADAPTER if adapter else _LOAD_MERGED
    revision = source.base_revision
    text = _CARD.format(
        front_matter="\n".join(front_matter),
        title="LoRA adapter" if adapter else "Merged model",
        kind="LoRA adapter" if adapter else "Merged weights",
        version=__version__,
        base=base.replace("`", ""),
        at_revision=f" at revision `{revision}`" if revision else "",
        dtype=report["dtype"],
        code=code.format(
            base=json.dumps(base),
            revision=f", revision={json.dumps(revision)}" if revision else "",
        )
        if adapter
        else code,
        system_role="It has no system role: put the trusted task and an empty line before the "
        "user's text."
        if source.template.folds_system
        else "The trusted task is the system message, the text to work on the user message.",
        library="transformers and peft" if adapter else "transformers",
        difference=report["max_abs_logit_difference"],
        tolerance=report["tolerance"],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
