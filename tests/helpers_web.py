"""Shared by the tests of the web page: a frame reader, a runner, a client of the page."""

from __future__ import annotations

import contextlib
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from starlette.testclient import TestClient

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.video.anonymize import Anonymizer
from emotion_lab.video.detectors.full_frame import FullFrame
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sinks.jsonl import JsonlSink
from emotion_lab.video.sources.threaded import FrameReader, FrameSource
from emotion_lab.video.types import Frame
from emotion_lab.video.web.routes import build_app
from emotion_lab.video.web.server import LOCAL_HOSTS
from emotion_lab.video.web.sessions import SessionManager
from tests.helpers_classifier import ProbabilitiesOnly

SMOOTHING = {"name": "none", "threshold": 0.3, "switch_evidence_s": 0.04}


class FakeClassifier(ProbabilitiesOnly):
    """Returns "happy" for bright faces and uniform probabilities for dark ones."""

    classes: ClassVar[list[str]] = list(EMOTIONS)
    runtime_name = "fake"

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        rows = np.full((len(images), len(self.classes)), 1 / len(self.classes), np.float32)
        for row, image in zip(rows, images, strict=True):
            if image.mean() > 100:
                row[:] = 0.05
                row[self.classes.index("happy")] = 0.7
        return rows


class GreyFrames(FrameReader):
    """``count`` grey frames at 100 frames/s; endless if None."""

    name, kind, fps, size = "grey", "clip", 100.0, (64, 48)

    def __init__(self, count: int | None = None, live: bool = False, value: int = 200) -> None:
        self.count, self.live = count, live
        self.image = np.full((48, 64, 3), value, np.uint8)
        self.error: Exception | None = None

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        index = 0
        while not stop.is_set() and (self.count is None or index < self.count):
            if self.live:
                stop.wait(0.01)
            yield Frame(self.image, index, index / 100, time.time(), self.name)
            index += 1
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        pass


def make_runner(reader: FrameReader, folder: Path, anonymize: str = "none") -> PipelineRunner:
    pipeline = Pipeline(FullFrame({}), FakeClassifier(), SMOOTHING)
    anonymizer = None if anonymize == "none" else Anonymizer(anonymize, [FullFrame({})])
    overlay = Overlay({}, FakeClassifier.classes, "en", anonymizer)
    log = JsonlSink(folder / "live.jsonl", FakeClassifier.classes)
    return PipelineRunner(FrameSource(reader), pipeline, overlay, [log])


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return the first true value of ``condition()``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.01)
    return value


def parse_next(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Split a response of ``/api/next`` into status and JPEG."""
    length = struct.unpack(">I", content[:4])[0]
    return json.loads(content[4 : 4 + length]), content[4 + length :]


class Page:
    """A session manager, its web application and an HTTP client."""

    def __init__(
        self, runner: PipelineRunner, folder: Path, token: str | None = None, start: bool = True
    ) -> None:
        self.manager = SessionManager({"live": runner}, folder)
        self.main = self.manager.main
        self.shut_down = False
        hosts = LOCAL_HOSTS if token is None else None
        self.app = build_app(self.manager, self.on_shut_down, token, hosts, 8080)
        self.client = TestClient(self.app, base_url="http://127.0.0.1:8080")
        if start:
            self.main.start()

    def on_shut_down(self) -> None:
        self.shut_down = True

    def next(self, view: str = "live", after: int = -1) -> tuple[dict[str, Any], bytes]:
        response = self.client.get("/api/next", params={"view": view, "after": after})
        assert response.status_code == 200, response.text
        return parse_next(response.content)

    def first(self, view: str = "live") -> tuple[dict[str, Any], bytes]:
        """Return the first response with a picture."""
        return wait_for(lambda: answer if (answer := self.next(view))[1] else None)

    def until(self, state: str, view: str = "live") -> dict[str, Any]:
        return wait_for(lambda: s if (s := self.next(view)[0])["state"] == state else None)


@contextlib.contextmanager
def pages(folder: Path) -> Iterator[Callable[..., Page]]:
    """Yield a function that opens a page; all pages are closed at the end."""
    opened: list[Page] = []

    def open_page(
        reader: FrameReader | None = None,
        token: str | None = None,
        start: bool = True,
        **kwargs: Any,
    ) -> Page:
        runner = make_runner(reader or GreyFrames(live=True), folder, **kwargs)
        opened.append(Page(runner, folder, token, start))
        return opened[-1]

    yield open_page
    for page in opened:
        page.manager.close()


def decode(jpeg: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def encoded_image(value: int = 200, suffix: str = ".jpg") -> bytes:
    return cv2.imencode(suffix, np.full((40, 60, 3), value, np.uint8))[1].tobytes()
