"""The examples of CONTRIBUTING.md work word for word."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.models.load import restore
from tests.conftest import ROOT, TINY, command

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```(python|yaml)\n(.*?)^```", TEXT, re.M | re.S)
FILES = re.findall(r"`((?:emotion_lab|conf)/[\w/]+/(?:tiny|poly|npz|center)\.(?:py|yaml))`", TEXT)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package and the configs with the example files in place."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("emotion_lab", "conf"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    names = ["emotion_lab/models/tiny.py", *FILES]
    assert len(names) == len(CODE) == 8
    for name, (_, code) in zip(names, CODE, strict=True):
        assert not (copy / name).exists()
        (copy / name).write_text(code, encoding="utf-8")
    return copy


def run(checkout: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_backbone_a_loss_and_a_detector_are_added(checkout: Path) -> None:
    tiny = [word for word in TINY if not word.startswith("model")]
    options = [*tiny, "trainer.max_epochs=1", "model=tiny", "loss=poly", "loss.epsilon=0.5"]
    run(checkout, "emotion_lab.train", *options, "hydra.run.dir=run")
    live = ["ckpt=run", "source=synthetic", "max_frames=3", "display=none", "backend=torch"]
    run(checkout, "emotion_lab.live", *live, "detector=center", "log=live.jsonl")
    assert (checkout / "live.jsonl").read_text().count('"box"') >= 3
    help_text = run(checkout, "emotion_lab.train", "--help")
    assert "a small network of two convolutions" in help_text and "loss.epsilon" in help_text


def write_faces(path: Path) -> None:
    """Write a NumPy archive of 60 images in two classes, without val and test."""
    labels = np.arange(60) % 2
    images = np.random.default_rng(0).integers(0, 256, (60, 48, 48, 1), np.uint8)
    np.savez(path, train_images=images, train_labels=labels)


def test_a_package_of_its_own(tmp_path: Path) -> None:
    names = ["my_package/tiny.py", "my_package/conf/model/tiny.yaml"]
    names += ["my_package/poly.py", "my_package/conf/loss/poly.yaml"]
    names += ["my_package/npz.py", "my_package/conf/data/npz.yaml"]
    assert all(f"    {name}\n" in TEXT for name in names)
    write_faces(tmp_path / "faces.npz")
    for name, (_, code) in zip(names, CODE[:6], strict=True):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code, encoding="utf-8")
    (tmp_path / "my_package" / "__init__.py").touch()
    line = re.search(r"python -m emotion_lab\.train (plugins=.*)", TEXT)
    assert line is not None
    tiny = [word for word in TINY if not word.startswith(("model", "data"))]
    done = [*line[1].split(), *tiny, "trainer.max_epochs=1", "hydra.run.dir=run"]
    trained = command(*done, "data.batch_size=16", cwd=tmp_path)
    assert "emotion_lab.train" in line[0] and trained.returncode == 0, trained.stderr
    assert "6 images of train are val" in trained.stdout
    with pytest.raises(UserError, match=r"plug-in my_package: add plugins=\[my_package\]"):
        restore(tmp_path / "run" / "checkpoints" / "best.ckpt")
