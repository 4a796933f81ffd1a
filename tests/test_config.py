from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmcausal.config import ALL_PROJECTIONS, RunConfig, Section
from llmcausal.errors import ConfigError
from llmcausal.profile import (
    config_differences,
    dump_config,
    load_config,
    shipped_profiles,
)

REPOSITORY = Path(__file__).parents[1]
PROFILES = sorted((REPOSITORY / "profiles").glob("*.toml"))


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nname = "x/y"\n\n[train]\nepochs = 2\nlearning_rate = 1e-4\n')
    return path


def _message(path: Path, text: str, *overrides: str) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value)


def test_a_typo_names_file_line_key_and_the_nearest_known_key(tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    message = _message(path, "[train]\nepochs = 2\nlearning_rat = 1e-4\n")
    assert message.startswith(
        f"{path}:3: train.learning_rat: unknown key; did you mean learning_rate (known: "
    )


def test_a_typo_in_a_section_name(tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    message = _message(path, "# c\n\n[trian]\nepochs = 2\n")
    assert f"{path}:3: trian: unknown key; did you mean train" in message


def test_every_defect_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    text = '[lora]\nrank = 0\n[data.builtin]\ntrian = 3\n[train]\nscheduler = "cosin"\n'
    lines = _message(path, text).splitlines()
    assert len(lines) == 3
    assert any(line.startswith(f"{path}:2: lora.rank: ") and "got 0" in line for line in lines)
    assert any(f"{path}:4: data.builtin.trian: unknown key; did you mean train" in x for x in lines)
    assert any(f"{path}:6: train.scheduler" in x and "'cosine'" in x for x in lines)


def test_invalid_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    assert re.search(rf"{path}: not valid TOML: .*line 1", _message(path, "[train\n"))


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(path)


def test_a_missing_profile_tells_the_nearest_shipped_one() -> None:
    with pytest.raises(ConfigError, match="rtx4O50: no such profile; did you mean rtx4050"):
        load_config("rtx4O50")
    with pytest.raises(ConfigError, match=r"zzz: no such profile\. Give a TOML file"):
        load_config("zzz")


def test_overrides_take_the_type_of_their_field(profile: Path) -> None:
    config = load_config(
        profile,
        [
            "train.epochs=5",
            "data.train=../some/file.jsonl",
            "train.detect_anomaly=true",
            'lora.target_modules=["q_proj"]',
            "data.builtin.seed = 7",
            "loss.stability_target=0.9",
            "name=other",
        ],
    )
    assert config.train.epochs == 5
    assert config.data.train == "../some/file.jsonl"
    assert config.train.detect_anomaly is True
    assert config.lora.target_modules == ("q_proj",)
    assert config.data.builtin.seed == 7
    assert config.loss.stability_target == 0.9
    assert config.name == "other"
    assert config.model.name == "x/y"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=5", "--set train.epoch: unknown key; did you mean epochs"),
        ("train.epochs=many", "--set train.epochs: .*got 'many'"),
        ("train.epochs", "--set train.epochs: write it as section.key=value"),
        ("=5", "--set =5: write it as section.key=value"),
        ("train.epochs.x=5", "--set train.epochs.x=5: epochs is not a section"),
    ],
)
def test_a_wrong_override_is_told_as_such(profile: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(profile, [override])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my-run", "my-run"),
        ("_ my run", "run"),
        ("_x", "run"),
        ("größe", "run"),
        ("a" * 101, "run"),
    ],
)
def test_the_name_defaults_to_the_file_name(tmp_path: Path, file: str, name: str) -> None:
    path = tmp_path / f"{file}.toml"
    path.touch()
    assert load_config(path).name == name


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a" * 101])
def test_a_run_name_cannot_leave_the_output_folder(profile: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--set name"):
        load_config(profile, [f'name="{name}"'])


def test_settings_are_frozen(profile: Path) -> None:
    config = load_config(profile)
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_dump_loads_as_the_same_settings(path: Path, tmp_path: Path) -> None:
    config = load_config(path, ["train.max_steps=3", 'callbacks=["a:B"]', "loss.options.k=1"])
    copy = tmp_path / "config.toml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config


@given(
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30),
    rate=st.floats(min_value=1e-12, max_value=1e3),
)
def test_a_dump_keeps_any_text_and_number(
    tmp_path_factory: pytest.TempPathFactory, name: str, rate: float
) -> None:
    config = RunConfig.model_validate({"data": {"train": name}, "train": {"learning_rate": rate}})
    copy = tmp_path_factory.mktemp("dump") / "run.toml"
    copy.write_bytes(dump_config(config).encode())
    assert load_config(copy) == config


