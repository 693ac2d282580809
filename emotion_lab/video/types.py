"""What the stages of the live pipeline hand to each other.

source -> Frame -> detector -> Detections -> tracker -> Track -> classifier -> smoother -> Face
-> FrameResult -> overlay and sinks. Every image in here is uint8 (H, W, 3), **RGB**: OpenCV's BGR
ends where a source reads and begins where a sink writes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from emotion_lab.core.registry import Registry


class Closeable(AbstractContextManager):
    """Something that a ``with`` block closes, also on Ctrl-C."""

    def close(self) -> None:
        """Free what is held; may be called more than once."""
        raise NotImplementedError

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass
class Frame:
    """One picture of a source.

    Attributes:
        image: uint8 (H, W, 3) RGB, upright.
        index: Number of the frame in the source, from 0; dropped frames leave gaps.
        time_s: Seconds since the source began (media time of a clip, capture time of a camera).
        wall: ``time.time()`` when it was captured.
        name: File name where the source is a folder, else the source itself.
    """

    image: np.ndarray
    index: int
    time_s: float
    wall: float
    name: str = ""


@dataclass
class Detections:
    """Faces found in one image, in its own pixels.

    Attributes:
        boxes: float32 (N, 4): x, y (top left), width, height; may reach over the border.
        scores: float32 (N,), 0..1.
        landmarks: float32 (N, 5, 2) or None: the eye on the left of the image, the eye on the
            right of the image, nose tip, mouth corner on the left, mouth corner on the right.
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def none() -> Detections:
        """Return no face."""
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


class Detector(Protocol):
    """Finds faces."""

    #: Shown by the overlay and the bench.
    name: str

    def __call__(self, image: np.ndarray) -> Detections:
        """Find faces in uint8 (H, W, 3) RGB, any size; scaling is the detector's own business."""
        ...


@dataclass
class Track:
    """A face followed through time.

    Attributes:
        id: Stable number, from 1.
        box: float32 (4,): x, y, width, height, smoothed.
        score: Of the last detection that matched.
        landmarks: float32 (5, 2) of the last detection, moved with the box, or None.
        seen_s: ``time_s`` of the last detection that matched.
        detected: Whether this very frame's detection matched (False: carried on by motion).
    """

    id: int
    box: np.ndarray
    score: float
    landmarks: np.ndarray | None
    seen_s: float
    detected: bool = True


class Smoother(Protocol):
    """Smooths the class probabilities of one face over time; one instance for each track."""

    def update(self, probabilities: np.ndarray, time_s: float) -> np.ndarray:
        """Take float (K,) that sum to 1 at ``time_s`` (seconds, rising) and return the smoothed."""
        ...


@dataclass
class Face:
    """What is known of one face in one frame.

    Attributes:
        id: The track's.
        box: x, y, width, height in source pixels.
        score: The detector's.
        probabilities: float32 (K,) of this frame alone.
        smoothed: float32 (K,) over time.
        label: Index of the shown class (after hysteresis), or None while uncertain.
    """

    id: int
    box: tuple[float, float, float, float]
    score: float
    probabilities: np.ndarray
    smoothed: np.ndarray
    label: int | None


@dataclass
class FrameResult:
    """What is known of one frame.

    Attributes:
        source: The frame's name.
        frame: Its index.
        time_s: Its time in the source.
        wall: Its capture time, seconds since 1970.
        size: (width, height) of the frame.
        faces: By track id.
        latency_ms: From capture to here.
        stages_ms: Time of each stage (cut, detect, track, classify, smooth).
    """

    source: str
    frame: int
    time_s: float
    wall: float
    size: tuple[int, int]
    faces: list[Face] = field(default_factory=list)
    latency_ms: float = 0.0
    stages_ms: dict[str, float] = field(default_factory=dict)


#: Name -> (conf/detector/<name>.yaml as a plain dict) -> detector.
DETECTORS: Registry[Callable[[dict[str, Any]], Detector]] = Registry(
    "detector", "emotion_lab.video.detectors"
)
#: Name -> (conf/smoothing/<name>.yaml as a plain dict, number of classes) -> smoother of one track.
SMOOTHERS: Registry[Callable[[dict[str, Any], int], Smoother]] = Registry(
    "smoothing", "emotion_lab.video.smoothing"
)
