"""What a visitor brings along: the browser's own camera, a photo, a clip."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.anonymize import Anonymizer
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.overlay.primitives import TextRenderer
from emotion_lab.video.overlay.timeline import LabelHistory
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.sources.open import IMAGES, ImageReader
from emotion_lab.video.sources.threaded import FrameReader, FrameSource
from emotion_lab.video.sources.video_file import VideoFileReader
from emotion_lab.video.types import Frame

#: A browser's camera that sends nothing for this long has gone.
SILENT_S = 10.0


class LockedModel:
    """A detector or classifier that several sessions use in turn; neither takes two at a time.

    Args:
        inner: The detector or classifier.
        lock: The same one for both, so that they do not fight for the same cores.
    """

    def __init__(self, inner: Any, lock: threading.Lock) -> None:
        self._inner, self._lock = inner, lock
        self.name: str = getattr(inner, "name", "")
        self.runtime_name: str = getattr(inner, "runtime_name", "")
        self.classes: list[str] = list(getattr(inner, "classes", ()))
        self.crop_margin: float = getattr(inner, "crop_margin", 0.0)

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> Any:
        """Run it as soon as nobody else does."""
        with self._lock:
            return self._inner(images)


def share(pipeline: Pipeline) -> None:
    """Make the detector and classifier of ``pipeline`` fit for use by several sessions."""
    lock = threading.Lock()
    pipeline.detector = LockedModel(pipeline.detector, lock)
    pipeline.classifier = LockedModel(pipeline.classifier, lock)  # type: ignore[assignment]


def another_pipeline(pipeline: Pipeline, stills: bool) -> Pipeline:
    """Return a pipeline of the same parts and settings that knows no face yet."""
    return Pipeline(
        pipeline.detector,
        pipeline.classifier,
        pipeline._smoothing,
        pipeline.tracking,
        pipeline.align,
        stills=stills,
    )


def another_overlay(overlay: Overlay) -> Overlay:
    """Return an overlay with the same settings, an empty timeline and a pen of its own."""
    other = copy.copy(overlay)
    words, numbers = (Path(overlay.pen.font(kind, 12).path) for kind in ("words", "numbers"))
    other.pen = TextRenderer(words, numbers)
    other.history = LabelHistory(overlay.history.seconds)
    other.anonymizer = Anonymizer(overlay.anonymizer.mode, overlay.anonymizer.hold_s)
    other._spots = {}
    return other


def open_upload(path: Path, name: str) -> FrameSource:
    """Open an uploaded photo or clip.

    Args:
        path: Where it lies.
        name: What the user calls it; frames and messages do too.

    Raises:
        UserError: If it is neither.
    """
    reader: FrameReader
    try:
        try:
            reader = ImageReader(path)
        except UserError:
            if Path(name).suffix.lower() in IMAGES:
                raise
            reader = VideoFileReader(path, name)
    except UserError as error:
        # What follows the first sentence is about the command line.
        first = str(error).replace(str(path), name).split(". ")[0].rstrip(".")
        raise UserError(f"{first}. Choose another photo or clip.") from error
    reader.name = name
    return FrameSource(reader)


class BrowserCameraReader(FrameReader):
    """Frames that a page sends one by one; its source keeps the newest only.

    Args:
        name: What the frames call it.
        done: Asked while nothing comes; True ends it.
    """

    kind, live = "camera", True

    def __init__(self, name: str, done: Callable[[], bool] = lambda: False) -> None:
        self.name = name
        self._done = done
        self._came = threading.Condition()
        self._image: tuple[np.ndarray, float] | None = None

    def put(self, data: bytes) -> None:
        """Take a frame; one that was not looked at yet is dropped.

        Args:
            data: JPEG, or another format that OpenCV reads.

        Raises:
            UserError: If it is no image.
        """
        wall = time.time()
        image = None
        # Raised for one of more pixels than OpenCV takes.
        with contextlib.suppress(cv2.error):
            if data:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError("The camera of the page sent no image.")
        with self._came:
            self._image = (cv2.cvtColor(image, cv2.COLOR_BGR2RGB), wall)
            self._came.notify_all()

    def _take(self, stop: threading.Event) -> tuple[np.ndarray, float] | None:
        """Return the next image and when it came; None when no more will."""
        until = time.monotonic() + SILENT_S
        with self._came:
            while self._image is None:
                self._came.wait(0.25)
                if stop.is_set() or self._done() or time.monotonic() > until:
                    return None
            taken, self._image = self._image, None
        return taken

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield frames as they come; ``time_s`` is 0 at the first."""
        index, began = 0, None
        while (taken := self._take(stop)) is not None:
            image, wall = taken
            now = time.monotonic()
            began = now if began is None else began
            yield Frame(image, index, now - began, wall, self.name)
            index += 1

    def close(self) -> None:
        """Let go of the image that nobody took."""
        with self._came:
            self._image = None
