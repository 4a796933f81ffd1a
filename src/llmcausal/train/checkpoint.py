"""Checkpoints: complete or absent on disk, hashed, verified before use."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
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
from llmcausal.losses.base import ProjectionHead
from llmcausal.model.lora import ADAPTER_WEIGHTS
from llmcausal.profile import dump_config
from llmcausal.storage import flush_directory, forget_partial_files, read_at_most, write_flushed
from llmcausal.train.callback import Callback
from llmcausal.train.objective import Objective
from llmcausal.train.optimizer import load_optimizer
from llmcausal.train.rng import restore_rng, rng_state
from llmcausal.train.update import Run

MANIFEST = "manifest.json"
BEST = "best"
PROJECTION = "projection.safetensors"
TRAINING_STATE = "training_state.pt"
CONFIG = "config.toml"
EXPORTED = "exported"
"""The manifest's fact of an exported adapter: its run, checkpoint and scale."""
_SETTINGS = ("betas", "weight_decay", "initial_lr")
_NAME = re.compile(r"checkpoint-(\d+)")
_MAX_MANIFEST_BYTES = 2**20


def write_checkpoint(folder: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Writes a checkpoint to a temporary folder, flushes it, then renames it to `folder`.

    Args:
        folder: Replaced if it exists.
        facts: Go into the manifest with the files' hashes.

    Raises:
        StorageError: If a write fails; an existing `folder` is intact.
    """
    work: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.tmp-"))
        work.chmod(0o755)
        for name, content in [*files.items(), (MANIFEST, manifest_of(files, facts))]:
            write_flushed(work / name, [content])
        flush_directory(work)
        _swap_in(work, folder)
    except OSError as error:
        raise StorageError(
            f"{folder}: the checkpoint could not be written: {error.strerror or error}. "
            f"Free some space, then continue with: llmcausal resume {folder.parent} "
            "(earlier checkpoints are intact)"
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def manifest_of(files: Mapping[str, bytes], facts: Mapping[str, Any]) -> bytes:
    """Returns the manifest of a checkpoint's files."""
    manifest = {**facts, "files": {name: _sha256(content) for name, content in files.items()}}
    manifest["sha256"] = _own_hash(manifest)
    return json.dumps(manifest, indent=2, ensure_ascii=False).encode()


def add_files(folder: Path, added: Mapping[str, bytes]) -> None:
    """Adds files to a checkpoint, whose other files stay.

    Raises:
        CheckpointError: If the checkpoint is damaged.
        StorageError: If a write fails; the checkpoint is intact.
    """
    facts = verify(folder)
    files = {each: (folder / each).read_bytes() for each in facts.pop("files")}
    write_checkpoint(folder, {**files, **added}, facts)


def verify(folder: Path) -> dict[str, Any]:
    """Returns the manifest; a `CheckpointError` if a file is missing or not as its hash."""
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        if Path(name).name != name:
            raise CheckpointError(f"{folder / MANIFEST}: {name!r} is not a plain file name")
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; the checkpoint is damaged")
        if _sha256(file.read_bytes()) != expected:
            raise CheckpointError(f"{file}: does not match its hash; the checkpoint is damaged")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest, not the files that it names; a `CheckpointError` if it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder}: not a checkpoint (it has no {MANIFEST})")
    try:
        manifest = json.loads(read_at_most(path, _MAX_MANIFEST_BYTES))
        own = manifest.pop("sha256")
        sound = {**manifest, "files": dict(manifest["files"])}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    if own != _own_hash(manifest):
        raise CheckpointError(f"{path}: does not match its own hash; the checkpoint is damaged")
    return sound


def _own_hash(manifest: Mapping[str, Any]) -> str:
    """Hashes a manifest's facts: a wrong fact would make `resume` refuse a good run."""
    return _sha256(json.dumps(manifest, sort_keys=True).encode())


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """Returns a run's checkpoints with their steps, newest first."""
    found = [
        (int(match[1]), path)
        for path in run_dir.glob("checkpoint-*")
        if path.is_dir() and not path.is_symlink() and (match := _NAME.fullmatch(path.name))
    ]
    return sorted(found, reverse=True)


