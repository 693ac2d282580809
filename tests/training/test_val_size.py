"""A val split that is too small to select an epoch."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.training.fit import fit
from tests.conftest import composed


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"happy": 20}, "has one class, happy: at least two are needed"),
        ({"happy": 2, "sad": 1}, r"val has 1 image\(s\), too few"),
    ],
)
def test_finetuning_on_too_little(images: dict[str, int], message: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in images.items():
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (48, 48), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "faces" / name / f"{i}.png"), image)
    cfg = composed("experiment=finetune", f"data.path={tmp_path / 'faces'}", "logger=none")
    with pytest.raises(UserError, match=message):
        fit(cfg, tmp_path)
