"""what=deploy: exported files beside the checkpoint they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from emotion_lab.benchmarks import deploy, deploy_exports
from emotion_lab.deploy.convert import reference
from emotion_lab.deploy.exported import faces
from emotion_lab.errors import UserError
from emotion_lab.exporting.base import Calibration
from emotion_lab.exporting.files import export
from emotion_lab.files import file_hash
from emotion_lab.labels import EMOTIONS
from emotion_lab.models.restore import restore
from emotion_lab.runtime import load
from tests.conftest import TINY, composed, make_checkpoint

NAMES = list(EMOTIONS)


@pytest.mark.parametrize("channels", [1, 3])
def test_exported_files_beside_their_checkpoint(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real file, with the right answers; one of another checkpoint is left alone."""
    monkeypatch.setattr(deploy, "CANDIDATES", (deploy.EAGER,))
    monkeypatch.setattr(deploy, "ROUND_S", 0.01)
    cfg = composed(*TINY, "data.n=200", "model.image_size=32", f"model.channels={channels}")
    path = make_checkpoint(cfg, tmp_path / "checkpoints" / "best.ckpt", NAMES)
    net, card = restore(path)
    out = tmp_path / "files"
    for name, digest in (("ours", file_hash(path)), ("theirs", "0" * 64)):
        file = out / f"{name}.torchscript"
        export(net, card, "torchscript", "fp32", file, checkpoint=digest)
    options = composed(
        "what=deploy",
        f"ckpt={path}",
        f"exports={out}",
        "n=1000",
        "batches=[2]",
        "rounds=1",
        "threads=1",
        entry="bench",
    )
    found = deploy.bench(options, tmp_path)
    rows = {one["runtime"]: one for one in found["rows"]}
    assert set(rows) == {"torch", "exported torchscript"}
    other = rows["exported torchscript"]
    assert other["agreement"] == 1 and other["accuracy"] == rows["torch"]["accuracy"]
    assert other["size_mb"] == round((out / "ours.torchscript").stat().st_size / 1e6, 3)
    assert other["ratio"] > 0 and other["ms"] > 0
    (out / "again.torchscript").write_bytes((out / "ours.torchscript").read_bytes())
    with pytest.raises(UserError, match="are alike"):
        deploy.bench(options, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no exported file there"):
        deploy_exports.find([str(tmp_path / "empty")])


def test_a_quantised_file_beside_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really int8, and judged by its own answers, not by PyTorch's."""
    pytest.importorskip("nncf")
    monkeypatch.setattr(deploy, "CANDIDATES", (deploy.EAGER,))
    monkeypatch.setattr(deploy, "ROUND_S", 0.01)
    cfg = composed(*TINY, "data.n=200", "model.image_size=32")
    path = make_checkpoint(cfg, tmp_path / "checkpoints" / "best.ckpt", NAMES)
    net, card = restore(path)
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(20)]
    labels = net(torch.from_numpy(np.stack(images)[..., :1].transpose(0, 3, 1, 2))).argmax(1)
    known, out = Calibration(images, labels.numpy(), max_drop=1.0), tmp_path / "files"
    for precision in ("fp32", "int8"):
        file = out / f"senet.{precision}.xml"
        export(net, card, "openvino", precision, file, known, checkpoint=file_hash(path))
    options = composed(
        "what=deploy",
        f"ckpt={path}",
        f"exports={out}",
        "n=1000",
        "batches=[1]",
        "rounds=1",
        "threads=1",
        entry="bench",
    )
    asked = {
        precision: load(out / f"senet.{precision}.xml", 1).run for precision in ("fp32", "int8")
    }
    found = deploy.bench(options, tmp_path)
    rows = {one["precision"]: one for one in found["rows"] if one["runtime"] != "torch"}
    assert set(rows) == {"fp32", "int8"}
    assert rows["fp32"]["agreement"] == 1 and 0 < rows["int8"]["agreement"] <= 1
    (contender,) = deploy.trained([str(path)], tmp_path)
    runs = {deploy.EAGER: reference(contender.source.net())}
    for precision, run in asked.items():
        runs["ours", precision] = lambda x, run=run: run(faces(x))
    said = deploy.answers(contender, runs, 1000, options["data"])
    for precision, row in rows.items():
        assert row["agreement"] == said["ours", precision]["agreement"]
        assert row["accuracy"] == round(said["ours", precision]["accuracy"], 6)
    face = np.stack(images[:4])
    assert np.abs(asked["int8"](face) - asked["fp32"](face)).max() > 1e-4, "it is quantised"
    weights = [(out / f"senet.{precision}.bin").stat().st_size for precision in asked]
    assert weights[1] < 0.75 * weights[0], weights
