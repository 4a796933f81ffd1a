"""Uploading, with a hub that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmcausal.assembly import exporting
from llmcausal.assembly.exporting import ExportRequest, export_checkpoint
from llmcausal.errors import UsageError


class FakeHub:
    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo_id: str, **options: Any) -> str:
        if self.failure:
            raise self.failure
        self.calls.append((repo_id, options))
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))


def test_a_new_repository_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeHub()
    monkeypatch.setattr(exporting, "HfApi", lambda: fake)
    assert exporting.push_to_hub(tmp_path, "me/model") == "https://hub.example/me/model"
    assert fake.calls[0] == ("me/model", {"private": True, "exist_ok": True})
    name, options = fake.calls[1]
    assert (name, options["repo_id"], options["folder_path"]) == ("upload", "me/model", tmp_path)


def test_a_refusal_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(exporting, "HfApi", lambda: FakeHub(OSError("no network\nmore")))
    with pytest.raises(UsageError, match="no network") as caught:
        exporting.push_to_hub(tmp_path, "me/model")
    assert f"hf upload me/model {tmp_path}" in str(caught.value)
    assert "more" not in str(caught.value)


def test_offline_is_said_not_raised_raw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="me/model: cannot be uploaded"):
        exporting.push_to_hub(tmp_path, "me/model")


@pytest.mark.parametrize("name", ["model", "a/b/c", "me/ model", ""])
def test_what_is_no_repository(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        export_checkpoint(ExportRequest(tmp_path, "adapter", tmp_path / "out", push_to=name))
