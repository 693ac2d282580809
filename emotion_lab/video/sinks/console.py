"""Prints one line per image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emotion_lab.video.overlay.translations import TURNED_AWAY
from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.types import Frame, FrameResult


def describe_faces(result: FrameResult, classes: Sequence[str]) -> str:
    """Return label and confidence of every face, ``no face`` without one."""
    labels = []
    for face in result.faces:
        if face.turned_away:
            labels.append(TURNED_AWAY)
            continue
        name = "uncertain" if face.label is None else classes[face.label]
        labels.append(f"{name} {float(face.smoothed.max()):.0%}")
    return ", ".join(labels) or "no face"


class ConsoleSink(Sink):
    """Prints name, label and confidence of each image, up to ``limit`` images."""

    def __init__(self, classes: Sequence[str], limit: int = 50) -> None:
        self.classes, self.limit, self.count = list(classes), limit, 0

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Print one line."""
        self.count += 1
        if self.count > self.limit:
            return
        print(f"{result.source}: {describe_faces(result, self.classes)}", flush=True)

    def close(self) -> None:
        """Print the number of images that were not printed."""
        if self.count > self.limit:
            print(f"... and {self.count - self.limit} more images", flush=True)
        self.count = 0
