"""Figures of tests of something else: drawn, but not rendered, which takes seconds a run."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import pytest

#: Environment variable: render the figures of commands too.
RENDER = "EMOTION_LAB_TEST_RENDER"
PNG = cv2.imencode(".png", np.zeros((100, 100, 3), np.uint8))[1].tobytes()


def skip_rendering(patch: pytest.MonkeyPatch) -> None:
    """Replace ``Figure.savefig``: it writes a black image."""
    from matplotlib.figure import Figure

    def savefig(figure: Figure, file: str | Path | IO[bytes], **options: Any) -> None:
        if isinstance(file, (str, Path)):
            Path(file).write_bytes(PNG)
        else:
            file.write(PNG)

    patch.setattr(Figure, "savefig", savefig)
