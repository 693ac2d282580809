"""Detectors: resizing, suppression, model files, and face counts of photos."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision import ops

from emotion_lab.config.compose import CONF
from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.detectors.nms import nms, postprocess
from emotion_lab.video.detectors.resize import letterbox, resize_longest_side
from emotion_lab.video.detectors.weights import find_weights
from emotion_lab.video.types import DETECTORS, Detections
from tests.helpers_detectors import MODELS, PHOTOS, YUNET, config, iou, one_line, photo, shared


def test_config_files_match_the_registry() -> None:
    names = sorted(p.stem for p in (CONF / "detector").glob("*.yaml") if p.stem != "base")
    assert names == DETECTORS.names()
    assert all(config(name)["name"] == name for name in names)
    with pytest.raises(UserError, match=r"Unknown detector 'yunett'. Did you mean 'yunet'\?"):
        build_detector({"name": "yunett"})


# --- resizing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (48, 48), (1, 2000), (720, 1280), (777, 333)])
@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("enlarge", [True, False])
def test_letterbox_maps_points_to_the_source(shape: tuple, centre: bool, enlarge: bool) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    resized = letterbox(image, 320, 256, pad=7, centre=centre, enlarge=enlarge)
    assert resized.image.shape == (256, 320, 3)
    inside = (resized.image != 7).all(axis=2)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    corners = [[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]]
    np.testing.assert_allclose(
        resized.to_source(np.array(corners)), [[0, 0], [shape[1], shape[0]]], atol=1e-3
    )
    if not enlarge:
        assert inside.sum() <= shape[0] * shape[1]
    elif min(shape) > 1:
        assert len(columns) == 320 or len(rows) == 256
    if centre:
        assert abs(columns[0] - (319 - columns[-1])) <= 1


def test_resize_longest_side_enlarges_on_request_and_pads_to_a_multiple() -> None:
    image = np.full((90, 160, 3), 50, np.uint8)
    assert resize_longest_side(image, 320).image.shape == image.shape
    assert resize_longest_side(image, 320, enlarge=True).image.shape == (180, 320, 3)
    assert resize_longest_side(image, 80).image.shape == (45, 80, 3)
    padded = resize_longest_side(image, 80, multiple=32)
    assert padded.image.shape == (64, 96, 3)
    assert (padded.image[45:] == 0).all() and (padded.image[:45, :80] == 50).all()
    assert resize_longest_side(image, None).image.shape == image.shape


def test_resize_accepts_views_and_8k_frames() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (100, 140, 3), dtype=np.uint8)
    flipped = image[:, ::-1]
    assert not flipped.flags.c_contiguous
    expected = resize_longest_side(np.ascontiguousarray(flipped), 70).image
    np.testing.assert_array_equal(resize_longest_side(flipped, 70).image, expected)
    huge = np.zeros((4320, 7680, 3), np.uint8)
    resized = resize_longest_side(huge, 320)
    assert resized.image.shape == (180, 320, 3)
    np.testing.assert_allclose(resized.to_source(np.array([320, 180])), [7680, 4320])


# --- boxes ----------------------------------------------------------------------------------------


def random_boxes(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    boxes = np.hstack([rng.uniform(0, 80, (n, 2)), rng.uniform(10, 40, (n, 2))])
    return boxes.astype(np.float32), rng.permutation(n).astype(np.float32) / n


def test_nms_matches_torchvision() -> None:
    boxes, scores = random_boxes()
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    for threshold in (0.2, 0.45, 0.8):
        expected = ops.nms(torch.tensor(corners), torch.tensor(scores), threshold).numpy()
        np.testing.assert_array_equal(nms(boxes, scores, threshold), expected)
    assert len(nms(boxes[:0], scores[:0], 0.5)) == 0


def test_postprocess_sorts_limits_and_removes_invalid_boxes() -> None:
    resized = letterbox(np.zeros((100, 200, 3), np.uint8), 400, 200, enlarge=True)  # scale 2
    corners = np.array(
        [
            [20, 20, 60, 60],  # second best
            [100, 40, 180, 120],  # best
            [102, 40, 180, 120],  # suppressed by the best
            [-10, 100, 50, 160],  # over the border: not clipped
            [300, 20, 280, 60],  # negative width
            [390, 20, 480, 60],  # centre outside
            [np.nan, 0, 10, 10],
            [0, 0, np.inf, 10],
            [200, 20, 240, 60],  # below the threshold
        ]
    )
    scores = np.array([0.7, 0.9, 0.8, 0.6, 0.99, 0.99, 0.99, 0.99, 0.4])
    points = np.repeat(corners[:, None, :2], 5, axis=1)
    cfg = {"score_threshold": 0.5, "nms_threshold": 0.5, "max_faces": 10}
    detections = postprocess(resized, corners, scores, points, cfg)
    np.testing.assert_allclose(
        detections.boxes, [[50, 20, 40, 40], [10, 10, 20, 20], [-5, 50, 30, 30]], atol=1e-4
    )
    np.testing.assert_allclose(detections.scores, [0.9, 0.7, 0.6], atol=1e-6)
    landmarks = detections.landmarks
    np.testing.assert_allclose(landmarks[:, 3], [[50, 20], [10, 10], [-5, 50]], atol=1e-4)
    arrays = (detections.boxes, detections.scores, landmarks)
    assert all(array.dtype == np.float32 for array in arrays)
    assert len(postprocess(resized, corners, scores, None, cfg, apply_nms=False)) == 4
    assert len(postprocess(resized, corners, scores, None, {**cfg, "max_faces": 1})) == 1
    empty = postprocess(resized, corners[:0], scores[:0], points[:0], cfg)
    assert len(empty) == 0 and empty.boxes.shape == (0, 4)


def test_full_frame_returns_the_whole_image() -> None:
    detections = build_detector(config("full_frame"))(np.zeros((30, 50, 3), np.uint8))
    assert detections.boxes.tolist() == [[0, 0, 50, 30]] and detections.scores.tolist() == [1.0]
    assert detections.boxes.dtype == np.float32 and detections.landmarks is None


# --- files ----------------------------------------------------------------------------------------


def test_missing_file_is_a_one_line_error(tmp_path: Path) -> None:
    for name in ("yolo", "retinaface", "ssd", "mtcnn"):
        with pytest.raises(UserError) as error:
            build_detector(config(name))
        assert f"detector={name} needs" in one_line(error) and "detector.file=" in str(error.value)
        with pytest.raises(UserError) as error:
            build_detector(config(name, file=str(tmp_path / "absent.onnx")))
        assert "No file at" in one_line(error) and "detector.file=" in str(error.value)
    with pytest.raises(UserError, match="is a folder"):
        build_detector(config("yolo", file=str(tmp_path)))


def test_wrong_hash_is_an_error_unless_disabled(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"something else")
    digest = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(UserError) as error:
        build_detector(config("yunet", file=str(file)))
    assert digest[:16] in one_line(error) and "detector.sha256=null" in str(error.value)
    with pytest.raises(UserError, match="is not a YuNet model"):
        build_detector(config("yunet", file=str(file), sha256=None))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_file_is_downloaded_once_and_verified(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "net.onnx"
    source.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    cfg = {"name": "yunet", "file": None, "sha256": digest}
    path = find_weights(cfg, "the net", source.as_uri())
    assert path == cache / "net.onnx" and path.read_bytes() == b"weights"
    source.unlink()
    assert find_weights(cfg, "the net", source.as_uri()) == path  # from the cache
    # A corrupt copy is downloaded again; a wrong download is not stored.
    path.write_bytes(b"damaged")
    source.write_bytes(b"weights")
    assert find_weights(cfg, "the net", source.as_uri()).read_bytes() == b"weights"
    path.unlink()
    source.write_bytes(b"a proxy's login page")
    with pytest.raises(UserError, match="did not return the expected file"):
        find_weights(cfg, "the net", source.as_uri())
    assert list(cache.iterdir()) == []


def test_download_error_has_instructions(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_lab.video.detectors import yunet

    monkeypatch.setattr(yunet, "URL", "http://127.0.0.1:9/face_detection_yunet_2023mar.onnx")
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        build_detector(config("yunet"))
    assert time.monotonic() - start < 20
    text = one_line(error)
    assert "Download http://127.0.0.1:9/face_detection" in text and "detector.file=<path>" in text
    assert not cache.exists()


# --- real models ----------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("size", [320, 640])
def test_yunet_finds_every_face(size: int) -> None:
    detector = build_detector(
        config("yunet", file=str(shared(YUNET)), size=size, score_threshold=0.7)
    )
    for name, count in PHOTOS.items():
        image = photo(name)
        detections = detector(image)
        assert len(detections) == count, name
        if count:
            centre = detections.boxes[:, :2] + detections.boxes[:, 2:] / 2
            assert ((centre > 0) & (centre < image.shape[1::-1])).all()
            points = detections.landmarks
            # The order is left to right in the image.
            assert (points[:, 0, 0] < points[:, 1, 0]).all(), name
            assert (points[:, 3, 0] < points[:, 4, 0]).all(), name
            assert (points[:, 2, 1] > points[:, :2, 1].min(1)).all(), name
            assert (points[:, 3:, 1] > points[:, :2, 1].mean(1, keepdims=True)).all(), name


@pytest.mark.shared
def test_yunet_accepts_any_memory_layout_and_size() -> None:
    detector = build_detector(config("yunet", file=str(shared(YUNET))))
    six = photo("six_faces.jpg")
    faces = detector(six)
    np.testing.assert_array_equal(detector(np.asfortranarray(six)).boxes, faces.boxes)
    double = detector(cv2.resize(six, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST))
    assert iou(Detections(faces.boxes * 2, faces.scores), double).max(1).min() > 0.9
    for shape in [(1, 1), (1, 2000), (2000, 1), (5, 7), (30, 90), (32, 320), (4320, 7680)]:
        assert len(detector(np.zeros((*shape, 3), np.uint8))) == 0, shape


@pytest.mark.shared
def test_ssd_and_haar_match_yunet() -> None:
    yunet = build_detector(config("yunet", file=str(shared(YUNET))))
    file = shared(MODELS / "opencv_face_detector_uint8.pb")
    res10 = build_detector(config("ssd", file=str(file)))
    for name, count in PHOTOS.items():
        image = photo(name)
        detections = res10(image)
        assert len(detections) == count, name
        if count:
            assert iou(yunet(image), detections).max(1).min() > 0.5, name
    image = photo("six_faces.jpg")
    overlap = iou(yunet(image), build_detector(config("haar"))(image))
    # Haar is for frontal faces: half of the six, and one or two false positives.
    assert (overlap.max(1) > 0.4).sum() >= 3 and (overlap.max(0) > 0.4).mean() >= 0.5


@pytest.mark.shared
def test_yolo_raw_heads_match_yunet() -> None:
    pytest.importorskip("onnxruntime")
    yunet = build_detector(config("yunet", file=str(shared(YUNET))))
    lite = build_detector(config("yolo", file=str(shared(MODELS / "yolov8-lite-t.onnx"))))
    for name, count in PHOTOS.items():
        image = photo(name)
        expected, detections = yunet(image), lite(image)
        assert len(detections) == count, name
        if count:
            overlap = iou(expected, detections)
            assert overlap.max(1).min() > 0.6, name
            error = np.abs(expected.landmarks - detections.landmarks[overlap.argmax(1)])
            assert (error.max((1, 2)) < 0.25 * expected.boxes[:, 2]).all(), name
