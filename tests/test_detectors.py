"""Detectors: boxes come back to where they were, layouts decode as an independent reading does."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from torchvision.ops import box_iou, nms

from emotion_lab.config import CONF
from emotion_lab.data.images import read_image
from emotion_lab.data.synthetic_video import render_video
from emotion_lab.errors import UserError
from emotion_lab.faces import detect
from emotion_lab.faces.base import DETECTORS, Detections
from emotion_lab.faces.detect import build_detector, collect, letterbox, shrink, suppress
from emotion_lab.faces.detectors import mtcnn, retinaface, ssd, yolo
from tests.conftest import SHARED

MODELS, MEDIA = SHARED / "detectors", SHARED / "media"
YUNET = MODELS / "face_detection_yunet_2023mar.onnx"
PHOTOS = {
    "six_faces.jpg": 6,
    "two_people.jpg": 2,
    "one_face.jpg": 1,
    "one_face_rgba.png": 1,
    "no_faces.jpg": 0,
}


def config(name: str, **values: Any) -> dict[str, Any]:
    """Return conf/detector/<name>.yaml with its base, as Hydra would compose it."""
    own = yaml.safe_load((CONF / "detector" / f"{name}.yaml").read_text(encoding="utf-8"))
    base = {}
    if own.pop("defaults", None):
        base = yaml.safe_load((CONF / "detector" / "base.yaml").read_text(encoding="utf-8"))
    unknown = values.keys() - {*base, *own}
    assert not unknown, unknown
    return {**base, **own, **values}


def shared(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not here (the shared material lies beside the checkout)")
    return path


def photo(name: str) -> np.ndarray:
    return read_image(shared(MEDIA / name))


def iou(a: Detections, b: Detections) -> np.ndarray:
    first, second = (
        torch.tensor(np.hstack([d.boxes[:, :2], d.boxes[:, :2] + d.boxes[:, 2:]])) for d in (a, b)
    )
    return box_iou(first, second).numpy()


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    return text


def test_every_yaml_has_its_detector_and_the_other_way_round() -> None:
    names = sorted(p.stem for p in (CONF / "detector").glob("*.yaml") if p.stem != "base")
    assert names == DETECTORS.names()
    assert all(config(name)["name"] == name for name in names)
    with pytest.raises(UserError, match="Unknown detector 'yunett'. Did you mean 'yunet'?"):
        build_detector({"name": "yunett"})


# --- fitting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (48, 48), (1, 2000), (720, 1280), (777, 333)])
@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("enlarge", [True, False])
def test_letterbox_brings_points_back(shape: tuple, centre: bool, enlarge: bool) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    fitted = letterbox(image, 320, 256, pad=7, centre=centre, enlarge=enlarge)
    assert fitted.image.shape == (256, 320, 3)
    inside = (fitted.image != 7).all(axis=2)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    corners = [[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]
    # The corners of what is seen are the corners of the source.
    np.testing.assert_allclose(
        fitted.back(np.array(corners)), [[0, 0], [shape[1], shape[0]]], atol=1e-3
    )
    if not enlarge:
        assert inside.sum() <= shape[0] * shape[1]
    elif min(shape) > 1:
        assert len(columns) == 320 or len(rows) == 256
    if centre:
        assert abs(columns[0] - (319 - columns[-1])) <= 1


def test_shrink_never_enlarges_unless_asked_and_pads_to_a_multiple() -> None:
    image = np.full((90, 160, 3), 50, np.uint8)
    assert shrink(image, 320).image is image or shrink(image, 320).image.shape == image.shape
    assert shrink(image, 320, enlarge=True).image.shape == (180, 320, 3)
    assert shrink(image, 80).image.shape == (45, 80, 3)
    padded = shrink(image, 80, multiple=32)
    assert padded.image.shape == (64, 96, 3)
    assert (padded.image[45:] == 0).all() and (padded.image[:45, :80] == 50).all()
    assert shrink(image, None).image.shape == image.shape


def test_fitting_takes_views_and_huge_frames() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (100, 140, 3), dtype=np.uint8)
    flipped = image[:, ::-1]
    assert not flipped.flags.c_contiguous
    expected = shrink(np.ascontiguousarray(flipped), 70).image
    np.testing.assert_array_equal(shrink(flipped, 70).image, expected)
    huge = np.zeros((4320, 7680, 3), np.uint8)
    fitted = shrink(huge, 320)
    assert fitted.image.shape == (180, 320, 3)
    np.testing.assert_allclose(fitted.back(np.array([320, 180])), [7680, 4320])


# --- boxes --------------------------------------------------------------------------------------


def some_boxes(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    boxes = np.hstack([rng.uniform(0, 80, (n, 2)), rng.uniform(10, 40, (n, 2))])
    return boxes.astype(np.float32), rng.permutation(n).astype(np.float32) / n


def test_suppress_agrees_with_torchvision() -> None:
    boxes, scores = some_boxes()
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    for overlap in (0.2, 0.45, 0.8):
        expected = nms(torch.tensor(corners), torch.tensor(scores), overlap).numpy()
        np.testing.assert_array_equal(suppress(boxes, scores, overlap), expected)
    assert len(suppress(boxes[:0], scores[:0], 0.5)) == 0


def test_collect_sorts_caps_and_leaves_out_what_is_no_face() -> None:
    fitted = letterbox(np.zeros((100, 200, 3), np.uint8), 400, 200, enlarge=True)  # twice
    corners = np.array(
        [
            [20, 20, 60, 60],  # 2nd
            [100, 40, 180, 120],  # best
            [102, 40, 180, 120],  # its double
            [-10, 100, 50, 160],  # over the border: kept whole
            [300, 20, 280, 60],  # inside out
            [390, 20, 480, 60],  # centre outside
            [np.nan, 0, 10, 10],
            [0, 0, np.inf, 10],
            [200, 20, 240, 60],  # too weak
        ]
    )
    scores = np.array([0.7, 0.9, 0.8, 0.6, 0.99, 0.99, 0.99, 0.99, 0.4])
    points = np.repeat(corners[:, None, :2], 5, axis=1)
    cfg = {"score": 0.5, "nms": 0.5, "max_faces": 10}
    found = collect(fitted, corners, scores, points, cfg)
    np.testing.assert_allclose(
        found.boxes, [[50, 20, 40, 40], [10, 10, 20, 20], [-5, 50, 30, 30]], atol=1e-4
    )
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.6], atol=1e-6)
    np.testing.assert_allclose(found.landmarks[:, 3], [[50, 20], [10, 10], [-5, 50]], atol=1e-4)
    assert found.boxes.dtype == found.scores.dtype == found.landmarks.dtype == np.float32
    assert len(collect(fitted, corners, scores, None, cfg, nms=False)) == 4
    assert len(collect(fitted, corners, scores, None, {**cfg, "max_faces": 1})) == 1
    empty = collect(fitted, corners[:0], scores[:0], points[:0], cfg)
    assert len(empty) == 0 and empty.boxes.shape == (0, 4)


def test_full_frame_is_the_frame() -> None:
    found = build_detector(config("full_frame"))(np.zeros((30, 50, 3), np.uint8))
    assert found.boxes.tolist() == [[0, 0, 50, 30]] and found.scores.tolist() == [1.0]
    assert found.boxes.dtype == np.float32 and found.landmarks is None


# --- files --------------------------------------------------------------------------------------


def test_missing_files_are_told_in_one_line(tmp_path: Path) -> None:
    for name in ("yolo", "retinaface", "ssd", "mtcnn"):
        with pytest.raises(UserError) as error:
            build_detector(config(name))
        assert f"detector={name} needs" in one_line(error) and "detector.file=" in str(error.value)
        with pytest.raises(UserError) as error:
            build_detector(config(name, file=str(tmp_path / "absent.onnx")))
        assert "No file at" in one_line(error) and "detector.file=" in str(error.value)
    with pytest.raises(UserError, match="is a folder"):
        build_detector(config("yolo", file=str(tmp_path)))


def test_a_wrong_hash_is_refused_and_can_be_waived(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(UserError) as error:
        build_detector(config("yunet", file=str(file)))
    assert found[:16] in one_line(error) and "detector.sha256=null" in str(error.value)
    with pytest.raises(UserError, match="is no YuNet model"):
        build_detector(config("yunet", file=str(file), sha256=None))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_file_is_fetched_once_and_verified(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "net.onnx"
    source.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    cfg = {"name": "yunet", "file": None, "sha256": right}
    path = detect.find_file(cfg, "the net", source.as_uri())
    assert path == cache / "net.onnx" and path.read_bytes() == b"weights"
    source.unlink()
    assert detect.find_file(cfg, "the net", source.as_uri()) == path  # from the cache
    # A damaged copy is fetched again; what comes must be right, or nothing is put there.
    path.write_bytes(b"damaged")
    source.write_bytes(b"weights")
    assert detect.find_file(cfg, "the net", source.as_uri()).read_bytes() == b"weights"
    path.unlink()
    source.write_bytes(b"a proxy's login page")
    with pytest.raises(UserError, match="did not send the file expected"):
        detect.find_file(cfg, "the net", source.as_uri())
    assert list(cache.iterdir()) == []


def test_no_network_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_lab.faces.detectors import yunet

    monkeypatch.setattr(yunet, "URL", "http://127.0.0.1:9/face_detection_yunet_2023mar.onnx")
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        build_detector(config("yunet"))
    assert time.monotonic() - start < 20
    text = one_line(error)
    assert "Fetch http://127.0.0.1:9/face_detection" in text and "detector.file=<path>" in text
    assert not cache.exists()


# --- haar ---------------------------------------------------------------------------------------


def test_haar_finds_the_drawn_face(tmp_path: Path) -> None:
    if not hasattr(cv2, "CascadeClassifier"):
        pytest.skip("this OpenCV has no Haar cascades")
    path = tmp_path / "face.mp4"
    render_video(path, [(0.4, "happy"), (0.4, "neutral")], fps=10, size=(480, 270))
    video, found, frames = cv2.VideoCapture(str(path)), 0, 0
    detector = build_detector(config("haar", size=320))
    while True:
        ok, frame = video.read()
        if not ok:
            break
        frames += 1
        faces = detector(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        if len(faces):
            x, y, w, h = faces.boxes[0]
            # The drawn head is about half as high as the frame, and near its middle.
            found += abs(x + w / 2 - 240) < 60 and abs(y + h / 2 - 135) < 45 and 60 < h < 200
            assert 0 < faces.scores[0] < 1
    assert frames == 8 and found >= 6
    assert len(detector(np.zeros((1, 1, 3), np.uint8))) == 0
    assert len(detector(np.zeros((50, 700, 3), np.uint8)[:, ::2])) == 0


def test_haar_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(cv2, "CascadeClassifier"):
        build_detector(config("haar", file="haarcascade_frontalface_alt2.xml"))
        bad = tmp_path / "bad.xml"
        bad.write_text("<opencv_storage></opencv_storage>")
        with pytest.raises(UserError, match="is no Haar cascade"):
            build_detector(config("haar", file=str(bad)))
        monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(UserError, match="has no Haar cascades. Set detector=yunet"):
        build_detector(config("haar"))


# --- ssd ----------------------------------------------------------------------------------------


def test_ssd_finds_the_other_file_from_either(tmp_path: Path) -> None:
    for name in ("face_uint8.pb", "face.pbtxt", "other.pbtxt", "res10.caffemodel"):
        (tmp_path / name).write_bytes(b"x")
    pair = (tmp_path / "face_uint8.pb", tmp_path / "face.pbtxt")
    for name in ("face_uint8.pb", "face.pbtxt"):
        assert ssd.find_pair(config("ssd", file=str(tmp_path / name))) == pair
    swapped = config("ssd", file=str(pair[1]), config=str(pair[0]))
    assert ssd.find_pair(swapped) == pair
    with pytest.raises(UserError, match="no .prototxt files beside .*set detector.config="):
        ssd.find_pair(config("ssd", file=str(tmp_path / "res10.caffemodel")))
    with pytest.raises(UserError, match="do not belong together"):
        ssd.find_pair(config("ssd", file=str(tmp_path / "res10.caffemodel"), config=str(pair[1])))
    with pytest.raises(UserError, match="is no SSD model"):
        (tmp_path / "a.onnx").write_bytes(b"x")
        ssd.find_pair(config("ssd", file=str(tmp_path / "a.onnx")))
    with pytest.raises(UserError, match="cannot be read as a network"):
        build_detector(config("ssd", file=str(pair[0])))


#: A Caffe network whose "detections" are the image: 300 x 300 x 3 values, cut to two rows of 7.
CAFFE = """
name: "rows"
layer { name: "data" type: "Input" top: "data"
        input_param { shape { dim: 1 dim: 3 dim: 300 dim: 300 } } }
