"""``smoothing=temporal``: it fits one network only, and says if it was no gain."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.video.smoothing import TrackSmoother, check_network
from tests.temporal.test_temporal import K, saved, track


def settings(folder: Path) -> dict[str, Any]:
    return {**compose.defaults("smoothing", "temporal"), "ckpt": str(folder)}


def classifier(classes: str = "abcd", sha256: str = "0") -> Any:
    return SimpleNamespace(classes=list(classes), model_id=sha256)


def test_another_network_is_refused(tmp_path: Path) -> None:
    saved("gru", tmp_path / "temporal.npz")
    check_network(settings(tmp_path), classifier())
    with pytest.raises(UserError, match=r"has the classes a, b, c, d, ckpt has b, a, c, d"):
        check_network(settings(tmp_path), classifier("bacd"))
    with pytest.raises(UserError, match=r"outputs of another network: set ckpt=f"):
        check_network(settings(tmp_path), classifier(sha256="1"))


@pytest.mark.parametrize("beats, notes", [(["ema", "hmm"], 0), (["hmm"], 1)])
def test_a_model_that_did_not_beat_ema_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], beats: list[str], notes: int
) -> None:
    comparison = {"beats": beats, "clips": 12, "line": "temporal - ema: ..."}
    saved("gru", tmp_path / "temporal.npz", comparison=comparison)
    check_network(settings(tmp_path), classifier())
    error = capsys.readouterr().err
    assert error.count("did not beat smoothing=ema on its 12 held-out clips") == notes
    assert len(error.splitlines()) == notes


def test_times_that_stand_still_or_go_back_give_probabilities(tmp_path: Path) -> None:
    saved("lstm", tmp_path / "temporal.npz")
    smoother = TrackSmoother(settings(tmp_path), K)
    for probabilities, time_s in zip(track(4)[0], (3.0, 3.0, 1.0, 9.0), strict=True):
        smoothed, _ = smoother.update(probabilities, time_s)
        assert np.isclose(smoothed.sum(), 1, atol=1e-6)
