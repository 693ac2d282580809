"""The strip along the bottom of a picture: the label of one face over the last seconds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from emotion_lab.video.overlay.primitives import (
    WHITE,
    Colour,
    OverlayScale,
    Rect,
    TextRenderer,
    fill,
    ink_on,
    shade,
    write,
)
from emotion_lab.video.types import FrameResult

_GAP_S = 1.0  # a face away for longer leaves a gap


class LabelHistory:
    """The shown label of each face over the last seconds, as runs [start, end, label]."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.runs: dict[int, deque[list[Any]]] = {}
        self._last: tuple[str, float] = ("", -math.inf)

    def add(self, result: FrameResult) -> None:
        """Take in a frame; a new source, or time running backwards, starts afresh."""
        source, before = self._last
        if result.source != source or result.time_s < before:
            self.runs.clear()
        self._last = (result.source, result.time_s)
        now = result.time_s
        for face in result.faces:
            runs = self.runs.setdefault(face.id, deque())
            near = bool(runs) and now - runs[-1][1] <= _GAP_S
            if near:
                runs[-1][1] = now
            if not near or runs[-1][2] != face.label:
                runs.append([now, now, face.label])
        for key in list(self.runs):
            runs = self.runs[key]
            while runs and runs[0][1] < now - self.seconds:
                runs.popleft()
            if not runs:
                del self.runs[key]

    def choose(self, result: FrameResult, wanted: int | None) -> int | None:
        """Return the face to show: the one wanted, else the first in the frame or the oldest."""
        if wanted in self.runs:
            return wanted
        ids = [face.id for face in result.faces] or list(self.runs)
        return ids[0] if ids else None


def draw_strip(
    image: np.ndarray,
    sizes: OverlayScale,
    pen: TextRenderer,
    history: LabelHistory,
    result: FrameResult,
    wanted: int | None,
    look: Callable[[int | None], tuple[str, Colour]],
) -> Rect:
    """Draw the strip in place, the present at its right end.

    Args:
        image: uint8 (H, W, 3) RGB.
        sizes: For this picture.
        pen: Writes the words.
        history: Holds ``result`` already.
        result: The present.
        wanted: Id of the face to show, or None.
        look: Label (None while uncertain) -> its word and colour.

    Returns:
        Where the strip is; of no height where there is nothing to show yet, as for a photo.
    """
    height, width = image.shape[:2]
    chosen, now = history.choose(result, wanted), result.time_s
    if chosen is None or history.seconds <= 0 or now <= 0:
        return (0, height, 0, 0)
    tall = sizes.row + sizes.pad
    rect = (0, height - tall, width, tall)
    shade(image, rect)
    who = pen.text(f"{chosen}", sizes.small, WHITE, "numbers")
    left = who.width + 2 * sizes.pad
    base = height - tall + round(tall * 0.7)
    write(image, who, sizes.pad, base)
    for start, end, label in history.runs[chosen]:
        x0 = left + round(max(0.0, 1 - (now - start) / history.seconds) * (width - left))
        x1 = left + round((1 - (now - end) / history.seconds) * (width - left))
        word, colour = look(label)
        fill(image, (x0, rect[1] + 2, max(1, x1 - x0), tall - 4), colour)
        patch = pen.text(word, sizes.small, ink_on(colour))
        if patch.width + 2 * sizes.pad <= x1 - x0:
            write(image, patch, x0 + sizes.pad, base)
    return rect
