"""Decoded frames that the parts of the benchmark run on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.video.sources.open import open_source, read_photo
from emotion_lab.video.sources.threaded import FrameReader
from emotion_lab.video.types import Frame

#: Key in the result -> config key of the sources that speed is measured on.
SOURCES = {"one_face": "clip", "six_faces": "photo"}
#: Frame rate of decoded clips.
FPS = 30.0
#: Number of frames of a moving photo.
_PHOTO_FRAMES = 150


def clip_frames(path: Path, limit: int) -> list[Frame]:
    """Decode a clip in advance: reading it is not timed."""
    with open_source({"source": str(path), "max_frames": limit}) as source:
        return list(source)


def moving_photo(path: Path) -> list[Frame]:
    """Return a photo as a clip: it moves in a circle with a diameter of 3 % of its width."""
    image = read_photo(path)
    scale = 960 / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    frames = []
    for index in range(_PHOTO_FRAMES):
        angle = 2 * np.pi * index / 60
        shift = 0.015 * width * np.array([np.cos(angle), np.sin(angle)])
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
        moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        frames.append(Frame(moved, index, index / FPS, time.time(), path.name))
    return frames


class DecodedReader(FrameReader):
    """Frames of a clip that is decoded already: reading it is not timed."""

    kind, fps = "clip", FPS

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield all frames."""
        yield from self._frames

    def close(self) -> None:
        """Release nothing."""
