"""Dockerfile: pinned base image, ordinary user, existing paths, a valid default command."""

from __future__ import annotations

import json
import re

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
