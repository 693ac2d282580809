"""Benchmark of hidden faces: places are known, and a face that is not found counts as visible."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from emotion_lab.benchmarks import anonymize
from emotion_lab.benchmarks.report import anonymize_report
from emotion_lab.video.anonymize import Anonymizer
from emotion_lab.video.types import Detections

BACKGROUND = np.full((360, 640, 3), 90, np.uint8)


class Bright:
    """Finds the one bright face."""

    name = "bright"

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def __call__(self, image: np.ndarray) -> Detections:
        rows, columns = np.nonzero(image[..., 0] > 150)
        box = [columns.min() + self.shift, rows.min(), np.ptp(columns), np.ptp(rows)]
        return Detections(np.array([box], np.float32), np.ones(1, np.float32))


@pytest.mark.parametrize(("detector", "visible"), [(Bright, 0), (lambda: Bright(shift=200), 20)])
def test_faces_are_counted(
    detector: Callable[[], Bright], visible: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anonymize, "FRAMES", 20)
    monkeypatch.setattr(anonymize, "FACES", 1)
    heads = [np.full((60, 50, 3), 250, np.uint8)]
    case = {"height": 50, "speed": 8, "seed": 0}
    anonymizer = Anonymizer("blur", [detector()])
    row = anonymize.measure(heads, BACKGROUND, anonymizer, **case)
    assert (row["faces"], row["visible"]) == (20, visible)
    assert row["least"] == (0.0 if visible else 1.0) and 0.01 < row["picture"] < 0.2
    result = {"photo": None, "heads": 1, "detector": "bright", "hidden": 0.95, "rows": [row]}
    assert "50 px" in "\n".join(str(block) for block in anonymize_report(result))


def test_a_face_moves_at_its_speed_and_stays_in_the_picture() -> None:
    way = anonymize.path(np.random.default_rng(3), 30, 16)
    steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
    assert np.median(steps) == pytest.approx(16) and steps.max() < 16.01
    assert (way >= 38).all() and (way <= np.array(anonymize.SIZE) - 38).all()
    for _, _, boxes in anonymize.clip([np.zeros((60, 50, 3), np.uint8)], BACKGROUND, 20, 16, 5):
        assert boxes
    assert anonymize.hidden_share((10, 10, 20, 20), [(10, 10, 10, 20)]) == 0.5
