"""YuNet: decoding, and equal results of both backends."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors import build_detector, yunet
from tests.helpers_detectors import PHOTOS, YUNET, config, photo, shared


def maps(width: int, height: int) -> dict[str, np.ndarray]:
    """Return the output maps of an image without faces."""
    cells = {stride: (width // stride) * (height // stride) for stride in yunet.STRIDES}
    sizes = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    return {
        f"{name}_{stride}": np.zeros((1, count, size), np.float32)
        for stride, count in cells.items()
        for name, size in sizes.items()
    }


def test_decode_maps_cells_to_pixels() -> None:
    outputs = maps(96, 64)
    # The map of stride 16 has six columns: cell 8 is column 2 of row 1.
    outputs["cls_16"][0, 8], outputs["obj_16"][0, 8] = 0.9, 0.4
    outputs["bbox_16"][0, 8] = [0.5, 0.25, np.log(2), np.log(3)]
    outputs["kps_16"][0, 8] = np.arange(10) / 10
    corners, scores, landmarks = yunet.decode(outputs, 96, 0.5)
    np.testing.assert_allclose(scores, [0.6], atol=1e-6)
    np.testing.assert_allclose(corners, [[40 - 16, 20 - 24, 40 + 16, 20 + 24]], atol=1e-5)
    expected = (np.arange(10).reshape(5, 2) / 10 + [2, 1]) * 16
    np.testing.assert_allclose(landmarks.reshape(5, 2), expected, atol=1e-5)
    assert len(yunet.decode(outputs, 96, 0.61)[0]) == 0


def test_missing_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    file = tmp_path / "any.onnx"
    file.write_bytes(b"any")
    with pytest.raises(UserError, match=r"openvino is not installed.*detector\.backend=opencv"):
        build_detector(config("yunet", file=str(file), sha256=None, backend="openvino"))
    with pytest.raises(UserError, match="not a YuNet model that opencv can read"):
        build_detector(config("yunet", file=str(file), sha256=None))


@pytest.mark.parametrize("backend", ["opencv", "openvino"])
def test_corrupt_file(tmp_path: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    file = tmp_path / "any.onnx"
    file.write_bytes(b"any")
    with pytest.raises(UserError, match=f"not a YuNet model that {backend} can read"):
        build_detector(config("yunet", file=str(file), sha256=None, backend=backend))


@pytest.mark.shared
@pytest.mark.parametrize("size", [320, 640])
def test_both_backends_find_the_same_faces(size: int) -> None:
    pytest.importorskip("openvino")
    file = str(shared(YUNET))
    opencv, openvino = (
        build_detector(config("yunet", file=file, size=size, backend=name))
        for name in ("opencv", "openvino")
    )
    for name in PHOTOS:
        image = photo(name)
        for crop in (image, image[:, : image.shape[1] // 2], image[: image.shape[0] // 2]):
            expected, detections = opencv(crop), openvino(crop)
            assert len(detections) == len(expected), name
            np.testing.assert_allclose(detections.boxes, expected.boxes, atol=0.05)
            np.testing.assert_allclose(detections.scores, expected.scores, atol=1e-3)
            np.testing.assert_allclose(detections.landmarks, expected.landmarks, atol=0.05)


@pytest.mark.shared
def test_photos_of_alternating_sizes_get_networks_with_the_same_results() -> None:
    """Photos come upright and across; each size is compiled once it has come often."""
    pytest.importorskip("openvino")
    detector = build_detector(config("yunet", file=str(shared(YUNET)), backend="openvino"))
    photos = [photo("six_faces.jpg"), np.ascontiguousarray(photo("two_people.jpg")[:, 60:400])]
    first = [detector(image) for image in photos]
    assert not detector._run._fixed  # type: ignore[attr-defined]
    for _ in range(yunet._REPEATS):
        last = [detector(image) for image in photos]
    assert len(detector._run._fixed) == 2  # type: ignore[attr-defined]
    for one, other in zip(first, last, strict=True):
        assert len(one.boxes)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
