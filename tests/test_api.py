"""``emotion_lab.load`` and ``EmotionRecognizer``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import emotion_lab
from emotion_lab import EmotionRecognizer
from emotion_lab.core.errors import UserError
from emotion_lab.inference.face_crop import crop_faces
from emotion_lab.inference.loader import InvalidImageError
from emotion_lab.synthetic.render import draw_face
from emotion_lab.synthetic.spec import sample_face
from emotion_lab.synthetic.video import render_video
from tests.conftest import command


@pytest.fixture(scope="module")
def model() -> EmotionRecognizer:
    return emotion_lab.load("fer2013", detector="full_frame", backend="onnxruntime")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PNG of one face, coloured so that RGB and BGR differ."""
    face = draw_face(sample_face(np.random.default_rng(0), "happy"), 96, 3)
    face[..., 2] //= 4
    path = tmp_path_factory.mktemp("api") / "photo.png"
    Image.fromarray(face).save(path)
    return path


def test_every_kind_of_image_gives_the_same_face(model: EmotionRecognizer, photo: Path) -> None:
    image = np.asarray(Image.open(photo))
    results = model([photo, str(photo), image, Image.open(photo)])
    assert isinstance(results, list) and len(results) == 4
    first = results[0][0]
    assert all(len(faces) == 1 and faces[0] == first for faces in results)
    assert model(photo)[0] == first and model(image[None])[0][0] == first
    # The crop of a detected face has a margin, here of repeated pixels.
    crops = crop_faces(image, np.array([first.box]), model.classifier.crop_margin)
    assert model.classify(crops)[0].tolist() == list(first.probabilities.values())
    assert first.box == (0, 0, 96, 96) and first.id is None and first.score == 1
    assert list(first.probabilities) == model.classes
    assert sum(first.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert first.label == max(first.probabilities, key=first.probabilities.__getitem__)
    swapped = model(np.ascontiguousarray(image[..., ::-1]))[0]
    assert swapped.probabilities != first.probabilities  # the colour order matters


def test_still_images_are_never_uncertain(model: EmotionRecognizer) -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert all(faces[0].label is not None for faces in model([grey] * 3))


def test_classify(model: EmotionRecognizer, photo: Path) -> None:
    image = np.asarray(Image.open(photo))
    probabilities = model.classify([image, image[:50, :60], photo])
    assert probabilities.dtype == np.float32 and probabilities.shape == (3, len(model.classes))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(probabilities[0], probabilities[2])
    assert model.classify([]).shape == (0, len(model.classes))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        3,
        None,
    ],
)
def test_other_arrays_are_refused(model: EmotionRecognizer, image: Any) -> None:
    for function in (model, model.classify):
        with pytest.raises(InvalidImageError, match=r"uint8 \(H, W, 3\) in RGB order, got"):
            function(image)


def test_files_and_addresses(model: EmotionRecognizer, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    for call in (model, model.classify, emotion_lab.load):
        with pytest.raises(UserError, match="is a URL: download"):
            call("https://example.com/a.jpg")
    with pytest.raises(UserError):
        model(tmp_path / "text.jpg")
    with pytest.raises(UserError):
        model(tmp_path / "missing.jpg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "fer2012"}, "no such checkpoint: fer2012.*model: fer2013"),
        ({"detector": "yunett"}, "Unknown detector 'yunett'. Did you mean 'yunet'"),
        ({"smoothing": "emma"}, "Unknown smoothing 'emma'"),
        ({"backend": "onxruntime"}, "Unknown backend 'onxruntime'"),
        ({"detector": "yunet", "detector_file": "no.onnx"}, "No file at no.onnx"),
    ],
)
def test_load_refuses_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as info:
        emotion_lab.load(**arguments)
    assert "\n" not in str(info.value)


def test_stream(model: EmotionRecognizer, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    render_video(clip, [(0.4, "happy")], size=(160, 120))
    frames = list(model.stream(clip))
    assert [frame.index for frame in frames] == list(range(10))
    assert frames[3].time_s == pytest.approx(3 / 25, abs=0.01)
    assert frames[0].image.shape == (120, 160, 3) and frames[0].faces.image is frames[0].image
    assert all([face.id for face in frame.faces] == [1] for frame in frames)
    assert {face.label for frame in frames for face in frame.faces} <= {*model.classes, None}
    again = list(model.stream(str(clip), max_frames=2))
    assert [frame.faces[0] for frame in again] == [frame.faces[0] for frame in frames[:2]]
    with pytest.raises(UserError, match="no file, folder or camera"):
        model.stream(tmp_path / "missing.mp4")
    with pytest.raises(UserError, match=r"takes one source, not \['0', '1'\]: call it once"):
        model.stream(["0", "1"])  # type: ignore[arg-type]


def test_results(
    model: EmotionRecognizer, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = model(photo)
    before = faces.image.copy()
    faces.draw().save(tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").size == (96, 96)
    assert np.array_equal(faces.image, before)
    assert np.asarray(faces.draw()).tolist() != before.tolist()
    (row,) = json.loads(json.dumps(faces.to_dict()))
    assert row["label"] == faces[0].label and row["box"] == [0, 0, 96, 96] and row["id"] is None
    pandas = pytest.importorskip("pandas")
    table = faces.to_pandas()
    assert isinstance(table, pandas.DataFrame) and table.loc[0, "label"] == faces[0].label
    assert table.loc[0, "happy"] == faces[0].probabilities["happy"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        faces.to_pandas()


def test_a_model_of_synthetic_faces_says_so_once(
    model: EmotionRecognizer, photo: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model(photo)
    assert "synthetic" not in capsys.readouterr().err
    monkeypatch.setattr(model.classifier, "data_name", "synthetic")
    monkeypatch.setattr(model, "_noted", False)
    model.pipeline(stills=False, synthetic=True)
    assert capsys.readouterr().err == ""
    model([photo, photo])
    assert capsys.readouterr().err.count("trained on synthetic faces only") == 1


def test_predict_gives_the_same_faces(
    model: EmotionRecognizer, photo: Path, tmp_path: Path
) -> None:
    words = (f"source={photo}", "detector=full_frame", "backend=onnxruntime", "out=result")
    done = command(*words, module="emotion_lab.predict", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "result" / "predictions.jsonl").read_text().splitlines()
    (row,), (face,) = json.loads(line)["faces"], model(photo)
    assert row["label"] == face.label and row["box"] == list(face.box)
    assert row["score"] == face.score
    assert row["probabilities"] == pytest.approx(face.probabilities, abs=1e-6)
    assert row["smoothed"] == pytest.approx(face.smoothed, abs=1e-6)


def test_opencv_reads_bgr(photo: Path, model: EmotionRecognizer) -> None:
    bgr = cv2.imread(str(photo))
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    assert model(rgb)[0] == model(photo)[0]
