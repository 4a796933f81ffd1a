"""What is exported: a checkpoint's adapter and the unquantized base it belongs to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from llmcausal.data.template import ChatTemplate
from llmcausal.errors import CheckpointError, ModelError
from llmcausal.model.lora import load_adapter

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class ExportSource:
    """Everything that an exporter needs.

    Attributes:
        adapter_dir: A verified checkpoint.
        load_base: Loads the base model afresh, unquantized. A function, so that an exporter
            holds one copy of the base at a time.
        template: Tokenizer, chat template and end-of-turn tokens of the training.
        base_name: What others load as the base: a hub id, or a local folder.
        base_revision: Branch, tag or commit on the hub.
        trust_remote_code: Whether the base may run code of its own when loaded back.
    """

    adapter_dir: Path
    load_base: Callable[[], PreTrainedModel]
    template: ChatTemplate
    base_name: str
    base_revision: str | None = None
    trust_remote_code: bool = False

    def base_for_consumers(self) -> str:
        """Returns the hub id, or the folder's absolute path."""
        folder = Path(self.base_name).expanduser()
        return str(folder.resolve()) if folder.is_dir() else self.base_name

    def load(self) -> PeftModel:
        """Loads the base with the adapter on it.

        Raises:
            CheckpointError: If the checkpoint holds no adapter.
            ModelError: If the base comes quantized.
        """
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (self.adapter_dir / name).is_file():
                raise CheckpointError(f"{self.adapter_dir / name}: missing; there is no adapter")
        base = self.load_base()
        # A GGUF or pre-quantized source leaves this mark; merging into rounded weights drifts.
        if getattr(base.config, "quantization_config", None) is not None:
            raise ModelError(
                f"{self.base_name}: the base model is quantized; an export needs its 16-bit or "
                "32-bit weights. Name the unquantized model in model.name."
            )
        model = load_adapter(base, self.adapter_dir)
        model.eval()
        return model

    def save_tokenizer(self, folder: Path) -> None:
        """Writes the tokenizer's files with the chat template that training used."""
        tokenizer = copy.deepcopy(self.template.tokenizer)
        tokenizer.chat_template = self.template.text
        tokenizer.save_pretrained(folder)

    def generation_config(self, model: Any) -> GenerationConfig:
        """Returns the base's generation settings, ending at every end-of-turn token."""
        config: GenerationConfig = copy.deepcopy(model.generation_config)
        tokenizer: PreTrainedTokenizerFast = self.template.tokenizer
        config.eos_token_id = list(self.template.stop_ids)
        if config.pad_token_id is None:
            pad = tokenizer.pad_token_id
            config.pad_token_id = self.template.stop_ids[0] if pad is None else pad
        if not config.do_sample:
            # Some published models carry these beside do_sample=False, which cannot be saved.
            config.temperature = config.top_p = config.top_k = None
        config.use_cache = True
        config._from_model_config = False  # else a loader may derive it from config.json again
        return config