layer { name: "flat" type: "Reshape" bottom: "data" top: "flat"
        reshape_param { shape { dim: 1 dim: 1 dim: 1 dim: -1 } } }
layer { name: "cut" type: "Slice" bottom: "flat" top: "head" top: "rest"
        slice_param { axis: 3 slice_point: 14 } }
layer { name: "rows" type: "Reshape" bottom: "head" top: "rows"
        reshape_param { shape { dim: 1 dim: 1 dim: 2 dim: 7 } } }
layer { name: "keep" type: "Concat" bottom: "rows" top: "out" concat_param { axis: 2 } }
"""


def test_ssd_reads_caffe_and_feeds_bgr_less_the_mean(tmp_path: Path) -> None:
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV reads no Caffe files")
    (tmp_path / "deploy.prototxt").write_text(CAFFE)
    (tmp_path / "net.caffemodel").write_bytes(b"\x0a\x04rows")  # the name, and no weights
    detector = build_detector(config("ssd", file=str(tmp_path / "net.caffemodel")))
    image = np.zeros((300, 300, 3), np.uint8)
    image[0, :14] = np.arange(14)[:, None] + [100, 50, 110]  # R, G, B
    rows = detector._forward(image).reshape(-1)[:14]
    np.testing.assert_allclose(rows, np.arange(14) + 110 - 104, atol=1e-4)  # the blue plane
    # image, class, score, left, top, right, bottom
    detector._forward = lambda fitted: np.array([[[[0, 1, 0.9, 0.25, 0.5, 0.5, 0.75]]]])
    found = detector(np.zeros((600, 600, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[150, 300, 150, 150]], atol=1e-3)
    assert found.landmarks is None


# --- yolo ---------------------------------------------------------------------------------------

SIDE = 64
CELLS = [(8, 8), (16, 4), (32, 2)]  # stride, cells across
PLACES = sum(n * n for _, n in CELLS)  # 84


def save_onnx(path: Path, outputs: list[np.ndarray], side: int | str = SIDE, **meta: Any) -> Path:
    """Write a network that answers ``outputs`` to every image, with an exporter's metadata."""
    helper = pytest.importorskip("onnx.helper")
    import onnx

    nodes, results = [], []
    for i, output in enumerate(outputs):
        # The image takes part (times 0), so that no runtime folds the input away.
        value = onnx.numpy_helper.from_array(output.astype(np.float32), f"value{i}")
        nodes += [
            helper.make_node("Constant", [], [f"c{i}"], value=value),
            helper.make_node("Add", [f"c{i}", "nothing"], [f"out{i}"]),
        ]
        results.append(helper.make_tensor_value_info(f"out{i}", 1, list(output.shape)))
    zero = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    first = [
        helper.make_node("GlobalMaxPool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Constant", [], ["zero"], value=zero),
        helper.make_node("ReduceMax", ["flat"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "zero"], ["nothing"]),
    ]
    image = helper.make_tensor_value_info("images", 1, [1, 3, side, side])
    graph = helper.make_graph(first + nodes, "net", [image], results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    helper.set_model_props(model, {key: str(value) for key, value in meta.items()})
    onnx.save(model, str(path))
    return path


def random_head(channels: int, seed: int = 0) -> np.ndarray:
    """Return (1, channels, 84): boxes all over the place, few scores above one half."""
    rng = np.random.default_rng(seed)
    head = rng.uniform(0, SIDE, (1, channels, PLACES))
    head[:, 2:4] = rng.uniform(8, 30, (1, 2, PLACES))
    head[:, 4:] = rng.uniform(0, SIDE, head[:, 4:].shape)
    head[:, 4] = rng.permutation(PLACES) / PLACES
    return head.astype(np.float32)


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
    detector = build_detector(config("yolo", file=str(path), size=SIDE, score=0.6, nms=0.3))
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


# --- scrfd --------------------------------------------------------------------------------------


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


# --- mtcnn --------------------------------------------------------------------------------------


def test_mtcnn_networks_have_the_published_sizes() -> None:
    sizes = {
        name: sum(p.numel() for p in net.parameters()) for name, net in mtcnn._networks().items()
    }
    assert sizes == {"pnet": 6632, "rnet": 100178, "onet": 389040}


def test_mtcnn_files(tmp_path: Path) -> None:
    import zipfile

    networks = mtcnn._networks()
    for name, net in networks.items():
        torch.save(net.state_dict(), tmp_path / f"{name}.pt")
    wheel = tmp_path / "facenet.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in networks:
            archive.write(tmp_path / f"{name}.pt", f"facenet_pytorch/data/{name}.pt")
    for path in (tmp_path, tmp_path / "rnet.pt", wheel):
        loaded = mtcnn.load_networks(path)
        for name, net in networks.items():
            for key, value in net.state_dict().items():
                assert torch.equal(loaded[name].state_dict()[key], value)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "onet.pt")
    with pytest.raises(UserError, match="onet.pt in .* holds no weights of MTCNN"):
        build_detector(config("mtcnn", file=str(tmp_path)))
    (tmp_path / "onet.pt").unlink()
    with pytest.raises(UserError, match="holds no onet.pt"):
        build_detector(config("mtcnn", file=str(tmp_path)))


