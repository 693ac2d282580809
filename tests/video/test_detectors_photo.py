"""Photos: small faces in large ones, and photos of very many pixels."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.data.images import read_image, read_reduced
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.detectors.photo import PhotoDetector, merge
from emotion_lab.video.sources.open import open_source
from emotion_lab.video.types import Detections
from tests.conftest import command
from tests.helpers_detectors import PHOTOS, YUNET, config, photo, shared
from tests.helpers_sinks import lines


def detections(*rows: tuple[float, ...]) -> Detections:
    array = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(array[:, :4], array[:, 4], np.repeat(array[:, :1], 10, 1).reshape(-1, 5, 2))


def test_two_searches_are_joined() -> None:
    first = detections((0, 0, 100, 100, 0.9), (300, 0, 50, 50, 0.6))
    second = detections((20, 20, 30, 30, 0.7), (302, 1, 50, 50, 0.8), (500, 0, 20, 20, 0.75))
    found = merge(first, second, 100)
    assert found.boxes[:, 0].tolist() == [0, 302, 500]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.75])
    assert found.landmarks is not None and found.landmarks[:, 0, 0].tolist() == [0, 302, 500]
    assert len(merge(first, second, 2)) == 2
    assert len(merge(Detections.none(), Detections.none(), 5)) == 0
    assert len(merge(first, Detections.none(), 5)) == 2


@pytest.mark.shared
@pytest.mark.parametrize("name", PHOTOS)
def test_usual_photos_have_the_same_faces(name: str) -> None:
    detector = build_detector(config("yunet", file=str(shared(YUNET))))
    assert len(PhotoDetector(detector)(photo(name))) == PHOTOS[name]


@pytest.mark.shared
def test_small_and_large_faces_of_a_4k_photo_are_found() -> None:
    """Six faces of 80 pixels: none was found at the default size of 320."""
    detector = build_detector(config("yunet", file=str(shared(YUNET))))
    image = np.full((2160, 3840, 3), 120, np.uint8)
    six = photo("six_faces.jpg")
    sides = detector(six).boxes[:, 2:].max(1)
    six = cv2.resize(six, None, fx=(scale := 80 / np.median(sides)), fy=scale)
    image[1000 : 1000 + six.shape[0], 200 : 200 + six.shape[1]] = six
    large = cv2.resize(photo("one_face.jpg"), (1500, 1500))
    image[300:1800, 2300:3800] = large
    assert len(detector(image)) < 7
    found = PhotoDetector(detector)(image).boxes
    assert len(found) == 7 and (found[:, 0] > 2300).sum() == 1


@pytest.mark.parametrize(("size", "reduced"), [((12000, 9000), 2), ((16320, 12240), 2)])
def test_108_and_200_megapixels_are_read_at_half_size(
    tmp_path: Path, size: tuple[int, int], reduced: int
) -> None:
    path = tmp_path / "photo.jpg"
    image = Image.new("L", size, 90)
    image.paste(200, (0, 0, size[0] // 2, size[1]))
    image.save(
        path,
        exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03"
        b"\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array, factor = read_reduced(path)
    assert factor == reduced and array.shape == (size[0] // 2, size[1] // 2, 1)  # turned
    assert array[10, 10, 0] == 200 and array[-10, 10, 0] == 90


def test_boxes_of_a_reduced_photo_are_those_of_the_file(tmp_path: Path) -> None:
    Image.new("L", (12000, 9000), 90).save(tmp_path / "photo.jpg")
    arguments = ["source=photo.jpg", "detector=full_frame", "out=out"]
    done = command(*arguments, module="emotion_lab.predict", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    (row,) = lines(tmp_path / "out" / "predictions.jsonl")
    assert row["size"] == [12000, 9000] and row["faces"][0]["box"] == [0, 0, 12000, 9000]


def test_other_formats_are_reduced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emotion_lab.data.images.REDUCED_PIXELS", 1000)
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    array, factor = read_reduced(tmp_path / "a.png")
    assert factor == 4 and array.shape == (15, 20, 3)
    mean = picture.reshape(15, 4, 20, 4, 3).mean((1, 3))
    assert np.abs(array - mean).max() <= 1
    with open_source({"source": str(tmp_path / "a.png")}) as source:
        assert next(source).reduced == 4


def test_images_that_would_fill_the_memory_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emotion_lab.data.images._MAX_PIXELS", 1000)
    Image.new("L", (80, 60)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="80 x 60 pixels are too many"):
        read_image(tmp_path / "a.png")
