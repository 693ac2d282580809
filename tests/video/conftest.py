"""Fixtures of the video tests."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emotion_lab.video.sources import camera
from tests.helpers_sources import FakeCapture, capture_threads

if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn", "httpx")):
    collect_ignore_glob = ["test_web*.py"]


@pytest.fixture
def no_capture_threads() -> Iterator[None]:
    """Fail if a capture thread is still running at the end of the test."""
    yield
    gc.collect()
    assert capture_threads() == []


@pytest.fixture
def frame_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the cameras; the list takes the number of frames of each connection."""
    monkeypatch.setattr(camera.cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(camera, "BACKOFF_S", (0.01, 0.04))
    monkeypatch.setattr(FakeCapture, "opened", [])
    monkeypatch.setattr(FakeCapture, "frame_counts", [])
    return FakeCapture.frame_counts


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a web page for a frame reader."""
    from tests.helpers_web import pages  # needs starlette

    with pages(tmp_path) as open_page:
        yield open_page
