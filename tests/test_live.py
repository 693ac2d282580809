"""live and predict from the command line: what they leave behind, and what they say to mistakes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.models.base import build_model
from emotion_lab.training.fit import make_card
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.types import Detections, Frame
from tests.conftest import SHARED, TINY, command, composed

MEDIA = SHARED / "media"
YUNET = SHARED / "detectors" / "face_detection_yunet_2023mar.onnx"
#: Runs without a model file, on what every machine has.
QUICK = ("detector=haar", "backend=torch", "backend.threads=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of an untrained but decided network."""
    folder = tmp_path_factory.mktemp("run")
    cfg = composed(*TINY)
    torch.manual_seed(0)
    net, spec = build_model(cfg["model"], 7)
    torch.nn.init.normal_(net.backbone.net.classifier.weight, 0, 2)
    card = make_card(cfg, EmotionData(cfg["data"], ("val",)), spec, {})
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    ckpt.write(folder / "checkpoints" / "best.ckpt", {"state_dict": state, ckpt.CARD: card})
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a drawn clip of 60 frames in which a face is found by Haar."""
    from emotion_lab.synthetic.video import render_video

    path = tmp_path_factory.mktemp("clip") / "drawn face=1 [x].mp4"
    render_video(path, [(1.2, "happy"), (1.2, "sad")], fps=25, size=(320, 240), seed=1)
    return path


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_live_on_a_clip_leaves_everything(run: Path, clip: Path, tmp_path: Path) -> None:
    done = command(
        f"ckpt={run}",
        f"source={clip}",
        *QUICK,
        "display=none",
        f"save={tmp_path / 'out.avi'}",
        f"log={tmp_path / 'out.jsonl'}",
        f"hydra.run.dir={tmp_path / 'live'}",
        module="emotion_lab.live",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = _rows(tmp_path / "out.jsonl")
    assert [row["frame"] for row in rows] == list(range(60))
    assert all(row["source"] == str(clip) and row["size"] == [320, 240] for row in rows)
    faces = [face for row in rows for face in row["faces"]]
    assert len(faces) > 30
    for face in faces:
        assert list(face["probabilities"]) == list(EMOTIONS)
        assert sum(face["smoothed"].values()) == pytest.approx(1, abs=1e-4)
        assert face["label"] is None or face["label"] in EMOTIONS
    video = cv2.VideoCapture(str(tmp_path / "out.avi"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 60
    with open(tmp_path / "live" / "summary.csv", newline="") as file:
        summary = list(csv.DictReader(file))
    seen = {str(face["id"]) for face in faces}
    assert {row["id"] for row in summary} == seen
    assert (tmp_path / "live" / "timeline.png").stat().st_size > 1000
    assert "60 frames" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "live")


def test_predict_on_a_folder(run: Path, clip: Path, tmp_path: Path) -> None:
    photos = tmp_path / "my photos"
    (photos / "inner").mkdir(parents=True)
    video = cv2.VideoCapture(str(clip))
    for name in ("b.png", "inner/a.jpg"):
        _, image = video.read()
        cv2.imwrite(str(photos / name), image)
    cv2.imwrite(str(photos / "grey.png"), np.full((1, 1), 9, np.uint8))
    (photos / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    call = (f"ckpt={run}", f"source={photos}", "detector=full_frame", "backend=torch")
    more = (f"out={out}", f"save={out / 'drawn'}")
    done = command(*call, *more, module="emotion_lab.predict", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = _rows(out / "predictions.jsonl")
    assert sorted(row["source"] for row in rows) == ["b.png", "grey.png", "inner/a.jpg"]
    assert all(len(row["faces"]) == 1 for row in rows)
    # Each photo by itself: nothing is smoothed from one to the next.
    for row in rows:
        assert row["faces"][0]["probabilities"] == row["faces"][0]["smoothed"]
    assert (out / "drawn" / "inner" / "a.jpg.png").is_file()
    assert "skipped 1 of 4 files" in done.stderr
    again = command(*call, *more, module="emotion_lab.predict", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr


class _Boxes:
    """A detector whose faces are given frame by frame."""

    name = "given"

    def __init__(self, boxes: list[list[tuple[float, float, float, float]]]) -> None:
        self.boxes, self.calls = boxes, 0

    def __call__(self, image: np.ndarray) -> Detections:
        found = np.array(self.boxes[self.calls], np.float32).reshape(-1, 4)
        self.calls += 1
        return Detections(found, np.ones(len(found), np.float32))


class _Bright:
    """A classifier of brightness: class 1 is sure of white crops, class 0 of black ones."""

    classes = ["dark", "light"]
    crop_margin = 0.0

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
        self.batches.append(len(crops))
        light = np.array([crop.mean() / 255 for crop in crops], np.float32)
        return np.stack([1 - light, light], 1)


def _frames(values: list[int], step_s: float = 0.1) -> list[Frame]:
    images = [np.full((60, 120, 3), value, np.uint8) for value in values]
    return [Frame(image, i, i * step_s, 0.0) for i, image in enumerate(images)]


def test_all_faces_of_a_frame_are_one_batch() -> None:
    boxes = [[(0, 0, 30, 30), (50, 10, 30, 30), (90, 20, 30, 30)]] * 3
    classifier = _Bright()
    smoothing = composed("smoothing=none", entry="live")["smoothing"]
    pipeline = Pipeline(_Boxes(boxes), classifier, smoothing, {"detect_every": 1})
    results = [pipeline(frame) for frame in _frames([200, 200, 200])]
    assert classifier.batches == [3, 3, 3]
    assert [[face.id for face in result.faces] for result in results] == [[1, 2, 3]] * 3


def test_smoothing_begins_anew_when_a_face_was_lost() -> None:
    face, nobody = [(10, 10, 30, 30)], []
    shown = [face] * 10 + [nobody] * 15 + [face]
    cfg = composed("smoothing=ema", "smoothing.tau_s=100", entry="live")
    pipeline = Pipeline(_Boxes(shown), _Bright(), cfg["smoothing"], {"detect_every": 1})
    results = [pipeline(frame) for frame in _frames([255] * 10 + [0] * 16)]
    # Slow smoothing keeps what it has seen of a face, but a new face knows nothing of it.
    assert results[9].faces[0].smoothed[1] == pytest.approx(1, abs=1e-3)
    assert results[-1].faces[0].id != results[0].faces[0].id
    assert results[-1].faces[0].smoothed[1] == pytest.approx(0, abs=1e-3)
    assert not pipeline._memory.keys() - {results[-1].faces[0].id}


def test_photos_know_nothing_of_each_other() -> None:
    face = [(10, 10, 30, 30)]
    cfg = composed("smoothing=ema", entry="live")
    pipeline = Pipeline(_Boxes([face, face]), _Bright(), cfg["smoothing"], None, stills=True)
    frames = _frames([255, 0], step_s=0.0)
    results = [pipeline(frame) for frame in frames]
    assert results[1].faces[0].smoothed[0] == pytest.approx(1, abs=1e-3)
    assert results[0].faces[0].id != results[1].faces[0].id


MISTAKES = [
    ("emotion_lab.live", ("source=0",), "ckpt is missing"),
    ("emotion_lab.predict", ("ckpt=RUN",), "source is missing"),
    ("emotion_lab.predict", ("ckpt=RUN", "source=0"), "emotion_lab.live source=0"),
    ("emotion_lab.predict", ("ckpt=RUN", "source=nowhere.jpg"), "no file, folder or camera"),
    ("emotion_lab.live", ("ckpt=[a,b]", "source=0"), "one checkpoint is taken here"),
    ("emotion_lab.live", ("ckpt=nowhere", "source=0"), "no such checkpoint"),
    ("emotion_lab.live", ("ckpt=RUN", "source=97", "display=none"), "camera"),
    ("emotion_lab.live", ("ckpt=RUN", "display=windw"), "expected one of auto, window, web"),
    ("emotion_lab.live", ("ckpt=RUN", "detector=yunett"), "Did you mean 'yunet'"),
    ("emotion_lab.live", ("ckpt=RUN", "smoothing=emma"), "Did you mean 'ema'"),
    (
        "emotion_lab.live",
        ("ckpt=RUN", "source=CLIP", "display=none", "detector.file=no.onnx"),
        "no.onnx",
    ),
    (
        "emotion_lab.live",
        ("ckpt=RUN", "source=CLIP", "display=none", "language=xx", "detector=haar"),
        "language",
    ),
    (
        "emotion_lab.live",
        ("ckpt=RUN", "source=CLIP", "save=CLIP", "overwrite=true", "display=none"),
        "save and source are the same file",
    ),
    (
        "emotion_lab.live",
        ("ckpt=RUN", "source=CLIP", "save=a.mp4", "log=a.mp4", "display=none"),
        "log and save are the same file",
    ),
    ("emotion_lab.live", ("ckpt=RUN", "display=web", "web.port=99999"), "from 0 to 65535"),
]


@pytest.mark.parametrize(("module", "arguments", "words"), MISTAKES)
def test_mistakes_are_one_line(
    module: str, arguments: tuple[str, ...], words: str, run: Path, clip: Path, tmp_path: Path
) -> None:
    filled = [text.replace("RUN", str(run)).replace("CLIP", str(clip)) for text in arguments]
    done = command(*filled, module=module, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_failed_start_empties_no_log(run: Path, clip: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("kept\n")
    call = (f"ckpt={run}", f"source={clip}", *QUICK, "display=none", f"log={log}")
    done = command(
        *call,
        f"save={tmp_path / 'x.txt'}",
        "overwrite=true",
        module="emotion_lab.live",
        cwd=tmp_path,
    )
    assert done.returncode == 2 and "video format" in done.stderr
    assert log.read_text() == "kept\n"


def test_a_bad_prior_is_told_before_a_face_appears() -> None:
    cfg = composed("smoothing=hmm", "smoothing.prior=[a,b]", entry="live")
    with pytest.raises(UserError, match="smoothing.prior"):
        Pipeline(_Boxes([]), _Bright(), cfg["smoothing"])


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent")
def test_ctrl_c_keeps_everything(run: Path, clip: Path, tmp_path: Path) -> None:
    log, video = tmp_path / "log.jsonl", tmp_path / "out.avi"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "emotion_lab.live", f"ckpt={run}", f"source={clip}"),
            *(*QUICK, "display=none", "loop=true", "realtime=true", f"log={log}", f"save={video}"),
            f"hydra.run.dir={tmp_path / 'live'}",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until and not (log.exists() and log.read_text().count("\n") > 10):
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    rows = _rows(log)
    assert len(rows) > 10
    assert cv2.VideoCapture(str(video)).read()[0]
    assert (tmp_path / "live" / "summary.csv").is_file()
    assert str(tmp_path / "live") in output


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("six_faces.jpg", 6),
        ("two_people.jpg", 2),
        ("one_face.jpg", 1),
        ("one_face_rgba.png", 1),
        ("no_faces.jpg", 0),
    ],
)
def test_faces_on_real_photos(name: str, count: int, run: Path, tmp_path: Path) -> None:
    if not (MEDIA / name).is_file():
        pytest.skip("the shared photos are not beside the checkout")
    done = command(
        f"ckpt={run}",
        f"source={MEDIA / name}",
        f"detector.file={YUNET}",
        "backend=torch",
        f"out={tmp_path / 'out'}",
        module="emotion_lab.predict",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (row,) = _rows(tmp_path / "out" / "predictions.jsonl")
    assert len(row["faces"]) == count
