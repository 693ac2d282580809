"""Fixtures of the inference tests."""

from __future__ import annotations

import pytest

from emotion_lab.inference import classifier


@pytest.fixture(autouse=True)
def short_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm up with one batch size instead of eight; these tests load many classifiers."""
    monkeypatch.setattr(classifier, "WARM_FACES", 1)
