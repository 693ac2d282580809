"""Strip along the bottom of the frame: the label of one face over the last seconds."""

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
    draw_text,
    fill,
    shade,
    text_colour_on,
)
from emotion_lab.video.types import FrameResult

_GAP_S = 1.0  # a longer absence shows as a gap


class LabelHistory:
    """Displayed label of each face over the last seconds, as runs [start_s, end_s, label]."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.runs: dict[int, deque[list[Any]]] = {}
        self._last: tuple[str, float] = ("", -math.inf)

    def add(self, result: FrameResult) -> None:
        """Add a frame; a new source or a time that decreases clears the history."""
        source, last_s = self._last
        if result.source != source or result.time_s < last_s:
            self.runs.clear()
        self._last = (result.source, result.time_s)
        now = result.time_s
        for face in result.faces:
            runs = self.runs.setdefault(face.id, deque())
            continued = bool(runs) and now - runs[-1][1] <= _GAP_S
            if continued:
                runs[-1][1] = now
            if not continued or runs[-1][2] != face.label:
                runs.append([now, now, face.label])
        for key in list(self.runs):
            runs = self.runs[key]
            while runs and runs[0][1] < now - self.seconds:
                runs.popleft()
            if not runs:
                del self.runs[key]

    def displayed_id(self, result: FrameResult) -> int | None:
        """Return the id of the first face in the frame, else of the oldest one, else None."""
        ids = [face.id for face in result.faces] or list(self.runs)
        return ids[0] if ids else None


def draw_strip(
    image: np.ndarray,
    scale: OverlayScale,
    renderer: TextRenderer,
    history: LabelHistory,
    result: FrameResult,
    label_style: Callable[[int | None], tuple[str, Colour]],
) -> Rect:
    """Draw the strip in place; the current time is at its right end.

    Args:
        history: Already contains ``result``.
        label_style: Label (None while uncertain) -> its text and colour.

    Returns:
        The rectangle of the strip; height 0 if there is no history yet, as for a photo.
    """
    height, width = image.shape[:2]
    face_id, now = history.displayed_id(result), result.time_s
    if face_id is None or history.seconds <= 0 or now <= 0:
        return (0, height, 0, 0)
    strip_height = scale.row + scale.pad
    rect = (0, height - strip_height, width, strip_height)
    shade(image, rect)
    id_text = renderer.text(f"{face_id}", scale.small, WHITE, "numbers")
    left = id_text.width + 2 * scale.pad
    baseline = height - strip_height + round(strip_height * 0.7)
    draw_text(image, id_text, scale.pad, baseline)
    for start, end, label in history.runs[face_id]:
        x0 = left + round(max(0.0, 1 - (now - start) / history.seconds) * (width - left))
        x1 = left + round((1 - (now - end) / history.seconds) * (width - left))
        text, colour = label_style(label)
        fill(image, (x0, rect[1] + 2, max(1, x1 - x0), strip_height - 4), colour)
        bitmap = renderer.text(text, scale.small, text_colour_on(colour))
        if bitmap.width + 2 * scale.pad <= x1 - x0:
            draw_text(image, bitmap, x0 + scale.pad, baseline)
    return rect
