"""What works with the base installation, in one process that cannot import any other package."""

from __future__ import annotations

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emotion_lab.synthetic.render import draw_face
from emotion_lab.synthetic.spec import sample_face
from tests.conftest import ROOT

BLOCKED = """
import sys, time
from emotion_lab.core.extras import PACKAGES

class Finder:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

blocked = {name for names in PACKAGES.values() for name in names}
sys.meta_path.insert(0, Finder)
"""
CODE = """
blocked.add("hydra")  # only the commands need it
start = time.process_time()
import emotion_lab
print(time.process_time() - start)
from pathlib import Path
run = Path("run/checkpoints")
run.mkdir(parents=True)
(run / "best.ckpt").write_bytes(b"")
try:
    emotion_lab.load("run")
except emotion_lab.core.errors.UserError as error:
    print(error)
model = emotion_lab.load(detector="full_frame")
model.classify("photo.png")
model("photo.png").draw().save("python.png")
print(len(list(model.stream("photo.png"))))
blocked.remove("hydra")

import runpy
for line in (
    "predict source=photo.png detector=full_frame save=predict out=result",
    "live source=synthetic detector=haar display=none save=clip.mp4 max_frames=5",
):
    sys.argv = ["emotion-lab", *line.split()]
    runpy.run_module("emotion_lab", run_name="__main__")
"""


def test_base_installation(tmp_path: Path) -> None:
    face = draw_face(sample_face(np.random.default_rng(0), "happy"), 96, 3)
    Image.fromarray(face).resize((200, 200)).save(tmp_path / "photo.png")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + CODE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    seconds, message, frames, *_ = done.stdout.splitlines()
    assert float(seconds) < 0.5
    assert message == 'this needs torch, which is not installed: pip install "emotion_lab[train]"'
    assert frames == "1"
    for name in ("python.png", "clip.mp4", "result/predictions.jsonl"):
        assert (tmp_path / name).stat().st_size > 200, name
    assert len([*tmp_path.glob("outputs/live/**/timeline.png")]) == 1


def test_the_wheel_contains_all_files_that_are_read() -> None:
    """Build the wheel's file list as hatch does and look for each kind of data file."""
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    builder = builders.WheelBuilder(str(ROOT))
    files = {file.distribution_path for file in builder.recurse_included_files()}
    forced = builder.config.get_force_include()
    conf = next(Path(source) for source, target in forced.items() if target == "emotion_lab/conf")
    assert conf == ROOT / "conf"
    missing = []
    for folder, _, names in os.walk(ROOT / "emotion_lab"):
        for name in names:
            path = (Path(folder) / name).relative_to(ROOT).as_posix()
            if not fnmatch(path, "*__pycache__*") and path not in files:
                missing.append(path)
    assert missing == []
