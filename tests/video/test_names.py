"""File names that are not UTF-8, wherever live and predict read and write files."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from emotion_lab.inference import loader
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.sinks.image_folder import ImageFileSink
from emotion_lab.video.sources.open import open_source
from tests.conftest import command
from tests.helpers_detectors import MODELS, YUNET, config, random_head, save_onnx, shared
from tests.helpers_sinks import frame, lines, picture, result
from tests.helpers_sources import number, write_clip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="such names exist on Linux only")

NAME = "caf\udce9"  # the byte E9


def renamed(path: Path) -> Path:
    """Move a file to a name that is not UTF-8."""
    return path.rename(path.with_name(NAME + path.suffix))


def test_clip(tmp_path: Path) -> None:
    """OpenCV ended the process with a segmentation fault."""
    clip = renamed(write_clip(tmp_path / "clip.mp4", frames=5))
    with open_source({"source": str(clip), "loop": True, "max_frames": 8}) as source:
        frames = list(source)
    assert [number(frame.image) for frame in frames] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert frames[0].name == str(clip)


def test_detector_files(tmp_path: Path) -> None:
    cascade = Path(cv2.data.haarcascades, "haarcascade_frontalface_default.xml")
    haar = tmp_path / f"{NAME}.xml"
    shutil.copy(cascade, haar)
    yolo = renamed(save_onnx(tmp_path / "yolo.onnx", [random_head(5)]))
    build_detector(config("haar", file=str(haar)))(picture())
    build_detector(config("yolo", file=str(yolo)))(picture())


@pytest.mark.shared
@pytest.mark.parametrize("backend", ["opencv", "openvino"])
def test_yunet_file(tmp_path: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    path = tmp_path / f"{NAME}.onnx"
    shutil.copy(shared(YUNET), path)
    build_detector(config("yunet", file=str(path), backend=backend))(picture())


@pytest.mark.shared
def test_ssd_files(tmp_path: Path) -> None:
    for suffix in (".pb", ".pbtxt"):
        shutil.copy(
            shared(MODELS / f"opencv_face_detector_uint8{suffix}"), tmp_path / (NAME + suffix)
        )
    build_detector(config("ssd", file=str(tmp_path / f"{NAME}.pb")))(picture())


def test_predict_reads_prints_and_writes_such_names(tmp_path: Path) -> None:
    """The log stopped at the second photo."""
    photos = tmp_path / f"photos {NAME}"
    photos.mkdir()
    for name in ("a", NAME, "z"):
        Image.fromarray(np.full((60, 60, 3), 90, np.uint8)).save(photos / f"{name}.png")
    arguments = [f"source={photos}", f"save={NAME}", f"out=out {NAME}", "detector=full_frame"]
    done = command(*arguments, module="emotion_lab.predict", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = ["a.png", f"{NAME}.png", "z.png"]
    rows = lines(tmp_path / f"out {NAME}" / "predictions.jsonl")
    assert [row["source"] for row in rows] == names
    assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == [
        f"{name}.png" for name in names
    ]
    assert f"{NAME}.png: " in done.stdout and done.stdout.endswith(f"out {NAME}\n")


def test_one_photo_is_saved_to_such_a_name(tmp_path: Path) -> None:
    """OpenCV ended the process with a segmentation fault."""
    sink = ImageFileSink(tmp_path / f"{NAME}.jpg")
    sink.write(frame(), result(), picture())
    assert (tmp_path / f"{NAME}.jpg").stat().st_size > 0


class Model:
    classes = ("sad", "happy")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        assert image.shape == (60, 60, 3) and image[0, 0].tolist() == [10, 90, 200]
        return np.array([0.25, 0.75])


def test_loader_reads_and_prints_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / f"{NAME}.png"
    Image.fromarray(np.full((60, 60, 3), (10, 90, 200), np.uint8)).save(image)
    monkeypatch.setattr(loader, "load", lambda path: Model())
    monkeypatch.setattr(sys, "argv", ["loader", "model.onnx", str(image)])
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, "utf-8", write_through=True))
    loader.main()
    assert data.getvalue() == os.fsencode(image) + b" happy 0.750\n"
