"""Half-precision checkpoints: same network up to rounding, half the size, no local paths."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.exporters.half_checkpoint import convert
from emotion_lab.models.load import restore
from tests.conftest import TINY, composed, make_checkpoint

NAMES = ["angry", "happy", "sad"]


def test_weights_are_rounded_and_paths_removed(tmp_path: Path) -> None:
    cfg = composed(*TINY, "model.widths=[32,32,64,64]")
    source = make_checkpoint(cfg, tmp_path / "best.ckpt", NAMES)
    content = ckpt.read(source)
    config = content[ckpt.CARD]["config"]
    config["data"] |= {"path": "/private/faces", "drop_csv": "/private/drop.csv"}
    config["distill"]["teacher"] = "/private/teacher"
    ckpt.write(source, content)
    target = tmp_path / "half.ckpt"
    convert(source, target)
    # Rounded weights, then compressed.
    assert target.stat().st_size < 0.6 * source.stat().st_size
    with zipfile.ZipFile(target) as archive:
        assert {r.compress_type for r in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    assert b"/private" not in target.read_bytes()
    before, card = restore(source)
    after, half_card = restore(target)
    assert half_card["classes"] == card["classes"] and half_card["input"] == card["input"]
    assert half_card["config"]["model"]["widths"] == [32, 32, 64, 64]
    assert half_card["config"]["data"]["path"] is None
    assert half_card["config"]["distill"]["teacher"] == "teacher"
    for name, value in before.state_dict().items():
        rounded = value.half().float() if value.ndim > 1 else value
        assert after.state_dict()[name].dtype == value.dtype
        assert torch.equal(after.state_dict()[name], rounded)
    assert set(ckpt.read(target)) == {"state_dict", ckpt.CARD}
