"""Helpers for tests of sources: clips with numbered frames, real clips, capture threads."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from emotion_lab.video.sources.open import open_source


class FakeCapture:
    """Replacement of cv2.VideoCapture: a camera that fails after a number of frames."""

    opened: ClassVar[list[Any]] = []
    frame_counts: ClassVar[list[int]] = []  # of the next captures; 0 does not open

    def __init__(self, target: Any, *rest: Any) -> None:
        self.remaining = self.frame_counts.pop(0) if self.frame_counts else 0
        self.open, self.properties, self.released = self.remaining > 0, {}, False
        FakeCapture.opened.append(self)

    def isOpened(self) -> bool:  # noqa: N802 - the name in OpenCV
        return self.open

    def grab(self) -> bool:
        time.sleep(0.002)
        self.remaining -= 1
        return self.remaining >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((6, 8, 3), (1, 2, 3), np.uint8)

    def read(self) -> tuple[bool, np.ndarray | None]:
        return self.retrieve() if self.grab() else (False, None)

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FPS: 30.0}.get(key, -1.0)

    def set(self, key: int, value: float) -> bool:
        self.properties[key] = value
        return True

    def release(self) -> None:
        self.released = True


def write_clip(path: Path, frames: int = 60, fps: float = 25.0) -> Path:
    """Write a clip of 96 x 64 pixels with numbered frames.

    The upper half is red. The lower half shows the frame number as six black or white squares,
    lowest bit on the left.
    """
    coding = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*coding), fps, (96, 64))
    assert writer.isOpened()
    for i in range(frames):
        image = np.zeros((64, 96, 3), np.uint8)
        image[:32] = (0, 0, 255)  # red, in OpenCV's order
        image[32:] = np.repeat([255 * (i >> bit & 1) for bit in range(6)], 16)[None, :, None]
        writer.write(image)
    writer.release()
    return path


def number(image: np.ndarray) -> int:
    """Return the frame number encoded by :func:`write_clip`."""
    bits = image[36:60].mean((0, 2)).reshape(6, 16)[:, 4:12].mean(1) > 128
    return int(bits @ (1 << np.arange(6)))


def capture_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("capture")]


def read_single_image(cfg: dict[str, Any]) -> np.ndarray:
    """Return the image of a source with one image."""
    with open_source(cfg) as source:
        (frame,) = source
        assert source.stills and source.count == 1 and not source.live
        assert source.size == frame.image.shape[1::-1]
    assert frame.image.dtype == np.uint8 and frame.image.ndim == 3 and frame.image.shape[2] == 3
    return frame.image
