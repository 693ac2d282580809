"""Benchmark of many files: the files, what is timed, and the report."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.benchmarks import archive
from emotion_lab.benchmarks.report import archive_report
from emotion_lab.video.detectors.full_frame import FullFrame
from emotion_lab.video.recognizer import EmotionRecognizer
from emotion_lab.video.sources.open import open_source, read_photo
from tests.conftest import composed
from tests.helpers_sources import write_clip
from tests.helpers_web import SMOOTHING, FakeClassifier


class Fake(FakeClassifier):
    data_name = None


def test_files_are_parts_of_a_photo_and_a_clip(tmp_path: Path) -> None:
    photo, folders = tmp_path / "group.png", [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    items = archive.write_photos(folders[0], photo, 25, seed=0)
    assert sorted(path.name for path in folders[0].iterdir()) == [item.name for item in items]
    images = [read_photo(item.path) for item in items]
    assert {image.shape for image in images} == {(480, 640, 3)} and len(images) == 25
    assert (images[0] == images[20]).all() and (images[0] != images[1]).any()
    assert read_photo(archive.write_photos(folders[1], None, 1, 0)[0].path).shape == (480, 640, 3)
    clip = write_clip(tmp_path / "clip.mp4", 30)
    for item in archive.write_clips(folders[2], clip, 2, seed=0):
        with open_source({"source": item.path}) as source:
            assert (source.size, len(list(source))) == ((640, 360), 15)


def test_every_engine_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "cores", lambda: 1)
    model = EmotionRecognizer(Fake(), FullFrame({}), SMOOTHING)
    monkeypatch.setattr(archive.factory, "build_recognizer", lambda cfg: model)
    cfg = composed("benchmark=archive", "num_photos=3", "num_clips=2", entry="bench")
    result = archive.bench(cfg, save=lambda part: None)
    assert result["one_by_one"]["files"] == 3
    assert [(row["engine"], row["files"]) for row in result["photos"]] == [("local", 3)]
    assert result["clips"][0]["files_per_s"] > 0
    pair = [
        {"engine": "ray", "workers": n, "files_per_s": r, "first_s": 2}
        for n, r in ((1, 10), (2, 15))
    ]
    text = "\n".join(str(block) for block in archive_report({**result, "clips": pair}))
    assert "one after the other" in text and "75%" in text
