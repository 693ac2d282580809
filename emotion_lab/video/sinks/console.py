"""A line on the terminal for each image, for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.types import Frame, FrameResult


class ConsoleSink(Sink):
    """Prints the name of each image and what its faces show, the first ``limit`` images only.

    Args:
        classes: Class names in the checkpoint's order.
        limit: Images to print.
    """

    def __init__(self, classes: Sequence[str], limit: int = 50) -> None:
        self.classes, self.limit, self.count = list(classes), limit, 0

    def write(self, frame: Frame, result: FrameResult, drawn: np.ndarray | None) -> None:
        """Print one line."""
        self.count += 1
        if self.count > self.limit:
            return
        found = []
        for face in result.faces:
            name = "uncertain" if face.label is None else self.classes[face.label]
            found.append(f"{name} {float(face.smoothed.max()):.0%}")
        print(f"{result.source}: {', '.join(found) or 'no face'}", flush=True)

    def close(self) -> None:
        """Say how many were not printed."""
        if self.count > self.limit:
            print(f"... and {self.count - self.limit} more images", flush=True)
        self.count = 0
