"""The audit as it is typed: its files, its last line, and mistakes answered in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotion_lab.core.errors import UserError
from tests.conftest import command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of 24 pictures, a pair of them the same, and one file that is none."""
    rng = np.random.default_rng(0)
    root = tmp_path / "some faces"
    for split in ("train", "test"):
        for name in ("happy", "sad"):
            (root / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 256, (24, 24), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    twin = (root / "test" / "sad" / "0.png").read_bytes()
    (root / "train" / "sad" / "0.png").write_bytes(twin)
    (root / "train" / "sad" / "broken.png").write_bytes(b"no image")
    return root


def test_the_command(folder: Path, tmp_path: Path) -> None:
    given = ("data=image_folder", f"data.path={folder}", "hydra.run.dir=run")
    result = command(*given, module="emotion_lab.audit", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.strip().splitlines()
    run = Path(lines[-1])
    assert run.name == "run"
    report = json.loads((run / "audit.json").read_text())
    assert report["n"] == 24 and report["duplicates"]["identical_groups_across_splits"] == 1
    assert "  skipped 1 bad files" in result.stdout
    drop = (run / "drop.csv").read_text().splitlines()
    assert drop[0].startswith("path,split,") and len(drop) == 3
    page = (run / "audit.html").read_text()
    assert f"&#39;data.path={folder}&#39; data.drop_csv={run}/drop.csv" in page
    assert not list(tmp_path.glob("**/*ledger*"))
    again = command(*given, module="emotion_lab.audit", cwd=tmp_path)
    assert again.returncode == 2 and "already holds audit.json" in again.stderr


def refused(*overrides: str) -> str:
    from emotion_lab import audit
    from emotion_lab.config import compose

    with pytest.raises(UserError) as caught:
        audit.validate(compose.precheck("audit", list(overrides)), list(overrides))
    return str(caught.value)


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    assert "data.path=nowhere does not exist" in refused("data.path=nowhere")
    where = f"data.path={folder}"
    assert "data.drop_csv=no.csv does not exist" in refused(where, "data.drop_csv=no.csv")
    assert "no such checkpoint: no.ckpt" in refused(where, "ckpt=no.ckpt")
    assert "no such folder" in refused(where, "predictions=[nowhere]")
    assert "no predictions_val.csv in it" in refused(where, f"predictions={tmp_path}")
    assert "give one" in refused(where, f"ckpt={folder}", "predictions=[a]")
    (tmp_path / "predictions_train.csv").touch()
    message = refused(where, f"predictions=[{tmp_path}/predictions_train.csv]")
    assert "trained on hide wrong labels" in message
    (tmp_path / "predictions_test.csv").touch()
    assert "sealed" in refused(where, f"predictions=[{tmp_path}/predictions_test.csv]")
