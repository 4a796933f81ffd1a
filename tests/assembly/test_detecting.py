"""The detector behind `try`, `serve` and `monitor logs`: on where it carries over, else off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch.nn.functional import normalize

from llmcausal.assembly import monitoring, serving
from llmcausal.assembly.evaluating import load_parts, read_checkpoint
from llmcausal.assembly.monitoring import LogsRequest, Watch
from llmcausal.assembly.trying import Trials, TryRequest
from llmcausal.data.builtin import generate
from llmcausal.data.spans import Span
from llmcausal.data.tokenization import TripletEncoder
from llmcausal.errors import CheckpointError, UsageError
from llmcausal.evaluation import detection
from llmcausal.evaluation.detection import (
    CALIBRATION,
    Detector,
    calibrate,
    detector_of,
    kind_of_text,
    why_off,
)
from llmcausal.evaluation.forward import encode, read
from llmcausal.export.artifact import ExportOptions
from llmcausal.profile import load_config
from llmcausal.server.app import Served, build_app
from llmcausal.server.engine import Engine, Limits
from llmcausal.train.checkpoint import PROJECTION, verify
from tests import program
from tests.server.conftest import listening


def states(marks: list[float], seed: int = 0) -> dict[Any, torch.Tensor]:
    """Representations in which an injected text differs by its mark."""
    generator = torch.Generator().manual_seed(seed)

    def texts() -> torch.Tensor:
        return torch.ones(8) + 0.1 * torch.randn(len(marks), 8, generator=generator)

    moved = torch.zeros(len(marks), 8)
    moved[:, 0] = torch.tensor(marks)
    benign = texts()
    return {"benign": benign, "benign_cf": texts(), "injection": benign + moved}


def test_a_detector_is_on_only_if_it_works_on_every_kind_of_text() -> None:
    kinds = ["built-in"] * 40 + ["natural"] * 40
    assert why_off(calibrate(states([-4.0] * 80), kinds)) == ""
    reason = why_off(calibrate(states([-4.0] * 40 + [0.0] * 40), kinds))
    assert reason.startswith("it does not carry over to natural texts: AUROC 0.5")
    assert "on 40 validation prompts" in reason
    assert "carry over to natural" in why_off(calibrate(states([-4.0] * 4), ["natural"] * 4))
    assert [kind_of_text(each) for each in ("natural-v-1", "builtin-v-1", "17")] == [
        "natural", "built-in", "own",
    ]  # fmt: skip


def test_few_harmless_texts_are_flagged() -> None:
    found = calibrate(states([-4.0] * 200), ["own"] * 200)
    fresh = states([-4.0] * 400, seed=1)
    centroid = torch.tensor(found["centroid"])
    shares = [
        float(
            ((1 - normalize(fresh[member], dim=-1) @ centroid) / 2 > found["threshold"])
            .float()
            .mean()
        )
        for member in ("benign", "injection")
    ]
    assert shares[0] < 0.06
    assert shares[1] == 1


@pytest.fixture
def checkpoint(tiny_config: Callable[..., Any]) -> Path:
    config = tiny_config(
        data={"builtin": {"test": 4, "test_seen": 0}},
        loss={"contrast_gradient": "head", "projection_dim": 8},
        train={"max_steps": 2, "learning_rate": 0.05},
        evaluation={"at_end": False, "max_new_tokens": 4},
    )
    return program.train(config, plain=True).run_dir / "best"


def test_a_checkpoints_detector_scores_prompts_everywhere(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = verify(checkpoint)
    found = json.loads((checkpoint / CALIBRATION).read_text("utf-8"))
    assert list(found["auroc"]) == ["built-in"]
    config = load_config(checkpoint / "config.toml")
    parts = load_parts(config, manifest, checkpoint)
    # A detector of a tiny random model carries over to nothing.
    assert "does not carry over" in str(detector_of(checkpoint, parts.step, parts.template, config))
    trials = Trials(TryRequest(checkpoint))
    assert trials.detected("Sum up.", ["A text."])["off"].startswith("it does not carry over")
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"system": "Sum up.", "user": "A text.", "answer": "Short."}))
    request = LogsRequest(file=log, watch=Watch(out=tmp_path / "watch"), checkpoint=checkpoint)
    row = monitoring.score_logs(request)
    assert "detector" not in row["signals"]
    assert row["notes"][0].startswith("detector off: it does not carry over")

    monkeypatch.setattr(detection, "NEEDED", -1.0)
    detector = detector_of(checkpoint, parts.step, parts.template, config)
    assert isinstance(detector, Detector)
    (triplet,) = generate("validation", 1, seed=3)
    system, text = triplet.system, triplet.benign
    alone = detector.of(parts.model, system, text)
    assert alone is not None
    readable, _ = encode(TripletEncoder(parts.template, config.data.max_length), [triplet])
    whole = read(parts.step, readable, pooling=config.loss.pooling, batch_size=1, projected=True)
    unit = normalize(whole.representations["benign"], dim=-1)
    expected = float((1 - unit @ torch.tensor(found["centroid"]))[0]) / 2
    assert alone.score == pytest.approx(expected, abs=1e-5)
    assert alone.flagged == (alone.score > found["threshold"])
    assert detector.of(parts.model, "s", "x" * 20_000) is None
    spans = (Span("Sum up.", trusted=True), Span(text, "tool"))
    scored = detector.of(parts.model, system, spans)
    assert scored is not None
    assert scored.score != alone.score
    assert detector.of(parts.model, system, spans[:1]) is None  # nothing is untrusted
    assert detector.of(parts.model, "s", "half a \ud800 character") is None
    trials = Trials(TryRequest(checkpoint))
    (shown,) = trials.detected(system, [text])["texts"]
    assert shown["score"] == pytest.approx(alone.score, abs=1e-4)
    assert monitoring.score_logs(request)["signals"]["detector"]["n"] == 1
    with ExitStack() as stack:
        engine = Engine(parts.model, parts.template, Limits(new_tokens=4), detector=detector)
        engine.start()
        stack.callback(engine.close)
        url = stack.enter_context(listening(build_app(Served(engine, "m", None, ("*",))), 30))
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        reply = httpx.post(
            f"{url}/v1/chat/completions",
            json={"messages": messages, "max_tokens": 4},
            timeout=60,
            trust_env=False,
        ).json()
    assert reply["injection"]["score"] == pytest.approx(alone.score, abs=1e-4)
    assert reply["injection"]["flagged"] is alone.flagged


def scores(folder: Path) -> list[Any]:
    config, manifest = read_checkpoint(folder, trust_remote_code=False)
    parts = load_parts(config, manifest, folder)
    detector = detector_of(folder, parts.step, parts.template, config)
    assert isinstance(detector, Detector)
    triplets = generate("validation", 3, seed=3)
    texts = [(each.system, text) for each in triplets for text in (each.benign, each.injection)]
    return [detector.of(parts.model, *text) for text in texts]


def test_an_exported_adapter_has_the_checkpoints_detector(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, log = tmp_path / "lora", tmp_path / "log.jsonl"
    unchecked = ExportOptions(check=False)
    report = program.export(checkpoint, target="adapter", out=out, options=unchecked)
    assert report["detector"].startswith("off: it does not carry over to built-in texts: AUROC")
    assert json.loads((out / "export_check.json").read_text("utf-8"))["detector"]
    assert "State: off: it does not carry over" in (out / "README.md").read_text("utf-8")
    for name in (PROJECTION, CALIBRATION, "adapter_model.safetensors"):
        assert (out / name).read_bytes() == (checkpoint / name).read_bytes()
    assert "train.jsonl" in (checkpoint / "config.toml").read_text("utf-8")
    assert "train.jsonl" not in (out / "config.toml").read_text("utf-8")

    class Started(Exception):
        pass

    def engine(*_: Any, detector: Any, **__: Any) -> None:
        raise Started("on" if isinstance(detector, Detector) else "off")

    monkeypatch.setattr(serving, "Engine", engine)
    log.write_text(json.dumps({"system": "Sum up.", "user": "A text.", "answer": "Short."}))
    logs = LogsRequest(file=log, watch=Watch(out=tmp_path / "watch"), checkpoint=out)
    with pytest.raises(Started, match="off"):
        program.serve(out, port=0)
    assert monitoring.score_logs(logs)["notes"][0].startswith("detector off: it does not carry")

    monkeypatch.setattr(detection, "NEEDED", -1.0)
    with pytest.raises(UsageError, match="neither a run directory nor a checkpoint inside one"):
        program.resume(out)
    expected, read = scores(checkpoint), {"baseline": False, "reads": False}
    evaluated = program.evaluate(checkpoint, progress=lambda *_: None, **read)["generations"]
    scaled = tmp_path / "scaled"
    half = program.export(checkpoint, target="adapter", out=scaled, scale=0.5, options=unchecked)
    assert half["detector"] == "none: it was measured on the adapter's update at scale 1"
    assert not (scaled / PROJECTION).exists()
    again = program.export(checkpoint, target="merged", out=tmp_path / "m", options=unchecked)
    assert "detector" not in again
    shutil.rmtree(checkpoint.parent)  # the folder needs nothing of the run
    found = scores(out)
    assert found == expected  # to the bit
    assert len({each.score for each in found}) == len(found)
    assert Trials(TryRequest(out)).detected("s", ["A text."])["texts"][0]["threshold"]
    again = program.evaluate(out, progress=lambda *_: None, out=tmp_path / "results", **read)
    assert again["generations"] == evaluated
    with pytest.raises(Started, match="on"):
        program.serve(out, port=0)
    assert monitoring.score_logs(logs)["signals"]["detector"]["n"] == 1
    with (out / CALIBRATION).open("a") as file:
        file.write(" ")
    with pytest.raises(CheckpointError, match=r"detector\.json: does not match its hash"):
        program.serve(out, port=0)
