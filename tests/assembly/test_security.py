"""What comes from strangers: nothing in it runs."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcausal.config import ModelSection
from llmcausal.errors import CheckpointError, ModelError
from llmcausal.model.factory import load_model, load_tokenizer
from llmcausal.model.lora import load_adapter
from llmcausal.train.checkpoint import MANIFEST, TRAINING_STATE, read_manifest, write_checkpoint
from tests import program


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.fixture
def checkpoint(trained: Callable[..., Path]) -> Path:
    """A run's checkpoint, to be tampered with."""
    return trained(train={"max_steps": 4}, checkpoint={"every_steps": 2}) / "checkpoint-2"


def replaced(folder: Path, name: str, content: bytes) -> None:
    """Puts another file into a checkpoint, with a manifest that vouches for it."""
    facts = {key: value for key, value in read_manifest(folder).items() if key != "files"}
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}
    write_checkpoint(folder, {**files, name: content}, facts)


@pytest.mark.parametrize("how", ["plain pickle", "torch archive"])
def test_a_pickle_in_a_checkpoint_is_refused_and_not_run(
    checkpoint: Path, tmp_path: Path, how: str
) -> None:
    proof = tmp_path / "it-ran"
    content = pickle.dumps(Payload(proof), protocol=2)
    if how == "torch archive":
        buffer = io.BytesIO()
        torch.save({"state": Payload(proof)}, buffer)
        content = buffer.getvalue()
    replaced(checkpoint, TRAINING_STATE, content)
    with pytest.raises(CheckpointError, match=TRAINING_STATE):
        program.resume(checkpoint, plain=True)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Payload(proof)))
    assert proof.exists()  # the payload is a live one


def test_pickled_weights_beside_safetensors_are_not_read(checkpoint: Path, tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    for name in ("adapter_model.bin", "pytorch_model.bin"):
        replaced(checkpoint, name, pickle.dumps(Payload(proof)))
    program.resume(checkpoint, plain=True)
    assert not proof.exists()


def test_an_adapter_of_pickled_weights_alone_is_refused(
    checkpoint: Path, tmp_path: Path, tiny_llama: Callable[..., Any]
) -> None:
    proof = tmp_path / "it-ran"
    folder = tmp_path / "adapter"
    folder.mkdir()
    shutil.copy(checkpoint / "adapter_config.json", folder)
    torch.save({"a": Payload(proof)}, folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: missing"):
        load_adapter(tiny_llama(), folder)
    assert not proof.exists()


def test_an_adapter_names_no_module_to_import(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    tiny_files: tuple[Path, Path],
) -> None:  # fmt: skip
    proof, modules = tmp_path / "it-ran", tmp_path / "modules"
    modules.mkdir()
    (modules / "planted.py").write_text(f"import pathlib\npathlib.Path({str(proof)!r}).touch()\n")
    monkeypatch.syspath_prepend(modules)
    file = checkpoint / "adapter_config.json"
    config = json.loads(file.read_text())
    config["auto_mapping"] = {"base_model_class": "M", "parent_library": "planted"}
    config["base_model_name_or_path"] = "planted/elsewhere"
    file.write_text(json.dumps(config))
    section = ModelSection(name=str(tiny_files[0]), device="cpu", quantization="none")
    load_adapter(load_model(section).model, checkpoint)
    assert not proof.exists()


def test_the_code_of_a_tokenizer_is_not_run_unasked(
    tmp_path: Path, tiny_files: tuple[Path, Path]
) -> None:
    proof, folder = tmp_path / "it-ran", tmp_path / "with-code"
    shutil.copytree(tiny_files[0], folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["tokenizer_class"] = "StrangeTokenizer"
    config["auto_map"] = {"AutoTokenizer": ["code.T", "code.T"]}
    file.write_text(json.dumps(config))
    (folder / "code.py").write_text(f"import pathlib\npathlib.Path({str(proof)!r}).touch()\n")
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_tokenizer(ModelSection(name=str(folder), device="cpu", quantization="none"))
    assert not proof.exists()


@pytest.fixture
def model_with_code(tmp_path: Path, tiny_files: tuple[Path, Path]) -> tuple[Path, Path]:
    """A model folder whose own code writes a file, and that file."""
    proof, folder = tmp_path / "it-ran", tmp_path / "with-code"
    shutil.copytree(tiny_files[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "strange"
    config["auto_map"] = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"import pathlib\npathlib.Path({str(proof)!r}).touch()\n")
    return folder, proof


def test_the_code_of_a_model_is_not_run_unasked(model_with_code: tuple[Path, Path]) -> None:
    folder, proof = model_with_code
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_model(ModelSection(name=str(folder), device="cpu", quantization="none"))
    assert not proof.exists()


@pytest.mark.parametrize(
    "work",
    [
        program.evaluate,
        lambda checkpoint: program.export(
            checkpoint, target="adapter", out=checkpoint.parent / "out"
        ),
    ],
    ids=["eval", "export"],
)
def test_a_checkpoint_cannot_ask_for_its_models_code(
    checkpoint: Path, model_with_code: tuple[Path, Path], work: Callable[[Path], Any]
) -> None:
    folder, proof = model_with_code
    text = (checkpoint / "config.toml").read_text()
    text = text.replace("trust_remote_code = false", "trust_remote_code = true")
    lines = [
        f'name = "{folder}"' if line.startswith("name = ") and "model" in line else line
        for line in text.splitlines()
    ]
    assert f'name = "{folder}"' in lines
    assert "trust_remote_code = true" in lines
    replaced(checkpoint, "config.toml", "\n".join(lines).encode())
    with pytest.raises(ModelError, match="trust_remote_code"):
        work(checkpoint)
    assert not proof.exists()
