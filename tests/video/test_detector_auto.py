"""``detector=auto``: YuNet where possible, else Haar with one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.video.anonymize import SmallFaceDetector, build_sensitive_detectors
from emotion_lab.video.detectors import auto, build_detector, weights
from emotion_lab.video.detectors.haar import Haar
from emotion_lab.video.detectors.yunet import YuNet
from tests.conftest import SHARED

FILE = SHARED / "detectors" / auto.FILE


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(auto, "_failures", [])
    return compose.defaults("detector", "auto")


def test_the_config_is_that_of_yunet(cfg: dict[str, Any]) -> None:
    assert {**cfg, "name": "yunet"} == compose.defaults("detector", "yunet")


def test_no_network_falls_back_to_haar_and_tries_once(
    cfg: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    calls = []

    def refuse(url: str, deadline_s: float | None) -> None:
        calls.append(deadline_s)
        raise OSError("no route to host")

    monkeypatch.setattr(weights, "open_url", refuse)
    assert isinstance(build_detector(cfg), Haar) and isinstance(build_detector(cfg), Haar)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("detector: haar, because") and " in data/, or set " in line
    assert calls == [auto.DEADLINE_S]
    # An explicit choice is tried again, and its failure is an error.
    with pytest.raises(UserError, match="Cannot download YuNet"):
        build_detector({**cfg, "name": "yunet"})
    assert calls == [auto.DEADLINE_S, None]


def test_anonymize_detects_more_with_the_resolved_detector(
    cfg: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "_failures", ["no network"])
    detectors = build_sensitive_detectors(cfg)
    assert [type(detector) for detector in detectors] == [Haar, SmallFaceDetector]
    assert detectors[1].cfg["name"] == "haar"
    assert {detector.cfg["min_neighbors"] for detector in detectors} == {2}


def test_a_given_file_is_never_replaced_by_haar(cfg: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No file at missing\.onnx"):
        build_detector({**cfg, "file": "missing.onnx"})
    (tmp_path / "wrong.onnx").write_bytes(b"x")
    with pytest.raises(UserError, match="not the expected file"):
        build_detector({**cfg, "file": "wrong.onnx"})


@pytest.mark.shared
@pytest.mark.skipif(not FILE.is_file(), reason="the YuNet file is missing")
@pytest.mark.parametrize("place", ["data", "cache"])
def test_a_file_at_hand_is_used(
    cfg: dict[str, Any], tmp_path: Path, place: str, capsys: Any
) -> None:
    (tmp_path / place).mkdir()
    shutil.copy(FILE, tmp_path / place)
    assert isinstance(build_detector({**cfg, "backend": "opencv"}), YuNet)
    assert capsys.readouterr() == ("", "")
