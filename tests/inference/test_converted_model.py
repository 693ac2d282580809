"""The kept file of a runtime: made once, checked, made anew when it is not what it was."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from emotion_lab.core.errors import UserError
from emotion_lab.data.transforms import Resize
from emotion_lab.inference import auto_select, converted_model
from emotion_lab.inference import classifier as classifier_module
from emotion_lab.inference.classifier import load_classifier
from tests.inference.test_backends import SIZE, faces, has_openvino, load, write


@pytest.fixture(autouse=True)
def one_warm_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading runs batches of eight sizes; these tests load many times."""
    monkeypatch.setattr(classifier_module, "WARM_FACES", 1)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkpoint whose conversions are its own, and the spare cache in ``cache``."""
    if not has_openvino():
        pytest.skip("openvino is not installed")
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "run" / "best.ckpt", 1)


def torch_says(path: Path) -> np.ndarray:
    return load(path, "torch")(faces(3))


def test_converted_once(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_lab.inference.openvino_runtime import OpenVinoConverter

    first = load(kept, "openvino")
    assert any("converted now" in note for note in first.notes)
    files = ["best.ckpt", "best.openvino.bin", "best.openvino.xml"]
    assert sorted(os.listdir(kept.parent)) == files
    calls = []
    honest = OpenVinoConverter.convert

    def counted(self: OpenVinoConverter, net: Any) -> Any:
        calls.append(net)
        return honest(self, net)

    monkeypatch.setattr(OpenVinoConverter, "convert", counted)
    again = load(kept, "openvino")
    assert not calls and any("best.openvino.xml" in note for note in again.notes)
    np.testing.assert_allclose(first(faces(3)), again(faces(3)), atol=1e-6)
    # Another checkpoint of the same name.
    before = torch_says(kept)
    write(kept, 1, seed=1)
    other = load(kept, "openvino")
    assert len(calls) == 1 and np.abs(other(faces(3)) - before).max() > 0.05
    np.testing.assert_allclose(other(faces(3)), torch_says(kept), atol=1e-5)
    # Damage of any kind: weights lost, weights cut off, model cut off.
    expected = torch_says(kept)
    for number, (name, spoil) in enumerate(
        [
            ("best.openvino.bin", lambda raw: bytes(len(raw))),
            ("best.openvino.bin", lambda raw: raw[: len(raw) // 2]),
            ("best.openvino.xml", lambda raw: raw[: len(raw) // 2]),
        ]
    ):
        place = kept.with_name(name)
        place.write_bytes(spoil(place.read_bytes()))
        np.testing.assert_allclose(load(kept, "openvino")(faces(3)), expected, atol=1e-5)
        assert len(calls) == 2 + number
    assert sorted(os.listdir(kept.parent)) == files


@pytest.mark.parametrize("how", ["mode", "occupied"])
def test_a_folder_that_cannot_be_written(kept: Path, how: str) -> None:
    if how == "mode":
        if not hasattr(os, "geteuid") or os.geteuid() == 0:
            pytest.skip("root writes anywhere")
        kept.parent.chmod(0o500)
    else:
        kept.with_name("best.openvino.xml").mkdir()
    cache = kept.parents[1] / "cache" / "deploy"
    try:
        first = load(kept, "openvino")
        assert sorted(p.suffix for p in cache.iterdir()) == [".bin", ".xml"]
        assert any(str(cache) in note for note in first.notes)
        again = load(kept, "openvino")
        assert not any("converted now" in note for note in again.notes)
    finally:
        kept.parent.chmod(0o700)


def test_nowhere_to_keep_it(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(converted_model, "save_converted", full)
    classifier = load(kept, "openvino")
    assert any("not kept" in note for note in classifier.notes)
    np.testing.assert_allclose(classifier(faces(3)), torch_says(kept), atol=1e-5)


def test_a_runtime_that_says_something_else(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from emotion_lab.inference.openvino_runtime import OpenVinoConverter

    honest = OpenVinoConverter.compile

    def almost(self: OpenVinoConverter, model: Any) -> Any:
        run = honest(self, model)
        return lambda images: run(images) * 1.01

    monkeypatch.setattr(OpenVinoConverter, "compile", almost)
    with pytest.raises(UserError, match="differs from PyTorch by .* Set backend=torch"):
        load(kept, "openvino")
    assert os.listdir(kept.parent) == ["best.ckpt"]
    monkeypatch.setattr(auto_select, "CANDIDATES", (("openvino", "fp32"), ("torch", "fp32")))
    np.testing.assert_array_equal(load(kept, "auto")(faces(3)), torch_says(kept))
    assert "differs from PyTorch" in capsys.readouterr().out
    # One that cannot do it at all.
    monkeypatch.setattr(OpenVinoConverter, "convert", lambda self, net: 1 / 0)
    with pytest.raises(UserError, match=r"cannot be converted .*division by zero"):
        load(kept, "openvino")


def test_bfloat16(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_lab.inference.openvino_core import core, import_openvino
    from emotion_lab.inference.openvino_runtime import OpenVinoConverter

    ov = import_openvino()
    if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        classifier = load(kept, "openvino", precision="bf16")
        assert "bf16" in classifier.runtime_name
        assert "bf16" in load(kept, "openvino", precision="auto").runtime_name
        found = classifier(faces(3))
    else:
        with pytest.raises(UserError, match="no bfloat16 instructions"):
            load(kept, "openvino", precision="bf16")
        assert "fp32" in load(kept, "openvino", precision="auto").runtime_name
        converter = OpenVinoConverter(ov, "bf16", 1)
        model, _ = converter.load(kept.with_name("best.openvino.xml"))
        fitted = np.stack([Resize(SIZE, 1)(image) for image in faces(3)]).transpose(0, 3, 1, 2)
        try:
            found = softmax(converter.compile(model)(fitted.copy()), 1)
        except RuntimeError:
            pytest.skip("this CPU cannot even emulate bfloat16")
    off = np.abs(found - torch_says(kept)).max()
    assert 1e-6 < off <= converted_model.TOLERANCE["bf16"]


def test_auto_says_what_it_took_and_why(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    load(kept, "auto")
    assert "auto: of " in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="openvino is not installed .*pip install openvino"):
        load_classifier(kept, "openvino")
    with pytest.raises(UserError, match="pip install onnxruntime onnx onnxscript"):
        load_classifier(kept, "onnx")
    assert "torch" in load(kept, "auto").runtime_name
    (line,) = capsys.readouterr().out.splitlines()
    assert "pip install openvino" in line and "pip install onnxruntime" in line