def test_differences_name_key_old_and_new(profile: Path) -> None:
    old, new = load_config(profile), load_config(profile, ["train.epochs=9", "lora.rank=4"])
    assert config_differences(old, old) == []
    assert config_differences(old, new) == ["lora.rank: 16 -> 4", "train.epochs: 2 -> 9"]


def _sections(section: type[Section]) -> list[type[Section]]:
    found = [section]
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found += _sections(field.annotation)
    return found


@pytest.mark.parametrize("section", _sections(RunConfig), ids=lambda section: section.__name__)
def test_every_field_is_described(section: type[Section]) -> None:
    missing = [name for name, field in section.model_fields.items() if not field.description]
    assert missing == []


def test_the_schema_for_editors_is_current() -> None:
    written = json.loads((REPOSITORY / "docs" / "config.schema.json").read_text())
    assert written == RunConfig.model_json_schema(), "run `make schema`"


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_shipped_profile_loads_by_name_and_by_path(path: Path) -> None:
    assert path.read_text().startswith("#:schema ../docs/config.schema.json\n")
    assert load_config(path) == load_config(path.stem)
    assert load_config(path).name == path.stem


def test_the_shipped_profiles_are_these() -> None:
    expected = {
        "rtx4050",
        "llama2-7b-6gb",
        "minimal-4gb",
        "quality-12gb",
        "ablation-cpu",
        "demo-cpu",
        "llama70b-2x24gb",
    }
    assert set(shipped_profiles()) == expected


def _settings(profile: str) -> dict[str, Any]:
    config = load_config(profile)
    return {
        "model": config.model.name,
        "tokens": config.data.max_length,
        "rank": config.lora.rank,
        "batch": (config.train.batch_size, config.train.accumulation_steps),
        "modules": config.lora.target_modules,
    }


def test_the_settings_that_the_gpu_profiles_promise() -> None:
    llama = "meta-llama/Llama-3.1-8B-Instruct"
    rows = {
        "rtx4050": (llama, 2048, 16, (1, 16), ALL_PROJECTIONS),
        "llama2-7b-6gb": ("meta-llama/Llama-2-7b-chat-hf", 2048, 16, (1, 16), ALL_PROJECTIONS),
        "minimal-4gb": ("meta-llama/Llama-3.2-1B-Instruct", 512, 8, (1, 32), ("q_proj", "v_proj")),
        "quality-12gb": (llama, 4096, 32, (2, 8), ALL_PROJECTIONS),
    }
    for name, row in rows.items():
        assert tuple(_settings(name).values()) == row
        train = load_config(name).train
        assert (train.learning_rate, train.epochs, train.warmup_ratio) == (2e-4, 3, 0.03)
        assert (train.optimizer, train.scheduler) == ("paged_adamw_8bit", "cosine")
        assert train.max_grad_norm == 1.0
        assert load_config(name).model.precision == "bf16"
        assert load_config(name).memory.activations != "keep"


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_no_shipped_profile_goes_without_the_robust_term(path: Path) -> None:
    loss = load_config(path).loss
    assert loss.lambda_robust > 0
    assert loss.projection_dim > 0


def test_a_number_of_thousands_of_digits_is_a_message(tmp_path: Path) -> None:
    """Found by `python -m tests.fuzz`: tomllib lets Python's own ValueError through."""
    profile = tmp_path / "p.toml"
    profile.write_text("[train]\nepochs = " + "9" * 5000)
    with pytest.raises(ConfigError, match=r"p\.toml:2: line: longer than 2,000 characters"):
        load_config(profile)
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        load_config("demo-cpu", ["train.epochs=" + "9" * 5000])


@pytest.mark.timeout(20)
def test_keys_of_thousands_of_parts_take_no_time(tmp_path: Path) -> None:
    """tomllib takes 32 s and 4 GiB for one key of 32,000 parts: lines are bounded before."""
    profile = tmp_path / "p.toml"
    profile.write_text("a." * 32_000 + "a = 1")
    with pytest.raises(ConfigError, match=r"p\.toml:1: line: longer"):
        load_config(profile)
    profile.write_text(("a." * 990 + "b = 1\n") * 32)
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(profile)


def test_of_thousands_of_defects_the_first_are_told(tmp_path: Path) -> None:
    profile = tmp_path / "p.toml"
    profile.write_text("".join(f"a{number} = 1\n" for number in range(4000)))
    with pytest.raises(ConfigError) as refused:
        load_config(profile)
    lines = str(refused.value).splitlines()
    assert lines[0].startswith(f"{profile}:1: a0: unknown key")
    assert lines[-1] == "... and 3900 more"
    assert len(lines) == 101
