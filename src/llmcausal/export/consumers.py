"""The exported model as its users load it: by transformers, or by llama.cpp."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from llmcausal.errors import ModelError

_POSITIONS = 16
"""Last prompt positions whose logits are compared."""


class Answerer(Protocol):
    """A model that continues prompts greedily, ending where its own files say."""

    @property
    def name(self) -> str:
        """The program that runs it."""

    def answer(self, ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """Returns the new tokens, the one that ended the answer included."""


@dataclass(frozen=True)
class TransformersModel:
    """A model in memory, with the generation settings that lie in its folder.

    Attributes:
        model: A transformers model, with or without an adapter.
        settings: Where its answers end, among others.
        name: The program that runs it.
    """

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
    """Tells whether llama.cpp can be run from Python here (package xllamacpp)."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCppModel:
    """A GGUF file run by llama.cpp itself.

    Args:
        file: The GGUF file.
        context: Tokens that a prompt and its answer may take.

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
        """Where its HTTP server answers, on this machine alone."""
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