def test_mtcnn_cascade_geometry(tmp_path: Path) -> None:
    """Networks that look for a bright square in a dark frame twice its side: what is left to go
    wrong is the cascade's own arithmetic."""
    for name, net in mtcnn._networks().items():
        torch.save(net.state_dict(), tmp_path / f"{name}.pt")
    detector = build_detector(config("mtcnn", file=str(tmp_path), size=320, min_face=24))

    def look(x: torch.Tensor, side: int) -> torch.Tensor:
        kernel = torch.full((side, side), -1 / (1.5 * side**2))
        kernel[side // 4 : -side // 4, side // 4 : -side // 4] = 2 / side**2
        grey = x.mean(1, keepdim=True)
        return torch.nn.functional.conv2d(grey, kernel[None, None], stride=2)[:, 0]

    def propose(x: torch.Tensor) -> list[torch.Tensor]:
        chance = look(x, 12)
        return [chance, torch.zeros(len(x), 4, *chance.shape[1:])]

    def refine(x: torch.Tensor) -> list[torch.Tensor]:
        points = torch.tensor([0.3, 0.7, 0.5, 0.3, 0.7, 0.4, 0.4, 0.6, 0.8, 0.8])
        # As of half the size, moved right by a tenth.
        change = torch.tensor([0.35, 0.25, -0.15, -0.25])
        chance = look(x, x.shape[-1]).flatten()
        return [chance, change.repeat(len(x), 1), points.repeat(len(x), 1)]

    keep = {"rnet": lambda x: [refine(x)[0], torch.zeros(len(x), 4)], "onet": refine}
    detector.nets = {"pnet": propose, **keep}
    image = np.zeros((480, 640, 3), np.uint8)
    image[200:300, 400:500] = 255
    found = detector(image)
    square = Detections(np.array([[420, 200, 100, 100]], np.float32), np.ones(1, np.float32))
    assert iou(square, found)[0, 0] > 0.7 and len(found) == 1
    x, y, w, h = found.boxes[0]
    # Landmarks are shares of the window, which is twice the box and lies a tenth to the left.
    left, top = x - 0.7 * w, y - 0.5 * h
    expected = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.3, 0.8], [0.7, 0.8]]
    np.testing.assert_allclose(
        found.landmarks[0], np.array(expected) * [2 * w, 2 * h] + [left, top], atol=0.1
    )
    assert len(detector(np.zeros((1, 1, 3), np.uint8))) == 0


