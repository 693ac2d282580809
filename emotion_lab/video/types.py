"""Data types passed between the stages of the live pipeline.

source -> Frame -> detector -> Detections -> tracker -> Track -> classifier -> smoother -> Face
-> FrameResult -> overlay and sinks. Every image is uint8 (H, W, 3), **RGB**: sources convert
from OpenCV's BGR when they read, sinks convert back when they write.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from emotion_lab.core.registry import Registry
from emotion_lab.video.head_pose import HeadPose

#: x, y (top left), width, height in pixels of the source.
Box = tuple[float, float, float, float]


class Closeable(AbstractContextManager):
    """Context manager that calls :meth:`close` on exit, also after Ctrl-C."""

    def close(self) -> None:
        """Release all resources; may be called more than once."""
        raise NotImplementedError

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass
class Frame:
    """One image of a source.

    Attributes:
        image: uint8 (H, W, 3) RGB, upright.
        index: Number of the frame in the source, from 0; dropped frames leave gaps.
        time_s: Seconds since the start of the source (media time of a video file, capture time of
            a camera).
        wall: ``time.time()`` at capture; for a file, when the pipeline receives the frame.
        name: File name if the source is a folder, else the name of the source.
        loop: Number of the repetition of a file with ``loop=true``, from 0.
        reduced: How many times larger the sides of the file are, for a photo of very many pixels.
        tracks: The tracks of a recording of faces alone; None: faces are detected and tracked.
    """

    image: np.ndarray
    index: int
    time_s: float
    wall: float
    name: str = ""
    loop: int = 0
    reduced: int = 1
    tracks: list[Track] | None = None


@dataclass
class Detections:
    """Faces detected in one image, in pixels of that image.

    Attributes:
        boxes: float32 (N, 4): x, y (top left), width, height; may extend beyond the image.
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
        """Return empty detections."""
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


class Detector(Protocol):
    """Face detector."""

    #: Shown by the overlay, the web page and the benchmarks.
    name: str

    def __call__(self, image: np.ndarray) -> Detections:
        """Detect faces in uint8 (H, W, 3) RGB of any size; the detector resizes if it needs to."""


@dataclass
class Track:
    """One face followed over time.

    Attributes:
        id: Stable number, from 1 in each clip or photo.
        box: float32 (4,): x, y, width, height, smoothed.
        score: Score of the last matched detection.
        landmarks: float32 (5, 2) of the last detection, moved with the box, or None.
        seen_s: ``time_s`` of the last matched detection.
        detected: Whether a detection of this frame matched (False: box predicted from motion).
    """

    id: int
    box: np.ndarray
    score: float
    landmarks: np.ndarray | None
    seen_s: float
    detected: bool = True


class Smoother(Protocol):
    """Smooths the class probabilities of one face over time; one instance per track."""

    def update(self, probabilities: np.ndarray, time_s: float) -> np.ndarray:
        """Smooth float (K,) that sum to 1; ``time_s`` is increasing."""


@dataclass
class Face:
    """One face in one frame.

    Attributes:
        box: x, y, width, height in source pixels.
        probabilities: float32 (K,) of the last frame in which the face was classified.
        smoothed: float32 (K,), smoothed over time.
        label: Index of the displayed class (after hysteresis), or None while uncertain.
        quantities: Valence, arousal and intensity, smoothed over time, see
            :class:`~emotion_lab.inference.derived.FaceQuantities`.
        quantity_source: Quantity -> ``learned`` or ``derived``.
        pose: Pose of the head; None without landmarks.
        landmarks: Those of the track, float32 (5, 2), or None.
        turned_away: Whether the face is uncertain because it is turned too far from the camera.
        classified: Whether the face was classified in this frame; False: it hardly changed.
    """

    id: int
    box: Box
    score: float
    probabilities: np.ndarray
    smoothed: np.ndarray
    label: int | None
    quantities: dict[str, float | None] = field(default_factory=dict)
    quantity_source: dict[str, str] = field(default_factory=dict)
    pose: HeadPose | None = None
    turned_away: bool = False
    landmarks: np.ndarray | None = None
    classified: bool = True


@dataclass
class FrameResult:
    """Pipeline output for one frame.

    Attributes:
        source: ``Frame.name``.
        frame: ``Frame.index``.
        time_s: Time in the source, seconds.
        wall: Capture time, seconds since 1970.
        size: (width, height) of the picture.
        faces: Sorted by track id.
        latency_ms: Processing time of a file or photo; from capture to label for a live source.
        stages_ms: Duration of each stage (cut, detect, track, crop, select,
            classify, smooth).
        hidden: Regions to hide in the picture, set by the anonymizer; None without one.
        held: Number of hidden faces that were detected in other frames only.
        reduced: ``Frame.reduced``: boxes and size are those of the reduced picture.
        replayed: Whether the frame is one of a recording.
    """

    source: str
    frame: int
    time_s: float
    wall: float
    size: tuple[int, int]
    faces: list[Face] = field(default_factory=list)
    latency_ms: float = 0.0
    stages_ms: dict[str, float] = field(default_factory=dict)
    hidden: list[Box] | None = None
    held: int = 0
    reduced: int = 1
    replayed: bool = False


#: Name -> (conf/detector/<name>.yaml as a dict) -> detector.
DETECTORS: Registry[Callable[[dict[str, Any]], Detector]] = Registry(
    "detector", "emotion_lab.video.detectors"
)
#: Name -> (conf/smoothing/<name>.yaml as a dict, number of classes) -> smoother of one track.
SMOOTHERS: Registry[Callable[[dict[str, Any], int], Smoother]] = Registry(
    "smoothing", "emotion_lab.video.smoothing"
)
