"""Fixtures of the report tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def render(rendered_figures: None) -> None:
    """Render every figure."""
