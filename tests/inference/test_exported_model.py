"""Exported files in place of a checkpoint, for live and predict."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import EXPORT_SUFFIXES
from emotion_lab.inference import exported_model, loader
from emotion_lab.inference.classifier import load_classifier
from emotion_lab.inference.conversion.base import FORMATS
from emotion_lab.inference.conversion.writer import export
from emotion_lab.inference.exported_model import to_rgb_batch
from emotion_lab.models.load import restore
from tests.conftest import command
from tests.helpers_export import skip_without, write_checkpoint

skip_without("onnx", "onnxscript", "onnxruntime", "openvino")

NAMES = ["wütend", "平静", "glad & <still>", "fear", "happy"]


GREY_FILES = [*(f"net{suffix}" for suffix in EXPORT_SUFFIXES), "four.onnx"]


def write_run(folder: Path, channels: int, formats: Sequence[str]) -> None:
    """Write a checkpoint and its exports, those in ``files``."""
    path = folder / "checkpoints" / "best.ckpt"
    net, card = restore(write_checkpoint(path, channels, classes=NAMES, temperature=1.7))
    for format in formats:
        name = f"net{FORMATS.get(format).suffix}"
        export(net, card, format, "fp32", folder / "files" / name)
    if channels == 1:
        export(net, card, "onnx", "fp32", folder / "files" / "four.onnx", batch=4)


@pytest.fixture(scope="module")
def runs(make_once: Callable[..., Path]) -> dict[int, Path]:
    """Return channels -> run directory: grey in every format, RGB in OpenVINO's."""
    formats = {1: FORMATS.names(), 3: ["openvino"]}
    return {
        channels: make_once(
            f"exported_run_{channels}", partial(write_run, channels=channels, formats=names)
        )
        for channels, names in formats.items()
    }


@pytest.fixture
def grey_run(runs: dict[int, Path]) -> Path:
    return runs[1]


