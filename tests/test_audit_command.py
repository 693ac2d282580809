"""The audit command: files, output and one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import command, error_message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with 24 images, two of them identical, and a corrupt file."""
    rng = np.random.default_rng(0)
    root = tmp_path / "some faces"
    for split in ("train", "test"):
        for name in ("happy", "sad"):
            (root / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 256, (24, 24), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    copy = (root / "test" / "sad" / "0.png").read_bytes()
    (root / "train" / "sad" / "0.png").write_bytes(copy)
    (root / "train" / "sad" / "broken.png").write_bytes(b"no image")
    return root


def test_files_and_output(folder: Path, tmp_path: Path) -> None:
    overrides = ("data=image_folder", f"data.path={folder}", "hydra.run.dir=run")
    result = command(*overrides, module="emotion_lab.audit", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.strip().splitlines()
    run = Path(lines[-1])
    assert run.name == "run"
    report = json.loads((run / "audit.json").read_text())
    assert report["n"] == 24 and report["duplicates"]["identical_groups_across_splits"] == 1
    assert "  skipped 1 of 25 images (4.0%) that cannot be read: " in result.stdout
    drop = (run / "drop.csv").read_text().splitlines()
    assert drop[0].startswith("path,split,") and len(drop) == 3
    page = (run / "audit.html").read_text()
    assert f"&#39;data.path={folder}&#39; data.drop_csv={run}/drop.csv" in page
    assert not list(tmp_path.glob("**/*ledger*"))
    again = command(*overrides, module="emotion_lab.audit", cwd=tmp_path)
    assert again.returncode == 2 and "already holds audit.json" in again.stderr


def error_of(*overrides: str) -> str:
    """Return the error message of the argument checks."""
    from emotion_lab import audit
    from emotion_lab.config import compose

    return error_message(
        lambda: audit.validate(compose.precheck("audit", list(overrides)), list(overrides))
    )


def test_invalid_arguments(folder: Path, tmp_path: Path) -> None:
    assert "data.path=nowhere does not exist" in error_of("data.path=nowhere")
    path = f"data.path={folder}"
    assert "data.drop_csv=no.csv does not exist" in error_of(path, "data.drop_csv=no.csv")
    assert "no such checkpoint: no.ckpt" in error_of(path, "ckpt=no.ckpt")
    assert "no such folder" in error_of(path, "predictions=[nowhere]")
    assert "no predictions_val.csv in this folder" in error_of(path, f"predictions={tmp_path}")
    assert "give only one" in error_of(path, f"ckpt={folder}", "predictions=[a]")
    (tmp_path / "predictions_train.csv").touch()
    message = error_of(path, f"predictions=[{tmp_path}/predictions_train.csv]")
    assert "training images hide wrong labels" in message
    (tmp_path / "predictions_test.csv").touch()
    error = error_of(path, f"predictions=[{tmp_path}/predictions_test.csv]")
    assert "must not influence training" in error