def test_mtcnn_helpers() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 40], [10, 10, 20, 20], [100, 0, 140, 40]])
    kept = mtcnn._keep_outer(boxes, torch.tensor([0.8, 0.7, 0.9]), 0.7)
    assert kept.tolist() == [2, 0]  # the box within a box goes, though their IoU is 1/16
    image = np.full((20, 20, 3), 255, np.uint8)
    crop = mtcnn._crops(image, torch.tensor([[-10.0, 0, 10, 20]]), 24)[0]
    assert (crop[:, :12] == 0).all() and (crop[:, 12:] == 255).all()
    assert math.isclose(mtcnn._square(torch.tensor([[0.0, 0, 10, 20]]))[0, 0], -5)


# --- real models --------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("size", [320, 640])
def test_yunet_counts_the_faces_of_the_photos(size: int) -> None:
    detector = build_detector(config("yunet", file=str(shared(YUNET)), size=size, score=0.7))
    for name, count in PHOTOS.items():
        image = photo(name)
        found = detector(image)
        assert len(found) == count, name
        if count:
            centre = found.boxes[:, :2] + found.boxes[:, 2:] / 2
            assert ((centre > 0) & (centre < image.shape[1::-1])).all()
            points = found.landmarks
            # The eye and the mouth corner on the left of the image come before those on the right.
            assert (points[:, 0, 0] < points[:, 1, 0]).all(), name
            assert (points[:, 3, 0] < points[:, 4, 0]).all(), name
            assert (points[:, 2, 1] > points[:, :2, 1].min(1)).all(), name
            assert (points[:, 3:, 1] > points[:, :2, 1].mean(1, keepdims=True)).all(), name


