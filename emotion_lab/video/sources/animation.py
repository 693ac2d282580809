"""Animated images (GIF, WebP, APNG, AVIF) as clips."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.data.images import DECODE_ERRORS, to_array
from emotion_lab.video.sources.threaded import FrameReader
from emotion_lab.video.types import Frame

#: Formats of Pillow whose further pictures are frames; those of a TIFF are pages.
_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
#: Browsers show frames of at most 10 ms for 100 ms, because old files mean "as usual" by that.
_SHORTEST_MS, _DEFAULT_MS = 10.0, 100.0


def num_pictures(path: Path) -> tuple[int, bool]:
    """Return how many pictures an image file holds, and whether they are frames of an animation.

    Return (1, False) for files that Pillow cannot read.
    """
    with (
        contextlib.suppress(*DECODE_ERRORS),
        path.open("rb") as stream,
        Image.open(stream) as image,
    ):
        # The second picture of a JPEG from a camera (MPO) is a preview or a depth map.
        count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
        return count, count > 1 and image.format in _FORMATS
    return 1, False


class AnimationReader(FrameReader):
    """The frames of an animated image, at the times of the file.

    Args:
        path: A file for which :func:`num_pictures` returns True.
    """

    kind = "clip"

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        with path.open("rb") as stream, Image.open(stream) as image:
            self.count = int(getattr(image, "n_frames", 1))
            self.size = image.size
            image.load()  # some formats know the duration of a frame once it is decoded
            self.fps = 1000 / self._duration_ms(image)

    @staticmethod
    def _duration_ms(image: Image.Image) -> float:
        duration = float(image.info.get("duration") or 0)
        return duration if duration > _SHORTEST_MS else _DEFAULT_MS

    def _picture(self, image: Image.Image, index: int) -> np.ndarray:
        image.seek(index)
        picture = to_array(image.copy())
        return picture if picture.shape[2] == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield all frames; ``time_s`` is the sum of the durations before."""
        time_s = 0.0
        with self.path.open("rb") as stream, Image.open(stream) as image:
            for index in range(self.count or 0):
                if stop.is_set():
                    return
                try:
                    picture = self._picture(image, index)
                except DECODE_ERRORS as error:
                    text = " ".join(str(error).split())
                    raise UserError(f"{self.name}: frame {index} is damaged ({text}).") from error
                yield Frame(picture, index, time_s, time.time(), self.name)
                time_s += self._duration_ms(image) / 1000

    def close(self) -> None:
        """Nothing is open between two reads."""
