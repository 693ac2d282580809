"""Shared by the tests of sinks: frames, faces, results, and readers of written files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.video.types import Face, Frame, FrameResult

CLASSES = list(EMOTIONS)
HAPPY, SAD = CLASSES.index("happy"), CLASSES.index("sad")
ROOT = Path(__file__).resolve().parents[1]


def face(
    label: int | None = HAPPY,
    key: int = 1,
    box: tuple[float, float, float, float] = (10.25, 20.5, 30.0, 40.0),
) -> Face:
    raw = np.array([0.1, 0.05, 0.05, 0.6, 0.1, 0.05, 0.05], np.float32)
    smoothed = np.array([0.1, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1], np.float32)
    return Face(key, tuple(np.float32(v) for v in box), np.float32(0.91), raw, smoothed, label)


def result(
    index: int = 0, time_s: float = 0.0, faces: list[Face] | None = None, source: str = "clip.mp4"
) -> FrameResult:
    return FrameResult(source, index, time_s, 1.7e9 + time_s, (320, 240), faces or [], 4.5)


def picture(width: int = 320, height: int = 240, value: int = 0) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def frame(image: np.ndarray | None = None, index: int = 0, time_s: float = 0.0) -> Frame:
    return Frame(picture() if image is None else image, index, time_s, 1.7e9 + time_s, "clip.mp4")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def frames_of(path: Path) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened(), path
    while (image := capture.read()[1]) is not None:
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    capture.release()