@pytest.mark.shared
def test_yunet_takes_any_image() -> None:
    detector = build_detector(config("yunet", file=str(shared(YUNET))))
    six = photo("six_faces.jpg")
    whole = detector(six)
    # Any memory layout gives the same, a larger picture the same places.
    np.testing.assert_array_equal(detector(np.asfortranarray(six)).boxes, whole.boxes)
    double = detector(cv2.resize(six, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST))
    assert iou(Detections(whole.boxes * 2, whole.scores), double).max(1).min() > 0.9
    for shape in [(1, 1), (1, 2000), (2000, 1), (5, 7), (30, 90), (32, 320), (4320, 7680)]:
        assert len(detector(np.zeros((*shape, 3), np.uint8))) == 0, shape


@pytest.mark.shared
def test_ssd_and_haar_agree_with_yunet() -> None:
    yunet = build_detector(config("yunet", file=str(shared(YUNET))))
    file = shared(MODELS / "opencv_face_detector_uint8.pb")
    res10 = build_detector(config("ssd", file=str(file)))
    for name, count in PHOTOS.items():
        image = photo(name)
        found = res10(image)
        assert len(found) == count, name
        if count:
            assert iou(yunet(image), found).max(1).min() > 0.5, name
    image = photo("six_faces.jpg")
    found = build_detector(config("haar"))(image)
    overlap = iou(yunet(image), found)
    # Frontal faces only: it finds half of the six, and takes a thing or two for a face.
    assert (overlap.max(1) > 0.4).sum() >= 3 and (overlap.max(0) > 0.4).mean() >= 0.5


@pytest.mark.shared
def test_yolo_raw_heads_of_a_real_network() -> None:
    pytest.importorskip("onnxruntime")
    yunet = build_detector(config("yunet", file=str(shared(YUNET))))
    lite = build_detector(config("yolo", file=str(shared(MODELS / "yolov8-lite-t.onnx"))))
    for name, count in PHOTOS.items():
        image = photo(name)
        expected, found = yunet(image), lite(image)
        assert len(found) == count, name
        if count:
            overlap = iou(expected, found)
            assert overlap.max(1).min() > 0.6, name
            apart = np.abs(expected.landmarks - found.landmarks[overlap.argmax(1)]).max((1, 2))
            assert (apart < 0.25 * expected.boxes[:, 2]).all(), name
