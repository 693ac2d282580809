"""YOLO and SCRFD: decoding compared with independent implementations."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors import build_detector, retinaface, yolo
from tests.helpers_detectors import GRIDS, NUM_CELLS, SIDE, config, one_line, random_head, save_onnx

# --- yolo -----------------------------------------------------------------------------------------


def reference(
    head: np.ndarray, ratio: float, left: float, top: float, score: float, iou: float, dims: int
) -> list[tuple]:
    """Decode a head (1, C, cells) cell by cell in plain Python."""
    faces = []
    for cx, cy, w, h, probability, *points in head[0].T.tolist():
        if probability < score:
            continue
        x, y = (cx - w / 2 - left) / ratio, (cy - h / 2 - top) / ratio
        five = [
            ((points[i * dims] - left) / ratio, (points[i * dims + 1] - top) / ratio)
            for i in range(5 if dims else 0)
        ]
        faces.append((probability, (x, y, w / ratio, h / ratio), five))
    faces.sort(reverse=True)
    kept: list[tuple] = []
    for face in faces:
        x, y, w, h = face[1]
        for _, (x2, y2, w2, h2), _ in kept:
            width = max(0, min(x + w, x2 + w2) - max(x, x2))
            intersection = width * max(0, min(y + h, y2 + h2) - max(y, y2))
            if intersection / (w * h + w2 * h2 - intersection) > iou:
                break
        else:
            kept.append(face)
    return kept


@pytest.fixture(params=["onnxruntime", "opencv"])
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with ONNX Runtime, then with OpenCV."""
    if request.param == "onnxruntime":
        pytest.importorskip("onnxruntime")
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("dims", [0, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_yolo_head_matches_plain_python(tmp_path: Path, dims: int, transposed: bool) -> None:
    head = random_head(5 + 5 * dims)
    meta = {"names": {0: "face"}, "task": "pose"}
    if dims:
        meta["kpt_shape"] = [5, dims]
    output = head.transpose(0, 2, 1) if transposed else head
    path = save_onnx(tmp_path / "face.onnx", [output], **meta)
    thresholds = {"score_threshold": 0.6, "nms_threshold": 0.3}
    detector = build_detector(config("yolo", file=str(path), size=SIDE, **thresholds))
    # 100 x 50 on 64 x 64: scaled by 0.64 to 64 x 32, with 16 grey rows above and below.
    detections = detector(np.zeros((50, 100, 3), np.uint8))
    assert len(detections) >= 5
    # Boxes with a centre in the grey bars are removed before suppression.
    inside = head.copy()
    cx, cy = inside[0, 0] / 0.64, (inside[0, 1] - 16) / 0.64
    inside[0, 4, (cx < 0) | (cx > 100) | (cy < 0) | (cy > 50)] = 0
    expected = reference(inside, 0.64, 0, 16, 0.6, 0.3, dims)
    assert len(detections) == len(expected)
    np.testing.assert_allclose(detections.scores, [f[0] for f in expected], atol=1e-5)
    np.testing.assert_allclose(detections.boxes, [f[1] for f in expected], atol=1e-3)
    if dims:
        np.testing.assert_allclose(detections.landmarks, [f[2] for f in expected], atol=1e-3)
    else:
        assert detections.landmarks is None


def test_yolo_output_with_built_in_nms(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    rows = np.zeros((1, 300, 21), np.float32)
    rows[0, 0] = [8, 16, 24, 32, 0.9, 0, *np.arange(15)]
    rows[0, 1] = [9, 16, 25, 32, 0.8, 0, *np.arange(15)]  # not suppressed again
    rows[0, 2] = [40, 20, 60, 40, 0.3, 0, *np.arange(15)]
    meta = {"names": {0: "face"}, "kpt_shape": [5, 3]}
    path = save_onnx(tmp_path / "end.onnx", [rows], **meta)
    detections = build_detector(config("yolo", file=str(path)))(np.zeros((128, 128, 3), np.uint8))
    np.testing.assert_allclose(detections.boxes, [[16, 32, 32, 32], [18, 32, 32, 32]], atol=1e-4)
    expected = np.arange(15).reshape(5, 3)[:, :2] * 2
    np.testing.assert_allclose(detections.landmarks[0], expected, atol=1e-4)
    # Two classes, one of them a face.
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = [8, 16, 24, 32, 0.9, 0]
    rows[0, 1] = [30, 20, 50, 40, 0.8, 1]
    path = save_onnx(tmp_path / "two.onnx", [rows], names={0: "body", 1: "Face"})
    detections = build_detector(config("yolo", file=str(path)))(np.zeros((64, 64, 3), np.uint8))
    np.testing.assert_allclose(detections.boxes, [[30, 20, 20, 20]], atol=1e-4)


def test_yolo_raw_heads_match_torch() -> None:
    rng = np.random.default_rng(1)
    heads = [rng.normal(size=(1, 80, n, n)).astype(np.float32) for _, n in GRIDS]
    joined = yolo.join_heads(heads, SIDE, 1)
    assert joined.shape == (20, NUM_CELLS)
    cell = 0
    for head, (stride, n) in zip(heads, GRIDS, strict=True):
        for y in range(n):
            for x in range(n):
                values = torch.tensor(head[0, :, y, x])
                sides = values[:64].view(4, 16).softmax(1) @ torch.arange(16.0) * stride
                cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                left, top = cx - sides[0], cy - sides[1]
                right, bottom = cx + sides[2], cy + sides[3]
                box = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
                np.testing.assert_allclose(joined[:4, cell], box, rtol=1e-4, atol=1e-3)
                probabilities = values[[64, *range(67, 80, 3)]].sigmoid()
                np.testing.assert_allclose(
                    joined[[4, 7, 10, 13, 16, 19], cell], probabilities, 1e-4
                )
                xs = (values[65::3] * 2 + x) * stride
                ys = (values[66::3] * 2 + y) * stride
                np.testing.assert_allclose(joined[5::3, cell], xs, rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(joined[6::3, cell], ys, rtol=1e-4, atol=1e-4)
                cell += 1


def test_yolo_input_is_rgb_with_grey_padding(tmp_path: Path) -> None:
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
        ([(1, 3 * NUM_CELLS, 16)], {}, "cannot read outputs of shapes"),  # YOLOv5-face
        ([(1, 80, 8, 8), (1, 80, 4, 4)], {}, "cannot read outputs of shapes"),
        ([(1, 84, 84)], {"names": {i: f"thing{i}" for i in range(80)}}, "is a face"),
        ([(1, 11, NUM_CELLS)], {}, "are not 4 of the box"),
        ([(1, 37, NUM_CELLS)], {"names": {0: "face"}, "task": "segment"}, "task is segment"),
    ],
)
def test_yolo_unsupported_layout_is_an_error(
    tmp_path: Path, shapes: list, meta: dict, text: str
) -> None:
    pytest.importorskip("onnxruntime")
    path = save_onnx(tmp_path / "net.onnx", [np.zeros(s, np.float32) for s in shapes], **meta)
    with pytest.raises(UserError) as error:
        build_detector(config("yolo", file=str(path)))
    assert text in one_line(error) and "detector=yolo needs" in str(error.value)


@pytest.mark.usefixtures("runtime")
def test_corrupt_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    for name in ("yolo", "retinaface"):
        with pytest.raises(UserError) as error:
            build_detector(config(name, file=str(tmp_path / "broken.onnx")))
        assert "cannot be read as an ONNX network" in one_line(error)


# --- scrfd ----------------------------------------------------------------------------------------


def scrfd_maps(faces: list[tuple], side: int, anchors: int = 2) -> list[np.ndarray]:
    """Encode faces (score, corners, five points) in maps, each in its nearest cell."""
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
        cell = (row * (side // stride) + column) * anchors + i % anchors
        x, y = column * stride, row * stride
        scores[level][cell] = score
        sides[level][cell] = np.array([x - x1, y - y1, x2 - x, y2 - y]) / stride
        points[level][cell] = ((np.array(five) - [x, y]) / stride).reshape(-1)
    return [m.astype(np.float32) for m in scores + sides + points]


@pytest.mark.parametrize("anchors", [1, 2])
@pytest.mark.parametrize("landmarks", [True, False])
def test_retinaface_decodes_encoded_faces(tmp_path: Path, anchors: int, landmarks: bool) -> None:
    pytest.importorskip("onnxruntime")
    five = [(30.0, 30), (50, 31), (40, 40), (32, 50), (48, 52)]
    faces = [
        (0.9, (20.0, 18.0, 60.0, 66.0), five),
        (0.8, (80.0, 70.0, 120.0, 122.0), [(x + 60, y + 50) for x, y in five]),
        (0.7, (20.0, 80.0, 52.0, 118.0), [(x, y + 60) for x, y in five]),
    ]
    maps = scrfd_maps(faces, 128, anchors)[: 9 if landmarks else 6]
    # Any order is accepted; older files have a batch dimension.
    maps = [m[None] if i % 2 else m for i, m in enumerate(maps[::-1])]
    path = save_onnx(tmp_path / "scrfd.onnx", maps, side=128)
    detections = build_detector(config("retinaface", file=str(path)))(
        np.zeros((256, 200, 3), np.uint8)
    )
    assert len(detections) == 3
    np.testing.assert_allclose(detections.scores, [0.9, 0.8, 0.7], atol=1e-6)
    # The image is at the top left of the canvas, at half the size.
    for box, (_, (x1, y1, x2, y2), _) in zip(detections.boxes, faces, strict=True):
        np.testing.assert_allclose(box, np.array([x1, y1, x2 - x1, y2 - y1]) * 2, atol=1e-3)
    if landmarks:
        expected = [np.array(points) * 2 for _, _, points in faces]
        np.testing.assert_allclose(detections.landmarks, expected, atol=1e-3)
    else:
        assert detections.landmarks is None


def test_retinaface_input_and_unsupported_layout(tmp_path: Path) -> None:
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
