"""Haar and SSD detectors: model files, input format, faces of a synthetic video."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.synthetic.video import render_video
from emotion_lab.video.detectors import build_detector, ssd
from tests.helpers_detectors import config
from tests.helpers_sinks import frames_of

# --- haar -----------------------------------------------------------------------------------------


def test_haar_finds_a_synthetic_face(tmp_path: Path) -> None:
    if not hasattr(cv2, "CascadeClassifier"):
        pytest.skip("this OpenCV has no Haar cascades")
    path = tmp_path / "face.mp4"
    render_video(path, [(0.4, "happy"), (0.4, "neutral")], fps=10, size=(480, 270))
    hits, frames = 0, list(frames_of(path))
    detector = build_detector(config("haar", size=320))
    for faces in map(detector, frames):
        if len(faces):
            x, y, w, h = faces.boxes[0]
            # The head is about half as high as the frame, near its centre.
            hits += abs(x + w / 2 - 240) < 60 and abs(y + h / 2 - 135) < 45 and 60 < h < 200
            assert 0 < faces.scores[0] < 1
    assert len(frames) == 8 and hits >= 6
    assert len(detector(np.zeros((1, 1, 3), np.uint8))) == 0
    assert len(detector(np.zeros((50, 700, 3), np.uint8)[:, ::2])) == 0


def test_haar_model_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(cv2, "CascadeClassifier"):
        build_detector(config("haar", file="haarcascade_frontalface_alt2.xml"))
        bad = tmp_path / "bad.xml"
        bad.write_text("<opencv_storage></opencv_storage>")
        with pytest.raises(UserError, match="is not a Haar cascade"):
            build_detector(config("haar", file=str(bad)))
        monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(UserError, match=r"has no Haar cascades\. Set detector=yunet"):
        build_detector(config("haar"))


# --- ssd ------------------------------------------------------------------------------------------


def test_ssd_finds_the_partner_file(tmp_path: Path) -> None:
    for name in ("face_uint8.pb", "face.pbtxt", "other.pbtxt", "res10.caffemodel"):
        (tmp_path / name).write_bytes(b"x")
    pair = (tmp_path / "face_uint8.pb", tmp_path / "face.pbtxt")
    for name in ("face_uint8.pb", "face.pbtxt"):
        assert ssd.find_pair(config("ssd", file=str(tmp_path / name))) == pair
    swapped = config("ssd", file=str(pair[1]), config=str(pair[0]))
    assert ssd.find_pair(swapped) == pair
    with pytest.raises(UserError, match=r"no \.prototxt files in the folder .*detector\.config="):
        ssd.find_pair(config("ssd", file=str(tmp_path / "res10.caffemodel")))
    with pytest.raises(UserError, match="do not belong together"):
        ssd.find_pair(config("ssd", file=str(tmp_path / "res10.caffemodel"), config=str(pair[1])))
    with pytest.raises(UserError, match="is not an SSD model"):
        (tmp_path / "a.onnx").write_bytes(b"x")
        ssd.find_pair(config("ssd", file=str(tmp_path / "a.onnx")))
    with pytest.raises(UserError, match="cannot be read as a network"):
        build_detector(config("ssd", file=str(pair[0])))


#: A Caffe network whose output is the first 14 values of the image, as two rows of 7.
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


def test_ssd_loads_caffe_and_subtracts_the_bgr_mean(tmp_path: Path) -> None:
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV cannot read Caffe files")
    (tmp_path / "deploy.prototxt").write_text(CAFFE)
    (tmp_path / "net.caffemodel").write_bytes(b"\x0a\x04rows")  # a name without weights
    detector = build_detector(config("ssd", file=str(tmp_path / "net.caffemodel")))
    image = np.zeros((300, 300, 3), np.uint8)
    image[0, :14] = np.arange(14)[:, None] + [100, 50, 110]  # R, G, B
    rows = detector._forward(image).reshape(-1)[:14]
    np.testing.assert_allclose(rows, np.arange(14) + 110 - 104, atol=1e-4)  # the blue plane
    # image, class, score, left, top, right, bottom
    detector._forward = lambda fitted: np.array([[[[0, 1, 0.9, 0.25, 0.5, 0.5, 0.75]]]])
    detections = detector(np.zeros((600, 600, 3), np.uint8))
    np.testing.assert_allclose(detections.boxes, [[150, 300, 150, 150]], atol=1e-3)
    assert detections.landmarks is None
