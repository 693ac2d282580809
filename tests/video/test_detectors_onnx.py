"""YOLO and SCRFD: their layouts decode as an independent reading does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors import retinaface, yolo
from emotion_lab.video.detectors.common import build_detector
from tests.helpers_detectors import CELLS, PLACES, SIDE, config, one_line, random_head, save_onnx

# --- yolo -----------------------------------------------------------------------------------------


def reference(
    head: np.ndarray, ratio: float, left: float, top: float, score: float, overlap: float, each: int
) -> list[tuple]:
    """Read a (1, C, places) head place by place, in plain Python."""
    faces = []
    for cx, cy, w, h, chance, *points in head[0].T.tolist():
        if chance < score:
            continue
        x, y = (cx - w / 2 - left) / ratio, (cy - h / 2 - top) / ratio
        five = [
            ((points[i * each] - left) / ratio, (points[i * each + 1] - top) / ratio)
            for i in range(5 if each else 0)
        ]
        faces.append((chance, (x, y, w / ratio, h / ratio), five))
    faces.sort(reverse=True)
    kept: list[tuple] = []
    for face in faces:
        x, y, w, h = face[1]
        for _, (x2, y2, w2, h2), _ in kept:
            shared_area = max(0, min(x + w, x2 + w2) - max(x, x2)) * max(
                0, min(y + h, y2 + h2) - max(y, y2)
            )
            if shared_area / (w * h + w2 * h2 - shared_area) > overlap:
                break
        else:
            kept.append(face)
    return kept


@pytest.mark.parametrize("each", [0, 2, 3])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("runtime", ["onnxruntime", "opencv"])
def test_yolo_heads_against_plain_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int, turned: bool, runtime: str
) -> None:
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    head = random_head(5 + 5 * each)
    # Landmark confidences must not be taken for places.
    meta = {"names": {0: "face"}, "task": "pose"}
    if each:
        meta["kpt_shape"] = [5, each]
    output = head.transpose(0, 2, 1) if turned else head
    path = save_onnx(tmp_path / "face.onnx", [output], **meta)
    detector = build_detector(config("yolo", file=str(path), size=SIDE, score_threshold=0.6, nms_threshold=0.3))
    # 100 x 50 on 64 x 64: scaled by 0.64 to 64 x 32, 16 rows of grey above and below.
    found = detector(np.zeros((50, 100, 3), np.uint8))
    # A box whose centre lies in the grey bars is left out before doubles are.
    assert len(found) >= 5
    np.testing.assert_allclose(found.scores, sorted(found.scores, reverse=True))
    inside = head.copy()
    cx, cy = inside[0, 0] / 0.64, (inside[0, 1] - 16) / 0.64
    inside[0, 4, (cx < 0) | (cx > 100) | (cy < 0) | (cy > 50)] = 0
    wanted = reference(inside, 0.64, 0, 16, 0.6, 0.3, each)
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found.scores, [f[0] for f in wanted], atol=1e-5)
    np.testing.assert_allclose(found.boxes, [f[1] for f in wanted], atol=1e-3)
    if each:
        np.testing.assert_allclose(found.landmarks, [f[2] for f in wanted], atol=1e-3)
    else:
        assert found.landmarks is None


def test_yolo_end_to_end_rows(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    rows = np.zeros((1, 300, 21), np.float32)
    rows[0, 0] = [8, 16, 24, 32, 0.9, 0, *np.arange(15)]
    rows[0, 1] = [9, 16, 25, 32, 0.8, 0, *np.arange(15)]  # the export has suppressed already
    rows[0, 2] = [40, 20, 60, 40, 0.3, 0, *np.arange(15)]
    meta = {"names": {0: "face"}, "kpt_shape": [5, 3]}
    path = save_onnx(tmp_path / "end.onnx", [rows], **meta)
    found = build_detector(config("yolo", file=str(path)))(np.zeros((128, 128, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[16, 32, 32, 32], [18, 32, 32, 32]], atol=1e-4)
    expected = np.arange(15).reshape(5, 3)[:, :2] * 2
    np.testing.assert_allclose(found.landmarks[0], expected, atol=1e-4)
    # Two classes, of which one is a face.
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = [8, 16, 24, 32, 0.9, 0]
    rows[0, 1] = [30, 20, 50, 40, 0.8, 1]
    path = save_onnx(tmp_path / "two.onnx", [rows], names={0: "body", 1: "Face"})
    found = build_detector(config("yolo", file=str(path)))(np.zeros((64, 64, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[30, 20, 20, 20]], atol=1e-4)


def test_yolo_raw_heads_against_torch() -> None:
    rng = np.random.default_rng(1)
    heads = [rng.normal(size=(1, 80, n, n)).astype(np.float32) for _, n in CELLS]
    joined = yolo.join_heads(heads, SIDE, 1)
    assert joined.shape == (20, PLACES)
    place = 0
    for head, (stride, n) in zip(heads, CELLS, strict=True):
        for y in range(n):
            for x in range(n):
                values = torch.tensor(head[0, :, y, x])
                sides = values[:64].view(4, 16).softmax(1) @ torch.arange(16.0) * stride
                cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                left, top, right, bottom = (
                    cx - sides[0],
                    cy - sides[1],
                    cx + sides[2],
                    cy + sides[3],
                )
                box = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
                np.testing.assert_allclose(joined[:4, place], box, rtol=1e-4, atol=1e-3)
                chances = values[[64, *range(67, 80, 3)]].sigmoid()
                np.testing.assert_allclose(joined[[4, 7, 10, 13, 16, 19], place], chances, 1e-4)
                across = (values[65::3] * 2 + x) * stride
                down = (values[66::3] * 2 + y) * stride
                np.testing.assert_allclose(joined[5::3, place], across, rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(joined[6::3, place], down, rtol=1e-4, atol=1e-4)
                place += 1


def test_yolo_is_fed_rgb_between_grey_bars(tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "face.onnx", [random_head(5)], names={0: "face"})
    detector = build_detector(config("yolo", file=str(path), size=SIDE))
    image = np.zeros((32, 64, 3), np.uint8)
    image[:] = [255, 51, 0]
    blobs = []
    detector.net.run = lambda blob: [blobs.append(blob), random_head(5)][1:]
    detector(image)
    assert blobs[0].shape == (1, 3, 64, 64) and blobs[0].dtype == np.float32
    np.testing.assert_allclose(blobs[0][0, :, 32, 32], [1.0, 0.2, 0.0], atol=1e-6)
    np.testing.assert_allclose(blobs[0][0, :, 3, 3], [114 / 255] * 3, atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "meta", "text"),
    [
        ([(1, 3 * PLACES, 16)], {}, "cannot read outputs of shapes"),  # YOLOv5-face
        ([(1, 80, 8, 8), (1, 80, 4, 4)], {}, "cannot read outputs of shapes"),
        ([(1, 84, 84)], {"names": {i: f"thing{i}" for i in range(80)}}, "is a face"),
        ([(1, 11, PLACES)], {}, "do not add up"),
        ([(1, 37, PLACES)], {"names": {0: "face"}, "task": "segment"}, "task is segment"),
    ],
)
def test_yolo_refuses_what_it_cannot_read(
    tmp_path: Path, shapes: list, meta: dict, text: str
) -> None:
    pytest.importorskip("onnxruntime")
    path = save_onnx(tmp_path / "net.onnx", [np.zeros(s, np.float32) for s in shapes], **meta)
    with pytest.raises(UserError) as error:
        build_detector(config("yolo", file=str(path)))
    assert text in one_line(error) and "detector=yolo needs" in str(error.value)


@pytest.mark.parametrize("runtime", ["onnxruntime", "opencv"])
def test_a_broken_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    for name in ("yolo", "retinaface"):
        with pytest.raises(UserError) as error:
            build_detector(config(name, file=str(tmp_path / "broken.onnx")))
        assert "cannot be read as an ONNX network" in one_line(error)


# --- scrfd ----------------------------------------------------------------------------------------


def scrfd_maps(faces: list[tuple], side: int, anchors: int = 2) -> list[np.ndarray]:
    """Write faces (score, corners, five points) into maps, each at its nearest place."""
    scores, sides, points = [], [], []
    for stride in (8, 16, 32):
        n = side // stride
        scores.append(np.zeros((n * n * anchors, 1)))
        sides.append(np.zeros((n * n * anchors, 4)))
        points.append(np.zeros((n * n * anchors, 10)))
    for i, (score, (x1, y1, x2, y2), five) in enumerate(faces):
        level = i % 3
        stride = (8, 16, 32)[level]
        column, row = round((x1 + x2) / 2 / stride), round((y1 + y2) / 2 / stride)
        place = (row * (side // stride) + column) * anchors + i % anchors
        x, y = column * stride, row * stride
        scores[level][place] = score
        sides[level][place] = np.array([x - x1, y - y1, x2 - x, y2 - y]) / stride
        points[level][place] = ((np.array(five) - [x, y]) / stride).reshape(-1)
    return [m.astype(np.float32) for m in scores + sides + points]


@pytest.mark.parametrize("anchors", [1, 2])
@pytest.mark.parametrize("landmarks", [True, False])
def test_retinaface_reads_back_what_was_written(
    tmp_path: Path, anchors: int, landmarks: bool
) -> None:
    pytest.importorskip("onnxruntime")
    five = [(30.0, 30), (50, 31), (40, 40), (32, 50), (48, 52)]
    faces = [
        (0.9, (20.0, 18.0, 60.0, 66.0), five),
        (0.8, (80.0, 70.0, 120.0, 122.0), [(x + 60, y + 50) for x, y in five]),
        (0.7, (20.0, 80.0, 52.0, 118.0), [(x, y + 60) for x, y in five]),
    ]
    maps = scrfd_maps(faces, 128, anchors)[: 9 if landmarks else 6]
    # The order in the file is no matter: shapes tell the maps apart. Older files have a batch.
    maps = [m[None] if i % 2 else m for i, m in enumerate(maps[::-1])]
    path = save_onnx(tmp_path / "scrfd.onnx", maps, side=128)
    found = build_detector(config("retinaface", file=str(path)))(np.zeros((256, 200, 3), np.uint8))
    assert len(found) == 3
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.7], atol=1e-6)
    # Top left on the canvas, half the size.
    for box, (_, (x1, y1, x2, y2), _) in zip(found.boxes, faces, strict=True):
        np.testing.assert_allclose(box, np.array([x1, y1, x2 - x1, y2 - y1]) * 2, atol=1e-3)
    if landmarks:
        expected = [np.array(points) * 2 for _, _, points in faces]
        np.testing.assert_allclose(found.landmarks, expected, atol=1e-3)
    else:
        assert found.landmarks is None


def test_retinaface_is_fed_rgb_about_zero_and_refuses_other_files(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = save_onnx(tmp_path / "scrfd.onnx", scrfd_maps([], 128), side=128)
    detector = build_detector(config("retinaface", file=str(path)))
    blobs = []
    detector.net.run = lambda blob: blobs.append(blob) or scrfd_maps([], 128)
    image = np.zeros((128, 64, 3), np.uint8)
    image[:, :] = [255, 127, 0]
    assert len(detector(image)) == 0
    np.testing.assert_allclose(
        blobs[0][0, :, 5, 5], [127.5 / 128, -0.5 / 128, -127.5 / 128], atol=1e-6
    )
    np.testing.assert_allclose(blobs[0][0, :, 5, 100], [-127.5 / 128] * 3, atol=1e-6)
    path = save_onnx(tmp_path / "yolo.onnx", [random_head(5)], names={0: "face"})
    with pytest.raises(UserError) as error:
        build_detector(config("retinaface", file=str(path)))
    assert "not the 6 or 9 maps" in one_line(error)
    assert retinaface.STRIDES == (8, 16, 32)
