"""Uploads an exported folder to the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from llmcausal.errors import UsageError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_repository(repository: str) -> None:
    """Refuses what cannot be a repository, before anything slow.

    Raises:
        UsageError: If it is not OWNER/NAME.
    """
    if not HUB_ID.fullmatch(repository):
        raise UsageError(f"--push-to-hub {repository}: give it as OWNER/NAME")


def push_to_hub(folder: Path, repository: str) -> str:
    """Uploads a folder; a repository made for it is private.

    Returns:
        The model's address.

    Raises:
        UsageError: If the hub refuses or is out of reach; the folder stays.
    """
    api = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Export by llmcausal"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{repository}: cannot be uploaded: {reason}\n{folder} is complete. Log in with "
            f"`hf auth login`, then: hf upload {repository} {folder}"
        ) from error
    return str(address)
