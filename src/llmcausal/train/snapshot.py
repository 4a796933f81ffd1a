"""What a checkpoint holds of a live run, and how it is put back."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerFast

from llmcausal import __version__
from llmcausal.errors import CheckpointError, StorageError
from llmcausal.model.adapter_files import ADAPTER_WEIGHTS
from llmcausal.model.projection import ProjectionHead
from llmcausal.profile import dump_config
from llmcausal.train.callback import Callback
from llmcausal.train.checkpoint import write_checkpoint
from llmcausal.train.objective import Objective
from llmcausal.train.optimizer import load_optimizer
from llmcausal.train.rng import restore_rng, rng_state
from llmcausal.train.run import Run

PROJECTION = "projection.safetensors"
TRAINING_STATE = "training_state.pt"
CONFIG = "config.toml"
_SETTINGS = ("betas", "weight_decay", "initial_lr")


class Snapshot:
    """Writes and restores everything that a run needs to go on exactly.

    Args:
        run: The run; its optimizer, schedule, scaler, state, callbacks and config are kept.
        model: Adapters on the frozen base.
        objective: Its projection head and contrastive loss are kept; a user's own loss may have
            weights and buffers.
        tokenizer: Saved with the adapter.
        fingerprints: Hashes of data and template, for the manifest.
    """

    def __init__(
        self,
        run: Run,
        model: PeftModel,
        objective: Objective,
        tokenizer: PreTrainedTokenizerFast,
        fingerprints: dict[str, Any],
    ) -> None:
        self.run = run
        self.model = model
        self.objective = objective
        self.config_text = dump_config(run.config)
        digest = hashlib.sha256(self.config_text.encode()).hexdigest()
        self.fingerprints = {"config": digest, **fingerprints}
        self._tokenizer_files = _files_of(tokenizer)

    def write(self, folder: Path) -> Path:
        """Writes a checkpoint of the present moment and returns its folder."""
        files = {
            **self._tokenizer_files,
            **adapter_files(self.model),
            CONFIG: self.config_text.encode(),
            TRAINING_STATE: self._training_state(),
        }
        if (projection := self.objective.projection) is not None:
            files[PROJECTION] = safetensors.torch.save(_on_cpu(projection.state_dict()))
        facts = {
            "format": 1,
            "llmcausal": __version__,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": self.run.state.step,
            **self.fingerprints,
        }
        write_checkpoint(folder, files, facts)
        return folder

    def restore(self, folder: Path) -> None:
        """Takes over a verified checkpoint.

        Raises:
            CheckpointError: If it does not fit this run.
        """
        run, contrastive = self.run, self.objective.contrastive
        restore_weights(folder, self.model, self.objective.projection)
        try:
            saved = torch.load(folder / TRAINING_STATE, map_location="cpu", weights_only=True)
            self._restore_optimizer(saved)
            run.scaler.load_state_dict(saved["scaler"])
            run.state.load_state_dict(saved["state"])
            if contrastive is not None:
                contrastive.load_state_dict(saved["contrastive"])
            names = [_name(callback) for callback in run.callbacks]
            for name, values in saved["callbacks"]:
                if name in names:
                    run.callbacks[names.index(name)].load_state_dict(values)
            restore_rng(saved["rng"])
        except UnpicklingError as error:  # torch's own text tells how to run what it refused
            raise CheckpointError(
                f"{folder / TRAINING_STATE}: holds something other than values and tensors, which "
                "could run code; it was not loaded"
            ) from error
        except (RuntimeError, KeyError, ValueError, TypeError, OSError, EOFError) as error:
            raise CheckpointError(f"{folder / TRAINING_STATE}: cannot be used: {error}") from error

    def _restore_optimizer(self, saved: dict[str, Any]) -> None:
        """Loads states and position of the schedule, but keeps the settings of this run.

        They are the checkpoint's own unless a change was allowed; then the change must count.
        """
        optimizer, scheduler = self.run.optimizer, self.run.scheduler
        groups = optimizer.param_groups
        settings = [{key: group[key] for key in _SETTINGS} for group in groups]
        rates = list(scheduler.base_lrs)
        load_optimizer(optimizer, saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        assert isinstance(scheduler, LambdaLR)  # all that transformers' get_scheduler makes here
        scheduler.base_lrs = rates
        groups = optimizer.param_groups
        for group, own, rate, factor in zip(
            groups, settings, rates, scheduler.lr_lambdas, strict=True
        ):
            group.update(own, lr=rate * factor(scheduler.last_epoch))

    def _training_state(self) -> bytes:
        run, contrastive = self.run, self.objective.contrastive
        state = {
            "state": run.state.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "scheduler": run.scheduler.state_dict(),
            "scaler": run.scaler.state_dict(),
            "contrastive": contrastive.state_dict() if contrastive else {},
            "rng": rng_state(),
            "callbacks": [(_name(each), each.state_dict()) for each in run.callbacks],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()


def adapter_files(model: PeftModel) -> dict[str, bytes]:
    """Serializes the adapter as peft writes it, by file name."""
    config = model.peft_config["default"]
    with _storage_errors(), tempfile.TemporaryDirectory() as folder:
        inference_mode, config.inference_mode = config.inference_mode, True
        config.save_pretrained(folder)
        config.inference_mode = inference_mode
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    # peft builds the dict from modules in a fixed order; safetensors sorts it by dtype and name.
    files[ADAPTER_WEIGHTS] = safetensors.torch.save(_on_cpu(tensors), metadata={"format": "pt"})
    return files


def has_projection(folder: Path) -> bool:
    """Whether a checkpoint holds a projection head; a run without a contrastive loss has none."""
    return (folder / PROJECTION).is_file()


def restore_weights(folder: Path, model: PeftModel, projection: ProjectionHead | None) -> None:
    """Loads adapter and projection of a checkpoint into a model that has both.

    Raises:
        CheckpointError: If their shapes or names do not fit.
    """
    try:
        tensors = safetensors.torch.load_file(folder / ADAPTER_WEIGHTS)
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        if strange := sorted(expected.keys() ^ tensors.keys()):
            raise ValueError(f"{len(strange)} tensors do not match, such as {strange[0]}")
        set_peft_model_state_dict(model, tensors)
        if projection is not None:
            projection.load_state_dict(safetensors.torch.load_file(folder / PROJECTION))
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: its weights do not fit this model: {error}") from error


def _files_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, bytes]:
    with _storage_errors(), tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()}: the checkpoint could not be prepared: "
            f"{error.strerror or error}. Free some space, then continue with `llmcausal resume`; "
            "earlier checkpoints are intact."
        ) from error


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _name(callback: Callback) -> str:
    return f"{type(callback).__module__}:{type(callback).__qualname__}"
