"""Config of a small network and data set, for tests of the evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import TINY, composed


@pytest.fixture(scope="session")
def cfg() -> dict[str, Any]:
    return composed(*TINY, "data.n=70", "data.size=32", "model.image_size=32", "augment=none")
