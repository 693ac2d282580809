"""YuNet's two runtimes find the same faces."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors import yunet
from emotion_lab.video.detectors.common import build_detector
from tests.helpers_detectors import PHOTOS, YUNET, config, photo, shared


def maps(width: int, height: int) -> dict[str, np.ndarray]:
    """Return what a network says that sees no face anywhere."""
    places = {stride: (width // stride) * (height // stride) for stride in yunet.STRIDES}
    sizes = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    return {
        f"{name}_{stride}": np.zeros((1, count, size), np.float32)
        for stride, count in places.items()
        for name, size in sizes.items()
    }


def test_a_place_of_a_map_is_a_place_of_the_image() -> None:
    said = maps(96, 64)
    # The map of stride 16 has six columns: place 8 is column 2 of row 1.
    said["cls_16"][0, 8], said["obj_16"][0, 8] = 0.9, 0.4
    said["bbox_16"][0, 8] = [0.5, 0.25, np.log(2), np.log(3)]
    said["kps_16"][0, 8] = np.arange(10) / 10
    corners, scores, landmarks = yunet.decode(said, 96, 64, 0.5)
    np.testing.assert_allclose(scores, [0.6], atol=1e-6)
    np.testing.assert_allclose(corners, [[40 - 16, 20 - 24, 40 + 16, 20 + 24]], atol=1e-5)
    expected = (np.arange(10).reshape(5, 2) / 10 + [2, 1]) * 16
    np.testing.assert_allclose(landmarks.reshape(5, 2), expected, atol=1e-5)
    assert len(yunet.decode(said, 96, 64, 0.61)[0]) == 0


def test_a_runtime_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    file = tmp_path / "any.onnx"
    file.write_bytes(b"any")
    with pytest.raises(UserError, match="openvino is not installed.*detector.backend=opencv"):
        build_detector(config("yunet", file=str(file), sha256=None, backend="openvino"))
    with pytest.raises(UserError, match="no YuNet model that opencv can read"):
        build_detector(config("yunet", file=str(file), sha256=None))


@pytest.mark.parametrize("runtime", ["opencv", "openvino"])
def test_another_file_is_refused(tmp_path: Path, runtime: str) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    file = tmp_path / "any.onnx"
    file.write_bytes(b"any")
    with pytest.raises(UserError, match=f"no YuNet model that {runtime} can read"):
        build_detector(config("yunet", file=str(file), sha256=None, backend=runtime))


@pytest.mark.shared
@pytest.mark.parametrize("size", [320, 640])
def test_both_runtimes_find_the_same_faces(size: int) -> None:
    pytest.importorskip("openvino")
    file = str(shared(YUNET))
    slow, fast = (
        build_detector(config("yunet", file=file, size=size, backend=name))
        for name in ("opencv", "openvino")
    )
    for name in PHOTOS:
        image = photo(name)
        for shape in (image, image[:, : image.shape[1] // 2], image[: image.shape[0] // 2]):
            expected, found = slow(shape), fast(shape)
            assert len(found) == len(expected), name
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
            np.testing.assert_allclose(found.landmarks, expected.landmarks, atol=0.05)
