"""Helpers for tests of sources: clips with numbered frames, real clips, capture threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.video.sources.open import open_source


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
