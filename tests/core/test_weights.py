"""The shipped models: names, verification, and every place that takes a checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from emotion_lab.core import checkpoint, paths, weights
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.inference.loader import load


def test_every_file_is_there_and_listed() -> None:
    for name, suffixes in weights.MODELS.items():
        for suffix in suffixes:
            path = weights.find(name, suffix)
            assert path.name == name + suffix and path.parent == weights.FOLDER
    total = sum(file.stat().st_size for file in weights.FOLDER.iterdir())
    assert total < 12_000_000


@pytest.mark.parametrize("name", weights.MODELS)
def test_the_metadata_belong_to_the_graph(name: str) -> None:
    assert load(weights.find(name, ".onnx")).classes


def test_a_damaged_or_missing_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(weights.FOLDER, tmp_path / "weights")
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    file = weights.find("fer2013", ".onnx")
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"fer2013\.onnx is missing or damaged"):
        weights.find("fer2013", ".onnx")
    file.unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        weights.find("fer2013", ".onnx")
    assert weights.find("fer2013", ".ckpt").is_file()
    (tmp_path / "weights" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        weights.find("fer2013", ".ckpt")


def test_the_shipped_exported_file_is_that_of_the_shipped_checkpoint(tmp_path: Path) -> None:
    """A temporal model of one of them is used with the other."""
    assert weights.checkpoint_hash(weights.FOLDER / "fer2013.onnx") == file_hash(
        weights.FOLDER / "fer2013.ckpt"
    )
    assert weights.checkpoint_hash(weights.FOLDER / "fer2013-small.onnx") is None
    assert weights.checkpoint_hash(tmp_path / "fer2013.onnx") is None


def test_names_are_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A folder of this name, for instance of the data, does not hide the model.
    (tmp_path / "fer2013").mkdir()
    assert find_checkpoint("fer2013") == weights.FOLDER / "fer2013.ckpt"
    paths.check_checkpoint("fer2013", exported=True)
    paths.check_checkpoint("fer2013")
    paths.check_exist({"model.weights": "fer2013"})
    with pytest.raises(UserError, match=r"no checkpoints/best.ckpt in fer2013"):
        paths.check_checkpoint("./fer2013")
    monkeypatch.setitem(weights.MODELS, "tiny", (".onnx",))
    with pytest.raises(UserError, match=r"tiny is shipped as an exported file only.*use fer2013"):
        paths.check_checkpoint("tiny")
    with pytest.raises(UserError, match=r"no such checkpoint: fer2012\..*model: fer2013"):
        paths.check_checkpoint("fer2012", exported=True)
    with pytest.raises(UserError, match=r"data\.path=fer2012 does not exist"):
        paths.check_exist({"data.path": "fer2012"})


def test_a_conversion_does_not_replace_the_shipped_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emotion_lab.inference.classifier import read_source
    from emotion_lab.inference.converted_model import cache_paths

    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path))
    source = read_source(weights.find("fer2013", ".ckpt"))
    for format in ("onnx", "openvino"):
        (path,) = cache_paths(source, format)
        assert path.is_relative_to(tmp_path)


def test_half_precision_weights_are_cast_to_float32(tmp_path: Path) -> None:
    import torch

    from emotion_lab.models.load import restore

    path = weights.find("fer2013", ".ckpt")
    expected = restore(path)[0].state_dict()
    content = checkpoint.read(path)
    content["state_dict"] = {
        key: value.half() if value.is_floating_point() else value
        for key, value in content["state_dict"].items()
    }
    checkpoint.write(tmp_path / "half.ckpt", content)
    net, _ = restore(tmp_path / "half.ckpt")
    for key, value in net.state_dict().items():
        assert value.dtype == expected[key].dtype != torch.float16
        assert torch.equal(
            value.half() if value.is_floating_point() else value,
            expected[key].half() if value.is_floating_point() else expected[key],
        )
    assert file_hash(tmp_path / "half.ckpt") != file_hash(path)
