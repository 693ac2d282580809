"""Parity certificates: comparison, requirements, latency, page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_lab.data.contamination import TrainingImages
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.exporters import calibration_data, verify
from emotion_lab.exporters.calibration_data import val_images
from emotion_lab.exporters.verify import compare, compare_quantities, failures, quantity_failures
from emotion_lab.exporters.verify_page import write_page
from tests.conftest import TINY, composed
from tests.helpers_export import random_reference


def test_comparison_counts_flips_and_drift() -> None:
    reference = random_reference()
    correct = reference.probabilities.argmax(1) == reference.labels
    same = compare(reference, reference.probabilities)
    assert same["label_flips"] == 0 and same["max_drift"] == 0 and same["accuracy_change"] == 0
    assert same["accuracy"] == pytest.approx(correct.mean())
    changed = reference.probabilities.copy()
    rows = np.flatnonzero(correct)[:7]
    changed[rows] = np.roll(changed[rows], 1, axis=1)
    comparison = compare(reference, changed)
    assert comparison["label_flips"] == 7
    assert comparison["accuracy_change"] == pytest.approx(-7 / 2000)
    low, high = comparison["accuracy_change_ci95"]
    assert low < -7 / 2000 < high <= 0 and comparison["macro_f1_change"] < 0
    assert {image["image"] for image in comparison["worst"][:7]} == {f"row {i}" for i in rows}
    expected_drift = np.abs(changed - reference.probabilities).mean()
    assert comparison["mean_drift"] == pytest.approx(expected_drift)


def test_requirements_of_each_precision() -> None:
    reference = random_reference()
    comparison = compare(reference, reference.probabilities)
    for precision in ("fp32", "fp16", "bf16", "int8"):
        assert failures(precision, comparison) == []

    def lines(precision: str, **changes: Any) -> str:
        return "; ".join(failures(precision, {**comparison, **changes}))

    assert "1 of 2,000 labels differ" in lines("fp32", label_flips=1)
    assert "largest difference on row" in lines("fp32", label_flips=1)
    assert "allowed is 0.0001" in lines("fp32", max_drift=2e-4)
    assert lines("fp32", max_drift=float("nan"))
    assert not lines("fp16", label_flips=6, max_drift=0.1)  # 0.3 % of 2,000
    assert "7 of 2,000" in lines("bf16", label_flips=7)
    assert not lines("int8", label_flips=300, accuracy_change=-0.005)
    assert "-0.60 points" in lines("int8", accuracy_change=-0.006)


def test_requirements_of_learned_quantities() -> None:
    reference = random_reference()
    reference.quantities["valence"] = np.linspace(-1, 1, 2000)
    shifted = reference.quantities["valence"][:, None] + np.float64([[2e-4]])
    drifts = compare_quantities(reference, shifted)
    assert drifts["valence"] == pytest.approx({"max_drift": 2e-4, "mean_drift": 2e-4})
    (line,) = quantity_failures("fp32", drifts)
    assert "a value of valence differs by 0.0002, allowed is 0.0001" in line
    assert quantity_failures("int8", drifts) == []
    drifts = {"valence": {"max_drift": 0.5, "mean_drift": 0.06}}
    assert "the mean value of valence differs by 0.06" in quantity_failures("int8", drifts)[0]
    assert quantity_failures("fp16", {"valence": dict.fromkeys(drifts["valence"], float("nan"))})


def test_int8_must_be_faster_than_fp32() -> None:
    fp32 = {"b1": 2.0, "b8": 10.0, "b1_threads2": 1.0, "b8_threads2": 5.0}
    assert "not worth it here" in (verify.speedup_verdict({**fp32, "b1": 1.95}, fp32) or "")
    assert verify.speedup_verdict({**fp32, "b8": 8.0}, fp32) is None


def test_latency_of_each_network() -> None:
    def sleeping(seconds: float) -> Any:
        return lambda threads: lambda faces: time.sleep(seconds * len(faces))

    latencies = verify.latency(
        {"slow": sleeping(0.004), "fast": sleeping(0.001)}, np.zeros((4, 4, 3), np.uint8), rounds=1
    )
    assert latencies["slow"]["b1"] >= 4 and latencies["slow"]["b8"] >= 32
    assert set(latencies["fast"]) == set(verify.LATENCIES)
    assert latencies["fast"]["b8"] < latencies["slow"]["b8"] / 2


def test_calibration_images_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_data, "MIN_IMAGES", 100)
    cfg = composed(*TINY, "data.n=2000")
    card = {
        "trained_on": TrainingImages().entry(),
        "classes": EmotionData(cfg["data"], ("val",)).classes,
        "seed": 0,
        "input": {"image_size": 48, "channels": 1},
    }
    images = val_images(card, cfg["data"], False, 5000, 60)
    assert images.calibration is not None and len(images.calibration.faces) == 60
    assert len(images.faces) == 140
    compared = {face.tobytes() for face in images.faces}
    assert not any(face.tobytes() in compared for face in images.calibration.faces)
    few = val_images(card, {**cfg["data"], "limit": 90}, False, 5000, 60)
    assert len(few.faces) == 90
    assert any("includes the calibration images" in note for note in few.notes)
    assert any("only 90 images" in note for note in few.notes)


def test_page_escapes_names(tmp_path: Path) -> None:
    reference = random_reference(1000)
    reference.names[0] = "<script>"
    changed = reference.probabilities.copy()
    changed[0] = np.roll(changed[0], 1)
    certificate = {"file": "a<b.onnx", "format": "onnx", "precision": "fp32", "split": "val"}
    comparison = compare(reference, changed)
    certificate |= {"run_precision": "fp32", **comparison, "passed": False, "failures": ["<b>"]}
    about = {"notes": [], "checkpoint_sha256": "0", "data": "x", "licence": "none"}
    about |= {"fingerprint": {"hash": "1"}, "versions": {"torch": "2"}}
    faces = reference.faces[: len(comparison["worst"])]
    write_page(tmp_path / "page.html", certificate, about, faces)
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text and "a&lt;b.onnx" in text and "&lt;b&gt;" in text
