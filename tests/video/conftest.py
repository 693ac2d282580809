"""Fixtures of the video tests."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_sources import capture_threads

if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn", "httpx")):
    collect_ignore_glob = ["test_web*.py"]


@pytest.fixture
def no_capture_threads() -> Iterator[None]:
    """Fail if a capture thread is still running at the end of the test."""
    yield
    gc.collect()
    assert capture_threads() == []


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a web page for a frame reader."""
    from tests.helpers_web import pages  # needs starlette

    with pages(tmp_path) as open_page:
        yield open_page
