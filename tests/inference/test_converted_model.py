"""Cached conversions of checkpoints: written once, verified, replaced when stale or damaged."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from emotion_lab.core.errors import UserError
from emotion_lab.data.transforms import Resize
from emotion_lab.inference import converted_model, openvino_core
from emotion_lab.inference.backends import auto
from emotion_lab.inference.classifier import load_classifier
from emotion_lab.inference.conversion.formats.openvino import OpenVino
from emotion_lab.inference.loader import RunOptions, load, open_graph
from tests.helpers_export import (
    NAMES,
    SIZE,
    open_classifier,
    random_faces,
    skip_without,
    write_checkpoint,
)

skip_without("openvino")

FACES = random_faces((40, 50), (21, 30), (90, 80))


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkpoint in its own folder; the cache folder is ``cache`` next to it."""
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    return write_checkpoint(tmp_path / "run" / "best.ckpt", 1)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that grows by one with each conversion to OpenVINO."""
    calls: list[Any] = []
    write = OpenVino.write

    def counted(self: OpenVino, job: Any, path: Path) -> None:
        calls.append(job)
        write(self, job, path)

    monkeypatch.setattr(OpenVino, "write", counted)
    return calls


def torch_probabilities(path: Path) -> np.ndarray:
    return open_classifier(path, "torch")(FACES)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FILES = ["best.ckpt", "best.openvino.bin", "best.openvino.xml"]


def test_converted_once(checkpoint: Path, conversions: list[Any]) -> None:
    first = open_classifier(checkpoint, "openvino")
    assert any("converted now" in note for note in first.notes)
    assert names_in(checkpoint.parent) == FILES and len(conversions) == 1
    again = open_classifier(checkpoint, "openvino")
    assert len(conversions) == 1 and any("best.openvino.xml" in note for note in again.notes)
    np.testing.assert_allclose(first(FACES), again(FACES), atol=1e-6)


def test_another_checkpoint_of_the_same_name(checkpoint: Path, conversions: list[Any]) -> None:
    open_classifier(checkpoint, "openvino")
    earlier = torch_probabilities(checkpoint)
    write_checkpoint(checkpoint, 1, seed=1)
    other = open_classifier(checkpoint, "openvino")
    assert len(conversions) == 2 and np.abs(other(FACES) - earlier).max() > 0.05
    np.testing.assert_allclose(other(FACES), torch_probabilities(checkpoint), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("best.openvino.bin", lambda content: bytes(len(content))),
        ("best.openvino.bin", lambda content: content[: len(content) // 2]),
        ("best.openvino.xml", lambda content: content[: len(content) // 2]),
        ("best.openvino.xml", lambda content: content.replace(b"zest", b"rage")),
    ],
)
def test_damaged_file_is_replaced(
    checkpoint: Path, conversions: list[Any], name: str, damage: Callable[[bytes], bytes]
) -> None:
    open_classifier(checkpoint, "openvino")
    path = checkpoint.with_name(name)
    path.write_bytes(damage(path.read_bytes()))
    probabilities = open_classifier(checkpoint, "openvino")(FACES)
    np.testing.assert_allclose(probabilities, torch_probabilities(checkpoint), atol=1e-5)
    assert len(conversions) == 2 and names_in(checkpoint.parent) == FILES


def test_other_versions_are_replaced(
    checkpoint: Path, conversions: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_classifier(checkpoint, "openvino")
    versions = converted_model.package_versions("openvino")
    monkeypatch.setattr(
        converted_model, "package_versions", lambda _: {**versions, "openvino": "9.9"}
    )
    open_classifier(checkpoint, "openvino")
    monkeypatch.setattr(converted_model, "FORMAT", 99)
    open_classifier(checkpoint, "openvino")
    assert len(conversions) == 3


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_cached_file_is_an_export(checkpoint: Path, format: str) -> None:
    """It has the metadata of an export, and :func:`load` names what it is."""
    open_classifier(checkpoint, format)
    path = checkpoint.with_name(f"best{converted_model.SUFFIXES[format]}")
    meta, run = open_graph(path, RunOptions(threads=1))
    assert meta["classes"] == NAMES and meta["crop_margin"] == 0.25 and meta["format"] == format
    assert meta["input"]["layout"] == "NCHW" and meta["output"]["name"] == "logits"
    assert run(np.zeros((3, 1, SIZE, SIZE), np.uint8)).shape == (3, len(NAMES))
    with pytest.raises(UserError, match=r"is a cached conversion of backend=.*use its checkpoint"):
        load(path)


@pytest.mark.parametrize("cause", ["read-only", "occupied"])
def test_folder_that_cannot_be_written(checkpoint: Path, cause: str) -> None:
    if cause == "read-only":
        if not hasattr(os, "geteuid") or os.geteuid() == 0:
            pytest.skip("root can write everywhere")
        checkpoint.parent.chmod(0o500)
    else:
        checkpoint.with_name("best.openvino.xml").mkdir()
    cache = checkpoint.parents[1] / "cache" / "deploy"
    try:
        first = open_classifier(checkpoint, "openvino")
        assert sorted(path.suffix for path in cache.iterdir()) == [".bin", ".xml"]
        assert any(str(cache) in note for note in first.notes)
        again = open_classifier(checkpoint, "openvino")
        assert not any("converted now" in note for note in again.notes)
    finally:
        checkpoint.parent.chmod(0o700)


def test_no_folder_can_be_written(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(converted_model, "save_converted", disk_full)
    classifier = open_classifier(checkpoint, "openvino")
    assert any("not cached" in note for note in classifier.notes)
    np.testing.assert_allclose(classifier(FACES), torch_probabilities(checkpoint), atol=1e-5)


def test_backend_that_differs_from_torch(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inexact(path: Path, options: RunOptions) -> Any:
        meta, run = open_graph(path, options)
        return meta, lambda images: run(images) * 1.01

    monkeypatch.setattr(converted_model, "open_graph", inexact)
    with pytest.raises(UserError, match=r"differs from PyTorch by .* Set backend=torch"):
        open_classifier(checkpoint, "openvino")
    assert names_in(checkpoint.parent) == ["best.ckpt"]
    monkeypatch.setattr(auto, "CANDIDATES", (("openvino", "fp32"), ("torch", "fp32")))
    classifier = open_classifier(checkpoint, "auto")
    np.testing.assert_array_equal(classifier(FACES), torch_probabilities(checkpoint))
    assert any("differs from PyTorch" in note for note in classifier.notes)
    monkeypatch.setattr(OpenVino, "write", lambda *_: 1 / 0)
    with pytest.raises(UserError, match=r"cannot be converted to openvino \S+ fp32 on cpu \(div"):
        open_classifier(checkpoint, "openvino")


def test_bfloat16(checkpoint: Path) -> None:
    if openvino_core.computes_bf16():
        classifier = open_classifier(checkpoint, "openvino", precision="bf16")
        assert "bf16" in classifier.runtime_name
        assert "bf16" in open_classifier(checkpoint, "openvino", precision="auto").runtime_name
        probabilities = classifier(FACES)
    else:
        with pytest.raises(UserError, match="no bfloat16 instructions"):
            open_classifier(checkpoint, "openvino", precision="bf16")
        assert "fp32" in open_classifier(checkpoint, "openvino", precision="auto").runtime_name
        model = openvino_core.core().read_model(checkpoint.with_name("best.openvino.xml"))
        resized = np.stack([Resize(SIZE, 1)(image) for image in FACES]).transpose(0, 3, 1, 2)
        try:
            probabilities = softmax(openvino_core.start(model, "bf16", 1)(resized.copy()), 1)
        except RuntimeError:
            pytest.skip("this CPU cannot emulate bfloat16")
    difference = np.abs(probabilities - torch_probabilities(checkpoint)).max()
    assert difference <= converted_model.TOLERANCE["bf16"]
    if difference <= 1e-6 and not openvino_core.computes_bf16():
        pytest.skip("OpenVINO computes in fp32 on this CPU, although bf16 was asked for")
    assert difference > 1e-6


def test_auto_notes_the_choice_and_the_missing_packages(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    notes = open_classifier(checkpoint, "auto").notes
    assert any(note.startswith("auto: of ") for note in notes)
    assert capsys.readouterr().err == f"converting {checkpoint}, once\n"
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"openvino is not installed .*pip install openvino"):
        load_classifier(checkpoint, "openvino")
    with pytest.raises(UserError, match="pip install onnxruntime onnx onnxscript"):
        load_classifier(checkpoint, "onnx")
    classifier = open_classifier(checkpoint, "auto")
    assert "torch" in classifier.runtime_name and capsys.readouterr().out == ""
    line = " ".join(classifier.notes)
    assert "pip install openvino" in line and "pip install onnxruntime" in line
