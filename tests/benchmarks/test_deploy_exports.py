"""benchmark=deploy: exported files compared with their checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab.benchmarks.deploy import exports, matrix
from emotion_lab.benchmarks.deploy.candidates import load_candidates
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.inference.backends.torch import reference
from emotion_lab.inference.conversion.base import CalibrationData
from emotion_lab.inference.conversion.writer import export
from emotion_lab.inference.exported_model import to_rgb_batch
from emotion_lab.inference.loader import load
from emotion_lab.models.load import restore
from tests.conftest import TINY, composed, make_checkpoint


def checkpoint(folder: Path, *overrides: str) -> Path:
    cfg = composed(*TINY, "data.n=200", "model.image_size=32", *overrides)
    return make_checkpoint(cfg, folder / "checkpoints" / "best.ckpt", list(EMOTIONS))


def options(checkpoint: Path, files: Path, batch_size: int) -> dict[str, Any]:
    overrides = (f"ckpt={checkpoint}", f"exports={files}", f"batches=[{batch_size}]")
    fixed = ("benchmark=deploy", "num_images=1000", "rounds=1", "threads=1")
    return composed(*fixed, *overrides, entry="bench")


@pytest.fixture(autouse=True)
def eager_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare exported files with eager PyTorch only, in short rounds."""
    monkeypatch.setattr(matrix, "CANDIDATES", (matrix.EAGER,))
    monkeypatch.setattr(matrix, "ROUND_S", 0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_exported_file_agrees_with_its_checkpoint(channels: int, tmp_path: Path) -> None:
    """Files of other checkpoints are ignored."""
    path = checkpoint(tmp_path, f"model.channels={channels}")
    net, card = restore(path)
    out = tmp_path / "files"
    for name, digest in (("ours", file_hash(path)), ("theirs", "0" * 64)):
        file = out / f"{name}.torchscript"
        export(net, card, "torchscript", "fp32", file, checkpoint=digest)
    cfg = options(path, out, 2)
    rows = {row["runtime"]: row for row in matrix.bench(cfg, tmp_path)["rows"]}
    assert set(rows) == {"torch", "exported torchscript"}
    other = rows["exported torchscript"]
    assert other["agreement"] == 1 and other["accuracy"] == rows["torch"]["accuracy"]
    assert other["size_mb"] == round((out / "ours.torchscript").stat().st_size / 1e6, 3)
    assert other["ratio"] > 0 and other["ms"] > 0
    (out / "again.torchscript").write_bytes((out / "ours.torchscript").read_bytes())
    with pytest.raises(UserError, match="same format and precision"):
        matrix.bench(cfg, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no exported file found"):
        exports.find_exports([str(tmp_path / "empty")])


def test_quantised_file_has_its_own_accuracy(tmp_path: Path) -> None:
    """The file has int8 weights, and its accuracy comes from its own predictions."""
    pytest.importorskip("nncf")
    path = checkpoint(tmp_path)
    net, card = restore(path)
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(20)]
    labels = net(torch.from_numpy(np.stack(images)[..., :1].transpose(0, 3, 1, 2))).argmax(1)
    calibration, out = CalibrationData(images, labels.numpy(), max_drop=1.0), tmp_path / "files"
    loaded = {}
    for precision in ("fp32", "int8"):
        file = out / f"senet.{precision}.xml"
        export(net, card, "openvino", precision, file, calibration, checkpoint=file_hash(path))
        loaded[precision] = load(file, 1).run
    rows = matrix.bench(options(path, out, 1), tmp_path)["rows"]
    rows = {row["precision"]: row for row in rows if row["runtime"] != "torch"}
    assert set(rows) == {"fp32", "int8"}
    assert rows["fp32"]["agreement"] == 1 and 0 < rows["int8"]["agreement"] <= 1
    (candidate,) = load_candidates([str(path)], tmp_path)
    runs = {matrix.EAGER: reference(candidate.source.restore()[0])}
    for precision, run in loaded.items():
        runs["ours", precision] = lambda x, run=run: run(to_rgb_batch(x))
    scores = matrix.predict_all(candidate, runs, 1000, None)
    for precision, row in rows.items():
        assert row["agreement"] == scores["ours", precision]["agreement"]
        assert row["accuracy"] == round(scores["ours", precision]["accuracy"], 6)
    face = np.stack(images[:4])
    assert np.abs(loaded["int8"](face) - loaded["fp32"](face)).max() > 1e-4, "it is quantised"
    weights = [(out / f"senet.{precision}.bin").stat().st_size for precision in loaded]
    assert weights[1] < 0.75 * weights[0], weights
