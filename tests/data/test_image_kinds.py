"""Kinds of image files that training and prediction read."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from emotion_lab.core.errors import UserError
from emotion_lab.data.datasets import image_folder
from emotion_lab.data.images import check_file, is_image_name, read_image
from emotion_lab.video.sources.open import ImageReader

FORMATS = {
    **{"a.TIFF": "TIFF", "a.tif": "TIFF", "a.gif": "GIF", "a.jfif": "JPEG", "a.jpe": "JPEG"},
    **{"a.webp": "WEBP", "a.bmp": "BMP", "a.pgm": "PPM", "a.png": "PNG", "a.apng": "PNG"},
    **{"a.avif": "AVIF", "a.jp2": "JPEG2000"},
}
#: Format -> Pillow's name of its library, for the formats that a build of Pillow may lack.
OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
#: The first bytes of a HEIC file of a telephone.
HEIC = b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heicmiaf" + bytes(64)


def ramp() -> np.ndarray:
    return np.tile(np.arange(0, 240, 8, dtype=np.uint8), (30, 1))


@pytest.mark.parametrize("name", FORMATS)
def test_training_and_prediction_read_the_same_kinds(tmp_path: Path, name: str) -> None:
    library = OPTIONAL.get(FORMATS[name])
    if library and not features.check(library):
        pytest.skip(f"this Pillow is built without {FORMATS[name]}")
    for folder in ("happy", "sad"):
        (tmp_path / folder).mkdir()
        with (tmp_path / folder / name).open("wb") as stream:
            Image.fromarray(ramp()).save(stream, FORMATS[name])
    split = image_folder.load({"path": str(tmp_path)}, ("train",)).splits["train"]
    assert split.names == [f"happy/{name}", f"sad/{name}"]
    photo = next(ImageReader(tmp_path).frames(threading.Event())).image
    for image in (split.image(0), photo):
        assert np.abs(image.astype(int).mean(axis=2) - ramp()).max() <= 6


def test_the_first_frame_of_a_gif_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (200, 90, 10)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.unique(read_image(tmp_path / "a.gif")).tolist() == [200]


@pytest.mark.skipif(".heic" in Image.registered_extensions(), reason="pillow-heif is installed")
def test_heic_without_its_package_names_the_package(tmp_path: Path) -> None:
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(HEIC)
    assert is_image_name(path)
    assert "pip install pillow-heif" in str(check_file(path))
    with pytest.raises(UserError, match=r"IMG_0001.HEIC is a HEIC image.*pip install pillow-heif"):
        read_image(path)