def crops() -> list[np.ndarray]:
    """Return blurred noise of several shapes; each image is darker than the previous one."""
    generator = np.random.default_rng(0)
    shapes = [(40, 40, 3), (20, 20, 3), (90, 80, 3), (32, 32, 3), (64, 64, 3), (1, 1, 3)]
    noise = [generator.integers(0, 256, shape, np.uint8) for shape in (*shapes, (50, 9, 1))]
    blurred = [cv2.blur(image, (5, 5)).reshape(image.shape) for image in noise]
    return [image // (i + 1) for i, image in enumerate(blurred)]


@pytest.mark.parametrize(
    ("name", "channels"), [*((name, 1) for name in GREY_FILES), ("net.xml", 3)]
)
def test_exported_file_equals_checkpoint(
    name: str, channels: int, runs: dict[int, Path], capsys: Any
) -> None:
    run = runs[channels]
    from_checkpoint = load_classifier(run, "torch", threads=1)
    from_file = load_classifier(run / "files" / name, threads=1)
    assert capsys.readouterr().out == ""
    package = exported_model.BACKEND_NAMES[Path(name).suffix][0]
    assert from_file.runtime_name.startswith(f"{package} ")
    assert from_file.runtime_name.endswith(" fp32 on cpu")
    assert from_file.notes == [f"the exported file {name}, fp32"]
    assert from_file.classes == NAMES and from_file.crop_margin == 0.25
    assert from_file.spec == from_checkpoint.spec
    expected = from_checkpoint(crops())
    assert expected.std(0).max() > 0.01
    np.testing.assert_allclose(from_file(crops()), expected, atol=1e-5)
    assert from_file([]).shape == (0, 5)
    with pytest.raises(ValueError, match="expected a face as uint8"):
        from_file([np.zeros((5, 5, 4), np.uint8)])


def test_probability_of_zero_stays_finite(grey_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def certain(self: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.float32([[1, 0, 0, 0, 0]]).repeat(len(images), axis=0)
        return rows, np.zeros((len(rows), 0), np.float32)

    monkeypatch.setattr(loader.Model, "predict", certain)
    classifier = load_classifier(grey_run / "files" / "net.onnx", threads=1)
    np.testing.assert_allclose(classifier(crops()), certain(None, np.zeros(7))[0], atol=1e-30)


def test_grey_to_rgb_batch() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 5), dtype=np.uint8)
    batch = to_rgb_batch(grey)
    assert batch.shape == (2, 4, 5, 3) and batch.flags.c_contiguous
    np.testing.assert_array_equal(batch[..., 2], grey[:, 0])
    rgb = grey.repeat(3, axis=1) // np.uint8([1, 2, 3])[:, None, None]
    np.testing.assert_array_equal(to_rgb_batch(rgb)[..., 1], rgb[:, 1])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net.onnx", "torch", "backend=torch is not for"),
        ("net.xml", "onnx", "runs with openvino: leave backend=auto"),
        ("net.xml", {"name": "auto", "precision": "bf16"}, "backend.precision=bf16 is not for"),
        ("net.pt2", {"name": "auto", "device": "cuda"}, "leave backend.device=auto"),
        ("net.onnx", {"name": "auto", "threads": 0}, "backend.threads=0 is not valid"),
        ("net.onnx", "openvin", "backend=openvin is not for"),
    ],
)
def test_options_that_the_file_fixes(name: str, options: Any, message: str, grey_run: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_classifier(grey_run / "files" / name, options)
    assert "\n" not in str(caught.value)
    valid = {"name": {"net.xml": "openvino", "net.pt2": "torch"}.get(name, "onnx")}
    assert load_classifier(
        grey_run / "files" / name, {**valid, "device": "cpu", "precision": "fp32"}
    )


def test_which_commands_accept_it(grey_run: Path, tmp_path: Path) -> None:
    assert tuple(loader._OPENERS) == EXPORT_SUFFIXES == tuple(exported_model.BACKEND_NAMES)
    assert {FORMATS.get(name).suffix for name in FORMATS.names()} == {*EXPORT_SUFFIXES}
    for suffix in EXPORT_SUFFIXES:
        file = str(grey_run / "files" / f"net{suffix}")
        paths.check_checkpoint(file, exported=True)
        for value in (file, [file]):
            with pytest.raises(UserError, match="but a checkpoint is needed"):
                paths.check_checkpoint(value, several=True)
    with pytest.raises(UserError, match=r"set ckpt=.*four.onnx"):
        paths.check_checkpoint(str(grey_run / "files"), exported=True)
    with pytest.raises(UserError, match="is it a run directory of train"):
        paths.check_checkpoint(str(tmp_path), exported=True)


def test_predict_with_a_file(runs: dict[int, Path], tmp_path: Path) -> None:
    """The file and its checkpoint give the same faces, numbers and names."""
    cv2.imwrite(str(tmp_path / "face.png"), crops()[2])
    rows = []
    for path, options in ((runs[3] / "files" / "net.xml", ()), (runs[3], ("backend=torch",))):
        out = tmp_path / path.name
        words = (f"ckpt={path}", f"source={tmp_path / 'face.png'}", "detector=full_frame")
        words += (*options, f"out={out}")
        done = command(*words, module="emotion_lab.predict", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (line,) = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        rows.append(json.loads(line)["faces"][0])
    from_file, from_checkpoint = rows
    assert list(from_file["probabilities"]) == NAMES
    assert from_file["label"] == from_checkpoint["label"]
    assert from_file["box"] == from_checkpoint["box"]
    assert from_file["probabilities"] == pytest.approx(from_checkpoint["probabilities"], abs=1e-4)


def test_live_with_a_file(grey_run: Path, tmp_path: Path) -> None:
    options = (
        *("source=synthetic", "detector=full_frame", "display=none", "max_frames=5"),
        *(f"log={tmp_path / 'log.jsonl'}", f"hydra.run.dir={tmp_path / 'live'}"),
    )
    file = grey_run / "files" / "net.onnx"
    done = command(f"ckpt={file}", *options, module="emotion_lab.live", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"classifier: {file}, onnxruntime" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 5 and list(rows[0]["faces"][0]["smoothed"]) == NAMES
    damaged = tmp_path / "net.onnx"
    damaged.write_bytes(file.read_bytes()[:-200])
    done = command(
        f"ckpt={damaged}", *options, "overwrite=true", module="emotion_lab.live", cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "Export it again" in last
    assert "Traceback" not in done.stderr
