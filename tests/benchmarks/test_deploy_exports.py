"""benchmark=deploy: exported files beside the checkpoint they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emotion_lab.benchmarks.deploy import exports, matrix
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.exporters.base import CalibrationData
from emotion_lab.exporters.writer import export
from emotion_lab.inference.converted_model import reference
from emotion_lab.inference.exported_model import faces
from emotion_lab.inference.loader import load
from emotion_lab.models.load import restore
from tests.conftest import TINY, composed, make_checkpoint

NAMES = list(EMOTIONS)


@pytest.mark.parametrize("channels", [1, 3])
def test_exported_files_beside_their_checkpoint(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real file, with the right answers; one of another checkpoint is left alone."""
    monkeypatch.setattr(matrix, "CANDIDATES", (matrix.EAGER,))
    monkeypatch.setattr(matrix, "ROUND_S", 0.01)
    cfg = composed(*TINY, "data.n=200", "model.image_size=32", f"model.channels={channels}")
    path = make_checkpoint(cfg, tmp_path / "checkpoints" / "best.ckpt", NAMES)
    net, card = restore(path)
    out = tmp_path / "files"
    for name, digest in (("ours", file_hash(path)), ("theirs", "0" * 64)):
        file = out / f"{name}.torchscript"
        export(net, card, "torchscript", "fp32", file, checkpoint=digest)
    options = composed(
        "benchmark=deploy",
        f"ckpt={path}",
        f"exports={out}",
        "num_images=1000",
        "batches=[2]",
        "rounds=1",
        "threads=1",
        entry="bench",
    )
    found = matrix.bench(options, tmp_path)
    rows = {one["runtime"]: one for one in found["rows"]}
    assert set(rows) == {"torch", "exported torchscript"}
    other = rows["exported torchscript"]
    assert other["agreement"] == 1 and other["accuracy"] == rows["torch"]["accuracy"]
    assert other["size_mb"] == round((out / "ours.torchscript").stat().st_size / 1e6, 3)
    assert other["ratio"] > 0 and other["ms"] > 0
    (out / "again.torchscript").write_bytes((out / "ours.torchscript").read_bytes())
    with pytest.raises(UserError, match="are alike"):
        matrix.bench(options, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no exported file there"):
        exports.find([str(tmp_path / "empty")])


def test_a_quantised_file_beside_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really int8, and judged by its own answers, not by PyTorch's."""
    pytest.importorskip("nncf")
    monkeypatch.setattr(matrix, "CANDIDATES", (matrix.EAGER,))
    monkeypatch.setattr(matrix, "ROUND_S", 0.01)
    cfg = composed(*TINY, "data.n=200", "model.image_size=32")
    path = make_checkpoint(cfg, tmp_path / "checkpoints" / "best.ckpt", NAMES)
    net, card = restore(path)
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(20)]
    labels = net(torch.from_numpy(np.stack(images)[..., :1].transpose(0, 3, 1, 2))).argmax(1)
    known, out = CalibrationData(images, labels.numpy(), max_drop=1.0), tmp_path / "files"
    for precision in ("fp32", "int8"):
        file = out / f"senet.{precision}.xml"
        export(net, card, "openvino", precision, file, known, checkpoint=file_hash(path))
    options = composed(
        "benchmark=deploy",
        f"ckpt={path}",
        f"exports={out}",
        "num_images=1000",
        "batches=[1]",
        "rounds=1",
        "threads=1",
        entry="bench",
    )
    asked = {
        precision: load(out / f"senet.{precision}.xml", 1).run for precision in ("fp32", "int8")
    }
    found = matrix.bench(options, tmp_path)
    rows = {one["precision"]: one for one in found["rows"] if one["runtime"] != "torch"}
    assert set(rows) == {"fp32", "int8"}
    assert rows["fp32"]["agreement"] == 1 and 0 < rows["int8"]["agreement"] <= 1
    (contender,) = matrix.trained([str(path)], tmp_path)
    runs = {matrix.EAGER: reference(contender.source.net())}
    for precision, run in asked.items():
        runs["ours", precision] = lambda x, run=run: run(faces(x))
    said = matrix.predict_all(contender, runs, 1000, options["data"])
    for precision, row in rows.items():
        assert row["agreement"] == said["ours", precision]["agreement"]
        assert row["accuracy"] == round(said["ours", precision]["accuracy"], 6)
    face = np.stack(images[:4])
    assert np.abs(asked["int8"](face) - asked["fp32"](face)).max() > 1e-4, "it is quantised"
    weights = [(out / f"senet.{precision}.bin").stat().st_size for precision in asked]
    assert weights[1] < 0.75 * weights[0], weights
