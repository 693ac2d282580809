"""Two models on one recording: matching of faces, agreement, switches, delay, moments, page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.experiments.recordings import report
from emotion_lab.experiments.recordings.load import (
    Decisions,
    match_faces,
    read_sides,
    recorded_sides,
)
from emotion_lab.experiments.recordings.result import compare
from emotion_lab.video.recording import HEADER, ROWS
from emotion_lab.video.sinks.recording import RecordingSink
from emotion_lab.video.types import Face, Frame, FrameResult

CLASSES = ["happy", "sad"]
STEP_S = 0.1
Box = tuple[float, float, float, float]
BOX: Box = (20.0, 10.0, 30.0, 30.0)


def write(
    folder: Path, labels: Sequence[int | None], replay_of: Path | None = None, first: float = 0.0
) -> Path:
    """Write a recording or replay of one face with a label in each frame."""
    header: dict[str, Any] = {"source": "camera", "fps": None, "truth": [], "classes": CLASSES}
    header |= {"settings": {"ckpt": folder.name, "smoothing": {"name": "ema"}}}
    header["replay_of"] = None if replay_of is None else str(replay_of)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    with RecordingSink(folder, header, "frames" if replay_of is None else "none") as sink:
        for index, label in enumerate(labels):
            time_s = first + index * STEP_S
            shares = np.array([0.5, 0.5]) if label is None else 0.1 + 0.8 * np.eye(2)[label]
            probabilities = shares.astype(np.float32)
            face = Face(1, BOX, 0.9, probabilities, probabilities, label)
            result = FrameResult("camera", index, time_s, 0.0, (80, 60), [face], latency_ms=4.0)
            result.replayed = replay_of is not None
            sink.write(Frame(image, index, time_s, 0.0, "camera"), result)
    return folder


@pytest.fixture
def sides(tmp_path: Path) -> Callable[..., tuple[Decisions, Decisions]]:
    """Return a function that writes and reads a recording and its replay."""

    def build(a: Sequence[int | None], b: Sequence[int | None]) -> tuple[Decisions, Decisions]:
        recording = write(tmp_path / "rec", a)
        return read_sides(recording, write(tmp_path / "replay", b, recording))

    return build


def test_numbers_of_two_models(sides: Callable[..., tuple[Decisions, Decisions]]) -> None:
    a = [0] * 20 + [1] * 20 + [0] * 20
    b = [0] * 23 + [1] * 20 + [0] * 17
    b[5] = None
    result, looks = compare(*sides(a, b))
    assert (result["frames"], result["looks"]) == (60, 60)
    agreement = result["agreement"]
    assert agreement["n"] == 59 and agreement["value"] == pytest.approx(53 / 59)
    assert agreement["ci95"][0] < agreement["value"] < agreement["ci95"][1] <= 1
    assert agreement["table"] == {
        "happy": {"happy": 36, "sad": 3, "uncertain": 1},
        "sad": {"happy": 3, "sad": 17},
    }
    assert result["delay"] == {"median_s": 0.3, "common": 2, "changes_a": 2, "changes_b": 2}
    assert result["a"]["switches_per_min"] == pytest.approx(2 / 5.9 * 60, abs=0.01)
    assert result["b"]["uncertain"] == pytest.approx(1 / 60)
    assert result["a"]["latency_ms"] == result["b"]["latency_ms"] == {"p50": 4.0, "p95": 4.0}
    # One look for each of the two stretches of three frames, then the uncertain one.
    assert len(looks) == 60
    assert [moment["frame"] for moment in result["moments"]] == [20, 40, 5]
    assert result["mean_distance"] == pytest.approx((6 * 0.8 + 0.4) / 60)


def test_equal_models_have_no_moments(sides: Callable[..., tuple[Decisions, Decisions]]) -> None:
    labels = [0] * 10 + [1] * 10
    result, _ = compare(*sides(labels, labels))
    assert result["agreement"]["value"] == 1.0 and not result["moments"]
    assert result["delay"]["median_s"] == 0.0


def test_faces_are_matched_by_their_boxes() -> None:
    def row(*boxes: Box) -> dict[str, Any]:
        return {"time_s": 0.0, "faces": [{"id": i, "box": list(b)} for i, b in enumerate(boxes)]}

    far: Box = (200.0, 10.0, 30.0, 30.0)
    shifted: Box = (24.0, 12.0, 30.0, 30.0)
    looks = list(match_faces(7, row(far, BOX), row(shifted, (120.0, 0.0, 9.0, 9.0))))
    assert [(look.a["id"], look.b["id"], look.frame) for look in looks] == [(1, 0, 7)]
    assert list(match_faces(7, row(), row(BOX))) == []


def test_page_shows_the_moments(
    sides: Callable[..., tuple[Decisions, Decisions]], tmp_path: Path
) -> None:
    a, b = sides([0] * 20 + [1] * 5, [0] * 25)
    result, looks = compare(a, b)
    report.write_page(tmp_path, result, a, b, looks)
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2  # the timeline and one moment
    assert "face 1, 2.00 s, frame 20" in page and "80.0 %" in page
    text = "\n".join(map(str, report.lines(result)))
    assert "the same label in 80.0% of 25 looks" in text and "no change in common" in text
    (tmp_path / "rec" / ROWS).unlink()  # the recording is gone: the page has no pictures
    report.write_page(tmp_path, result, a, b, looks)
    assert "The pictures of the recording are not there" in (tmp_path / "compare.html").read_text()


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    recording = write(tmp_path / "rec", [0] * 5)
    other = write(tmp_path / "other", [0] * 5, first=0.5)
    with pytest.raises(UserError, match="are not of the same recording"):
        read_sides(recording, other)
    (tmp_path / "train").mkdir()
    assert recorded_sides([[tmp_path / "train"], [tmp_path]]) is None
    for sides, message in (
        ([[recording], [tmp_path / "train"]], "rec is a recording or replay and .*train is not"),
        ([[recording], [recording]], "is given twice"),
        ([[recording], [other, recording]], "one with one"),
    ):
        with pytest.raises(UserError, match=message):
            recorded_sides(sides)
    header = json.loads((other / HEADER).read_text())
    (other / HEADER).write_text(json.dumps(header | {"format": 9}))
    with pytest.raises(UserError, match="has format 9"):
        read_sides(recording, other)
