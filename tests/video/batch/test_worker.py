"""Photos in batches and clips: the same rows as one by one, and broken files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2

from emotion_lab.video.batch.listing import chunks, list_files
from emotion_lab.video.batch.worker import FileProcessor
from emotion_lab.video.recognizer import EmotionRecognizer


def test_a_batch_of_photos_gives_the_rows_of_single_photos(
    config: dict[str, Any], model: EmotionRecognizer, drawn: Path
) -> None:
    items, _ = list_files(str(drawn / "*.*g"))
    processor = FileProcessor(config, model)
    together = {result.name: result for result in processor(items)}
    alone = {item.name: processor([item])[0] for item in items}
    assert together == alone
    assert together[str(drawn / "empty.png")].faces == 0
    assert together[str(drawn / "photo1.jpg")].faces == 2
    broken = together[str(drawn / "cut.jpg")]
    assert broken.error is not None and "truncated" in broken.error
    assert json.loads(broken.lines) == {"source": broken.name, "error": broken.error, "faces": []}
    # The Python API runs each photo alone.
    (row,) = map(json.loads, together[str(drawn / "photo1.jpg")].lines.splitlines())
    faces = model(drawn / "photo1.jpg")
    for face, expected in zip(row["faces"], faces, strict=True):
        assert face["label"] == expected.label
        rounded = {name: round(value, 6) for name, value in expected.probabilities.items()}
        assert face["probabilities"] == rounded


def test_a_clip_has_a_row_for_each_frame(
    config: dict[str, Any], model: EmotionRecognizer, drawn: Path, tmp_path: Path
) -> None:
    items, _ = list_files(str(drawn))
    (clip,) = chunks(items)[0]
    config = {**config, "save": str(tmp_path / "drawn")}
    (result,) = FileProcessor(config, model)([clip])
    rows = [json.loads(line) for line in result.lines.splitlines()]
    assert [row["frame"] for row in rows] == list(range(10)) and result.rows == 10
    assert {row["source"] for row in rows} == {"clip.mp4"}
    assert result.error is None and result.shown.startswith("10 frames, ")
    assert cv2.VideoCapture(str(tmp_path / "drawn" / "clip.mp4.mp4")).read()[0]
    (photo,) = FileProcessor(config, model)([next(i for i in items if i.name == "photo0.jpg")])
    assert photo.rows == 1
    assert (tmp_path / "drawn" / "photo0.jpg.png").is_file()