def newest_good(run_dir: Path) -> tuple[Path | None, list[str]]:
    """Finds the newest intact checkpoint.

    Returns:
        The checkpoint (None if there is none yet), and the defects of newer ones.

    Raises:
        CheckpointError: If all checkpoints are damaged.
    """
    recover(run_dir)
    damaged = []
    for _, folder in checkpoints(run_dir):
        try:
            verify(folder)
        except CheckpointError as error:
            damaged.append(str(error))
        else:
            return folder, damaged
    if damaged:
        first = f"{run_dir}: no checkpoint is intact; start again, or resume {run_dir / BEST}"
        raise CheckpointError("\n".join([first, *damaged]))
    return None, []


def recover(run_dir: Path) -> None:
    """Finishes or undoes an interrupted write: partial files, partial folders, swaps."""
    for old in run_dir.glob(".*.old"):
        target = run_dir / old.name[1 : -len(".old")]
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    for stale in run_dir.glob(".*.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    forget_partial_files(run_dir)


def prune(run_dir: Path, keep: int) -> None:
    for _, folder in checkpoints(run_dir)[keep:]:
        shutil.rmtree(folder, ignore_errors=True)


def discard_after(run_dir: Path, step: int) -> list[Path]:
    """Deletes and returns the checkpoints of later steps, which the run will reach again."""
    later = [folder for number, folder in checkpoints(run_dir) if number > step]
    for folder in later:
        shutil.rmtree(folder, ignore_errors=True)
    return later


def _swap_in(work: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    if old.is_symlink():  # not ours: its target stays
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    flush_directory(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Snapshot:
    """Writes and restores everything that a run needs to continue exactly.

    That is the run's optimizer, schedule, scaler, state, callbacks, random states and config, the
    model's adapters, and the objective's modules: a user's own loss may have weights and buffers.
    The manifest gets the `fingerprints`: hashes of data and template.
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
        self._tokenizer_files = _files_saved_by(tokenizer)

    def write(self, folder: Path) -> Path:
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
        """Restores a verified checkpoint; a `CheckpointError` if it does not fit this run."""
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
        except UnpicklingError as error:  # torch's message says how to run the refused code
            raise CheckpointError(
                f"{folder / TRAINING_STATE}: holds something other than values and tensors, which "
                "could run code; it was not loaded"
            ) from error
        except (RuntimeError, KeyError, ValueError, TypeError, OSError, EOFError) as error:
            raise CheckpointError(f"{folder / TRAINING_STATE}: cannot be used: {error}") from error

    def _restore_optimizer(self, saved: dict[str, Any]) -> None:
        """Loads states and the schedule's position, but keeps this run's settings.

        They differ from the checkpoint's only where the user allowed a change.
        """
        optimizer, scheduler = self.run.optimizer, self.run.scheduler
        groups = optimizer.param_groups
        settings = [{key: group[key] for key in _SETTINGS} for group in groups]
        rates = list(scheduler.base_lrs)
        load_optimizer(optimizer, saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        assert isinstance(scheduler, LambdaLR)  # transformers' get_scheduler returns no other
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
    """Returns the adapter's files, as peft writes them, by name."""
    config = model.peft_config["default"]
    inference_mode, config.inference_mode = config.inference_mode, True
    files = _files_saved_by(config)
    config.inference_mode = inference_mode
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    # safetensors sorts by dtype and name, so equal weights give equal bytes.
    files[ADAPTER_WEIGHTS] = safetensors.torch.save(_on_cpu(tensors), metadata={"format": "pt"})
    return files


def has_projection(folder: Path) -> bool:
    """Whether a checkpoint has a projection head; runs without a contrastive loss have none."""
    return (folder / PROJECTION).is_file()


def restore_weights(folder: Path, model: PeftModel, projection: ProjectionHead | None) -> None:
    """Loads adapter and projection; a `CheckpointError` if names or shapes do not fit."""
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


def _files_saved_by(source: Any) -> dict[str, bytes]:
    try:
        with tempfile.TemporaryDirectory() as folder:
            source.save_pretrained(folder)
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
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
