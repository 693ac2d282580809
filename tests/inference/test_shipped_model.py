"""Shipped models with ``backend=auto``: the choice among runtimes; certificates of int8 files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.core.input_spec import InputSpec
from emotion_lab.core.io import file_hash
from emotion_lab.inference import certificate, shipped_model
from emotion_lab.inference.backends import auto
from emotion_lab.inference.base import InferenceBackend
from emotion_lab.inference.classifier import load_classifier
from tests.helpers_export import skip_without

CFG = {"name": "auto", "precision": "auto", "device": "auto", "threads": 1}


class FakeFiles:
    """Replaces ``open_exported``.

    Attributes:
        ms: Label of a candidate -> milliseconds per call; a text is the reason it cannot be opened.
        shift: Label -> difference of its probabilities from the others.
        opened: Labels in the order of opening.
        now_s: Seconds on the clock.
    """

    def __init__(self) -> None:
        self.ms: dict[str, float | str] = {
            "onnxruntime fp32": 4.0,
            "openvino fp32": 3.0,
            "openvino bf16": 2.0,
        }
        self.shift: dict[str, float] = {}
        self.opened: list[str] = []
        self.now_s = 0.0

    def __call__(self, path: Path, cfg: dict[str, Any]) -> shipped_model.Opened:
        label = f"{cfg['name']} {'bf16' if cfg['precision'] == 'bf16' else 'fp32'}"
        self.opened.append(label)
        cost = self.ms[label]
        if isinstance(cost, str):
            raise UserError(cost)
        probabilities = np.array([0.5, 0.5], np.float32)
        probabilities += np.array([1, -1], np.float32) * self.shift.get(label, 0.0)

        def run(images: np.ndarray) -> np.ndarray:
            self.now_s += cost / 1000
            return np.log(probabilities)[None].repeat(len(images), axis=0)

        card = {"classes": ["happy", "sad"]}
        return card, InputSpec(48, 1, (0.5,), (0.25,)), InferenceBackend(label, run, ["the file"])


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeFiles:
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    files = FakeFiles()
    monkeypatch.setattr(shipped_model, "open_exported", files)
    monkeypatch.setattr(shipped_model, "cpu_multiplies_bf16", lambda: True)
    monkeypatch.setattr(shipped_model, "package_version", lambda package: "1")
    monkeypatch.setattr(auto, "time", SimpleNamespace(perf_counter=lambda: files.now_s))
    return files


def test_the_fastest_is_chosen_and_cached(fakes: FakeFiles, capsys: Any) -> None:
    backend = shipped_model.open_shipped("fer2013", CFG)[2]
    assert backend.name == "openvino bf16" and set(fakes.opened) == set(fakes.ms)
    assert backend.notes[0].startswith("auto: of openvino bf16 2.00 ms, openvino fp32 3.00 ms")
    assert capsys.readouterr().err == "measuring fer2013, once\n"
    fakes.opened.clear()
    again = shipped_model.open_shipped("fer2013", CFG)[2]
    assert fakes.opened == ["openvino bf16"] and capsys.readouterr().err == ""
    assert again.notes[0] == backend.notes[0].replace("measured now", "measured before")
    # Other results than those that were measured: another processor, for instance.
    fakes.shift["openvino bf16"] = 0.2
    fakes.opened.clear()
    assert shipped_model.open_shipped("fer2013", CFG)[2].name == "openvino fp32"
    assert len(fakes.opened) > 1


def test_nothing_is_measured_without_openvino(
    fakes: FakeFiles, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(shipped_model, "package_version", lambda package: None)
    fakes.ms = {"auto fp32": 4.0}
    assert shipped_model.open_shipped("fer2013", CFG)[2].notes == ["the file"]
    assert capsys.readouterr().err == "" and fakes.now_s == 0


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", "openvino fp32"), ("bf16", "openvino bf16")]
)
def test_a_wanted_precision(fakes: FakeFiles, precision: str, expected: str) -> None:
    backend = shipped_model.open_shipped("fer2013", {**CFG, "precision": precision})[2]
    assert backend.name == expected


@pytest.mark.parametrize("name", ["auto", "onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_int8_file_has_no_other_precision(name: str, precision: str) -> None:
    if name != "onnxruntime":
        skip_without("openvino")
    cfg = {**CFG, "name": name, "precision": precision}
    with pytest.raises(UserError, match=f"backend.precision={precision} is not for .* int8: leave"):
        load_classifier("fer2013-small", cfg)


def test_only_candidates_that_agree_and_are_clearly_faster(fakes: FakeFiles) -> None:
    fakes.ms["openvino bf16"] = 2.95
    backend = shipped_model.open_shipped("fer2013", CFG)[2]
    assert backend.name == "openvino fp32"  # bf16 is only 2 % faster
    fakes.ms["openvino bf16"], fakes.shift["openvino bf16"] = 1.0, 0.1
    backend = shipped_model.open_shipped("fer2013", {**CFG, "threads": 3})[2]
    assert backend.name == "openvino fp32"
    assert any("openvino bf16 differs by 0.1" in note for note in backend.notes)
    fakes.ms = {label: "not installed" if "openvino" in label else 1.0 for label in fakes.ms}
    backend = shipped_model.open_shipped("fer2013", {**CFG, "threads": 2})[2]
    assert backend.name == "onnxruntime fp32" and "not installed" in backend.notes


@pytest.mark.parametrize(
    "change", [{"passed": False}, {"precision": "fp16"}, {"sha256": "0" * 64}, {"about": {}}, None]
)
def test_int8_never_runs_without_a_certificate_that_passed(tmp_path: Path, change: Any) -> None:
    file = tmp_path / "net.int8.onnx"
    file.write_bytes(b"a graph")
    content = {"passed": True, "precision": "int8", "sha256": file_hash(file)}
    content["about"] = {"checkpoint_sha256": "1234"}
    report = certificate.certificate_path(file)
    report.write_text(json.dumps(content))
    assert certificate.certified_int8((tmp_path,), "1234") == file
    report.unlink()
    if change is not None:
        report.write_text(json.dumps({**content, **change}))
    assert certificate.certified_int8((tmp_path,), "1234") is None


def test_openvino_runs_the_files_without_torch() -> None:
    """A face gives the same probabilities as with ONNX Runtime, which reads the same file."""
    skip_without("openvino")
    face = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    expected = load_classifier("fer2013-small", "onnxruntime", threads=1)
    ours = load_classifier("fer2013-small", "openvino", threads=1)
    assert ours.runtime_name.startswith("openvino ") and "int8" in ours.runtime_name
    assert ours.model_id == expected.model_id and ours.classes == expected.classes
    np.testing.assert_allclose(ours([face]), expected([face]), atol=0.03)
