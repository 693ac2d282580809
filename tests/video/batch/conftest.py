"""Config, model and files of the tests of many files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from emotion_lab.synthetic.photo import draw_group
from emotion_lab.synthetic.video import render_video
from emotion_lab.video import factory
from emotion_lab.video.recognizer import EmotionRecognizer
from tests.conftest import composed


@pytest.fixture(scope="session")
def config() -> dict[str, Any]:
    """Return the config of ``predict`` that needs no torch and no model file."""
    overrides = ("detector=haar", "backend=onnxruntime", "backend.threads=1")
    return composed(*overrides, entry="predict")


@pytest.fixture(scope="session")
def model(config: dict[str, Any]) -> EmotionRecognizer:
    return factory.build_recognizer(config)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos of 0 to 2 faces, a clip, and a photo that is cut off."""
    folder = tmp_path_factory.mktemp("files")
    for index, emotions in enumerate((["happy"], ["sad", "happy"], ["angry", "surprise"])):
        image = cv2.cvtColor(draw_group(emotions, 200, seed=index), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"photo{index}.jpg"), image)
    cv2.imwrite(str(folder / "empty.png"), np.full((60, 80, 3), 90, np.uint8))
    whole = (folder / "photo0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    render_video(folder / "clip.mp4", [(0.4, "happy")], fps=25, size=(320, 240), seed=1)
    return folder


@pytest.fixture
def files(drawn: Path, tmp_path: Path) -> Path:
    """Return a copy of ``drawn`` that a test may change."""
    return Path(shutil.copytree(drawn, tmp_path / "files"))
