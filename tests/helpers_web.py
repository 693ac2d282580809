"""What the tests of the web page share: drawn frames, a session, a browser that looks at it."""

from __future__ import annotations

import contextlib
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from starlette.testclient import TestClient

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.video.detectors.full_frame import FullFrame
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sources.threaded import FrameReader, FrameSource
from emotion_lab.video.types import Frame
from emotion_lab.video.web.routes import build_app
from emotion_lab.video.web.sessions import SessionManager

SMOOTHING = {"name": "none", "threshold": 0.3, "switch_evidence_s": 0.04}


class Fake:
    """A classifier that is sure of "happy" on bright faces and of nothing on dark ones."""

    classes = list(EMOTIONS)
    crop_margin = 0.0
    runtime_name = "fake"

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        rows = np.full((len(images), len(self.classes)), 1 / len(self.classes), np.float32)
        for row, image in zip(rows, images, strict=True):
            if image.mean() > 100:
                row[:] = 0.05
                row[self.classes.index("happy")] = 0.7
        return rows


class Drawn(FrameReader):
    """Grey frames at 100 frames a second, ``count`` of them or without end."""

    name, kind, fps, size = "drawn", "clip", 100.0, (64, 48)

    def __init__(self, count: int | None = None, live: bool = False, value: int = 200) -> None:
        self.count, self.live, self.value = count, live, value
        self.error: Exception | None = None

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        index = 0
        while not stop.is_set() and (self.count is None or index < self.count):
            if self.live:
                stop.wait(0.01)
            image = np.full((48, 64, 3), self.value, np.uint8)
            yield Frame(image, index, index / 100, time.time(), self.name)
            index += 1
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        pass


def make_session(reader: FrameReader, anonymize: str = "none") -> PipelineRunner:
    pipeline = Pipeline(FullFrame({}), Fake(), SMOOTHING)  # type: ignore[arg-type]
    overlay = Overlay({}, Fake.classes, "en", anonymize)
    return PipelineRunner(FrameSource(reader), pipeline, overlay, [], {"detector": "full_frame"})


def wait_for(test: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return what ``test`` returns as soon as that is true."""
    until = time.monotonic() + seconds
    while not (value := test()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)
    return value


class Page:
    """A hub with a running session, and a browser that looks at it."""

    def __init__(
        self, session: PipelineRunner, folder: Path, token: str | None = None, start: bool = True
    ) -> None:
        self.hub = SessionManager(session, folder)
        self.left = False
        self.app = build_app(self.hub, self.leave, token, token is None, 8080)
        self.client = TestClient(self.app, base_url="http://127.0.0.1:8080")
        if start:
            self.hub.main.start()

    def leave(self) -> None:
        self.left = True

    def next(self, view: str = "live", after: int = -1) -> tuple[dict[str, Any], bytes]:
        answer = self.client.get("/api/next", params={"view": view, "after": after})
        assert answer.status_code == 200, answer.text
        length = struct.unpack(">I", answer.content[:4])[0]
        return json.loads(answer.content[4 : 4 + length]), answer.content[4 + length :]

    def first(self, view: str = "live") -> tuple[dict[str, Any], bytes]:
        """Return the first answer that holds a picture."""
        return wait_for(lambda: got if (got := self.next(view))[1] else None)

    def until(self, state: str, view: str = "live") -> dict[str, Any]:
        return wait_for(lambda: got if (got := self.next(view)[0])["state"] == state else None)


@contextlib.contextmanager
def pages(folder: Path) -> Iterator[Callable[..., Page]]:
    """Give a function that opens a page on a reader; every page is closed at the end."""
    opened: list[Page] = []

    def make(
        reader: FrameReader | None = None, token: str | None = None, start: bool = True, **more: Any
    ) -> Page:
        page = Page(make_session(reader or Drawn(live=True), **more), folder, token, start)
        opened.append(page)
        return page

    yield make
    for page in opened:
        page.hub.close()


def decoded(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def picture(value: int = 200, ending: str = ".jpg") -> bytes:
    return cv2.imencode(ending, np.full((40, 60, 3), value, np.uint8))[1].tobytes()


def frames_of(path: Path) -> int:
    video, count = cv2.VideoCapture(str(path)), 0
    while video.read()[0]:
        count += 1
    return count
