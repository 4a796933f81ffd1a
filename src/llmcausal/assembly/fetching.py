"""Fetches a model's weights from the hub before anything waits for them in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download

from llmcausal.config import ModelSection
from llmcausal.errors import ModelError
from llmcausal.model.gguf import PREFIX
from llmcausal.ui.console import err_console

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""What transformers loads, the first kind that is there. A repository may hold the same weights in
other formats too (`original/`, `consolidated*`)."""
GB = 1e9


def fetch_model(section: ModelSection) -> None:
    """Downloads what the cache lacks of a hub model's weights: tells the size, shows the progress.

    An interrupted download continues where it stopped. Whatever keeps it from beginning is left to
    the loading itself to report: the cache may hold all of it.

    Raises:
        ModelError: If the download stops.
    """
    name = section.name
    local = name.startswith(PREFIX) or Path(name).expanduser().is_dir()
    if local or constants.HF_HUB_OFFLINE:
        return
    for pattern in WEIGHTS:
        arguments: dict[str, Any] = {
            "revision": section.revision,
            "allow_patterns": [pattern],
            "ignore_patterns": ["*/*"],
        }
        try:
            files = snapshot_download(name, **arguments, dry_run=True)
        except Exception:  # no network, model or access; the transport's errors share no base
            return
        if not files:
            continue
        missing = [file for file in files if file.will_download]
        if missing:
            size = sum(file.file_size or 0 for file in missing)
            err_console().print(
                f"downloading {name}: {size / GB:.1f} GB in {len(missing)} file(s) to "
                f"{constants.HF_HUB_CACHE}; if it is interrupted, the next start continues it",
                soft_wrap=True,
            )
            _download(name, arguments)
        return


def _download(name: str, arguments: dict[str, Any]) -> None:
    try:
        snapshot_download(name, **arguments)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name}: the download stopped: {reason}\nThe same command continues it."
        ) from error
