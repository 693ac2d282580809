"""Fixtures of the video tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.helpers_sources import capture_threads


@pytest.fixture
def no_capture_threads() -> Iterator[None]:
    """Fail if a capture thread is still running at the end of the test."""
    yield
    gc.collect()
    assert capture_threads() == []
