"""Pipeline, run statistics and factory."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.inference.derived import DerivedOutputs, FaceQuantities
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.factory import build_save_sink
from emotion_lab.video.head_pose import FACE as FACE_MODEL
from emotion_lab.video.head_pose import HeadPose
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.runner import RunStats
from emotion_lab.video.sources.open import open_source
from emotion_lab.video.types import Detections, Frame, FrameResult
from tests.conftest import composed
from tests.helpers_classifier import ProbabilitiesOnly

Box = tuple[float, float, float, float]
FACE: list[Box] = [(10, 10, 30, 30)]


class FakeDetector:
    """Returns the given boxes, frame by frame."""

    name = "fake"

    def __init__(self, boxes: list[list[Box]]) -> None:
        self.boxes = iter(boxes)

    def __call__(self, image: np.ndarray) -> Detections:
        boxes = np.array(next(self.boxes), np.float32).reshape(-1, 4)
        return Detections(boxes, np.ones(len(boxes), np.float32))


class BrightnessClassifier(ProbabilitiesOnly):
    """The probability of class 1 is the brightness of the crop."""

    classes: ClassVar[list[str]] = ["dark", "light"]

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
        self.batch_sizes.append(len(crops))
        light = np.array([crop.mean() / 255 for crop in crops], np.float32)
        return np.stack([1 - light, light], 1)


def make_pipeline(boxes: list[list[Box]], *overrides: str, stills: bool = False) -> Pipeline:
    smoothing = composed(*overrides, entry="live")["smoothing"]
    classifier = BrightnessClassifier()
    return Pipeline(FakeDetector(boxes), classifier, smoothing, {"detect_every": 1}, stills=stills)


def grey_frames(values: list[int], step_s: float = 0.1) -> list[Frame]:
    images = [np.full((60, 120, 3), value, np.uint8) for value in values]
    return [Frame(image, i, i * step_s, 0.0) for i, image in enumerate(images)]


def test_all_faces_of_a_frame_are_one_batch() -> None:
    boxes: list[list[Box]] = [[(0, 0, 30, 30), (50, 10, 30, 30), (90, 20, 30, 30)]] * 3
    pipeline = make_pipeline(boxes, "smoothing=none")
    results = [pipeline(frame) for frame in grey_frames([200, 200, 200])]
    assert pipeline.classifier.batch_sizes == [3, 3, 3]
    assert [[face.id for face in result.faces] for result in results] == [[1, 2, 3]] * 3


def test_new_track_starts_with_empty_smoothing() -> None:
    boxes = [FACE] * 10 + [[]] * 15 + [FACE]
    pipeline = make_pipeline(boxes, "smoothing=ema", "smoothing.tau_s=100")
    results = [pipeline(frame) for frame in grey_frames([255] * 10 + [0] * 16)]
    first, last = results[9].faces[0], results[-1].faces[0]
    assert first.smoothed[1] == pytest.approx(1, abs=1e-3)
    assert last.id != first.id
    assert last.smoothed[1] == pytest.approx(0, abs=1e-3)
    assert list(pipeline._faces) == [last.id]


def test_photos_are_independent() -> None:
    pipeline = make_pipeline([FACE, FACE], "smoothing=ema", stills=True)
    first, second = (pipeline(frame).faces[0] for frame in grey_frames([255, 0], step_s=0.0))
    assert second.smoothed[0] == pytest.approx(1, abs=1e-3)
    assert first.id == second.id == 1


class LearnedClassifier(BrightnessClassifier):
    """Its learned intensity is the brightness of the crop."""

    quantities = FaceQuantities(DerivedOutputs(BrightnessClassifier.classes), ["intensity"])

    def predict(self, crops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        rows = self(crops)
        return rows, rows[:, 1:]


@pytest.mark.parametrize("stills", [False, True])
def test_learned_quantities_are_smoothed_and_named(stills: bool) -> None:
    smoothing = composed("smoothing=ema", "smoothing.tau_s=0.3", entry="live")["smoothing"]
    pipeline = Pipeline(
        FakeDetector([FACE] * 3), LearnedClassifier(), smoothing, {"detect_every": 1}, stills=stills
    )
    faces = [pipeline(frame).faces[0] for frame in grey_frames([0, 255, 255])]
    weight = 1 - np.exp(-0.1 / 0.3)
    expected = [0, 1, 1] if stills else [0, weight, 1 - (1 - weight) ** 2]
    found = [face.quantities["intensity"] for face in faces]
    assert found == pytest.approx(expected, abs=1e-6)
    assert faces[0].quantity_source == {
        "valence": "derived",
        "arousal": "derived",
        "intensity": "learned",
    }


class TurnedDetector:
    """One face per frame with the landmarks of a head that is turned by the given yaw."""

    name = "turned"

    def __init__(self, yaws: list[float]) -> None:
        self.yaws = iter(yaws)

    def __call__(self, image: np.ndarray) -> Detections:
        points = (FACE_MODEL @ HeadPose(next(self.yaws), 0, 0).matrix.T)[:, :2] + (25, 25)
        box = np.array([[10, 10, 30, 30]], np.float32)
        return Detections(box, np.ones(1, np.float32), points[None].astype(np.float32))


@pytest.mark.parametrize("stills", [False, True])
def test_a_face_beyond_max_turn_deg_is_uncertain(stills: bool) -> None:
    smoothing = composed("smoothing=none", entry="live")["smoothing"]
    seen = {}
    for limit in (45.0, None):
        pipeline = Pipeline(
            TurnedDetector([0, 30, 70]),
            BrightnessClassifier(),
            smoothing,
            {"detect_every": 1},
            stills=stills,
            max_turn_deg=limit,
        )
        seen[limit] = [pipeline(frame).faces[0] for frame in grey_frames([255] * 3)]
    assert [face.label for face in seen[45.0]] == [1, 1, None]
    assert [face.turned_away for face in seen[45.0]] == [False, False, True]
    assert [face.label for face in seen[None]] == [1, 1, 1]
    poses = [face.pose.yaw for face in seen[None] if face.pose is not None]
    assert poses == pytest.approx([0, 30, 70], abs=8)
    assert pipeline.clone(stills).max_turn_deg is None


def test_without_landmarks_there_is_no_pose_and_no_limit() -> None:
    pipeline = make_pipeline([FACE], "smoothing=none")
    pipeline.max_turn_deg = 1.0
    face = pipeline(grey_frames([255])[0]).faces[0]
    assert face.pose is None and face.label == 1 and not face.turned_away


def test_ids_start_at_1_in_each_repetition_of_a_clip() -> None:
    pipeline = make_pipeline([FACE] * 7, "smoothing=ema")
    frames = grey_frames([255] * 5 + [0, 0])
    for frame in frames[5:]:
        frame.loop = 1
    results = [pipeline(frame) for frame in frames]
    assert [[face.id for face in r.faces] for r in results] == [[1]] * 7
    assert results[5].faces[0].smoothed[0] == pytest.approx(1, abs=1e-3)  # no earlier smoothing


def test_clone_shares_networks_and_not_tracks() -> None:
    pipeline = make_pipeline([FACE, FACE], "smoothing=none")
    frame = grey_frames([200])[0]
    clone = pipeline.clone(stills=True)
    assert pipeline(frame).faces[0].id == clone(frame).faces[0].id == 1
    assert clone.stills and clone.classifier is pipeline.classifier
    assert clone._detector_lock is pipeline._detector_lock
    assert clone.batching is pipeline.batching


def test_invalid_smoothing_is_refused_before_the_first_face() -> None:
    with pytest.raises(UserError, match=r"smoothing\.prior"):
        make_pipeline([], "smoothing=hmm", "smoothing.prior=[a,b]")


def test_summary_lines_use_singular_and_plural() -> None:
    stats = RunStats(frames=1, with_faces=1, ids=1, seconds=1.0, last_faces=1)
    assert stats.summary_lines(True) == ["1 image, 1 of them with a face; 1 face; 1 images/s"]
    stats = RunStats(frames=2, with_faces=2, ids=2, seconds=1.0)
    text = "2 frames, 2 of them with a face; 2 faces tracked; 2 frames/s"
    assert stats.summary_lines(False) == [text, "no face in the last frame"]


def test_a_clip_without_any_label_says_why_once() -> None:
    stats = RunStats(frames=9, with_faces=9, ids=1, seconds=1.0, last_faces=1)
    stats.highest, stats.threshold = 0.27, 0.3
    assert stats.summary_lines(False)[1:] == [
        "every face is uncertain: the highest smoothed probability was 0.27, below "
        "smoothing.threshold=0.3; for a label set smoothing.threshold=0.25"
    ]
    stats.labelled = 1
    assert len(stats.summary_lines(False)) == 1


def test_frames_with_held_faces_are_counted_in_the_summary() -> None:
    stats = RunStats(frames=9, with_faces=9, ids=1, seconds=1.0, last_faces=1, held=4)
    assert "in 4 of 9 frames a face was not detected" in stats.summary_lines(False)[-1]


def test_images_are_saved_to_a_folder_and_one_image_to_a_file(tmp_path: Path) -> None:
    photo = tmp_path / "photos" / "photo.png"
    photo.parent.mkdir()
    cv2.imwrite(str(photo), np.zeros((8, 8, 3), np.uint8))
    for path, names in ((photo.parent, ("drawn.png", "drawn.mp4")), (photo, ("drawn.mp4",))):
        with open_source({"source": str(path)}) as source:
            for name in names:
                with pytest.raises(UserError, match="images are saved to a folder"):
                    build_save_sink({"save": tmp_path / name, "overwrite": False}, source)
    with open_source({"source": str(photo)}) as source:
        frame = next(iter(source))
        drawn = np.full((8, 8, 3), (200, 100, 0), np.uint8)
        for name in ("drawn.png", "drawn.jpg", "new/drawn.JPG"):
            sink = build_save_sink({"save": tmp_path / name, "overwrite": False}, source)
            sink.write(frame, FrameResult("photo", 0, 0.0, 0.0, (8, 8)), drawn)
            saved = cv2.cvtColor(cv2.imread(str(tmp_path / name)), cv2.COLOR_BGR2RGB)
            assert np.abs(saved.astype(int) - drawn).max() < 6
        with pytest.raises(UserError, match="exists already"):
            build_save_sink({"save": tmp_path / "drawn.png", "overwrite": False}, source)
        with pytest.raises(UserError, match=r"OpenCV cannot write \.heic"):
            build_save_sink({"save": tmp_path / "drawn.heic", "overwrite": False}, source)
        (tmp_path / "folder.png").mkdir()
        build_save_sink({"save": tmp_path / "folder.png", "overwrite": False}, source)
        # Before the model is loaded.
        (tmp_path / "folder.png" / "photo.png.png").touch()
        with pytest.raises(UserError, match=r"photo\.png\.png exists already"):
            build_save_sink({"save": tmp_path / "folder.png", "overwrite": False}, source)
        build_save_sink({"save": tmp_path / "folder.png", "overwrite": True}, source)


def test_one_image_is_saved_without_the_folders_of_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """source=photos/a.png save=out wrote out/photos/a.png.png."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    image = np.zeros((8, 8, 3), np.uint8)
    cv2.imwrite("photos/inner/a.png", image)
    for source_name, saved in (("photos/inner/a.png", "a.png.png"), ("photos", "inner/a.png.png")):
        out = tmp_path / f"from {Path(source_name).stem}"
        with open_source({"source": source_name}) as source:
            sink = build_save_sink({"save": out, "overwrite": False}, source)
            sink.write(next(iter(source)), FrameResult("a", 0, 0.0, 0.0, (8, 8)), image)
        assert [path for path in out.rglob("*") if path.is_file()] == [out / saved]


def test_detectors_silence_the_log_of_opencv() -> None:
    log = cv2.utils.logging
    old_level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_INFO)
    try:
        build_detector(composed("detector=full_frame", entry="live")["detector"])
        assert log.getLogLevel() == log.LOG_LEVEL_SILENT
    finally:
        log.setLogLevel(old_level)


def test_hash_check_of_a_detector_file_can_be_disabled() -> None:
    cfg = compose.precheck("live", ["detector.file=other.onnx", "detector.sha256=null"])
    assert cfg.detector.sha256 is None
