"""Checkpoint files: builtins only, atomic writes, and reading without executing code."""

from __future__ import annotations

import collections
import errno
import functools
import hashlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.paths import find_checkpoint
from tests.conftest import error_message

GOOD = {
    ckpt.CARD: {"format": ckpt.FORMAT, "classes": ["happy", "sad"], "mean": [0.5], "none": None},
    "state_dict": {"model.w": torch.arange(6.0).reshape(2, 3)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "betas": (0.9, 0.999)},
    "ordered": collections.OrderedDict(a=1, b=True),
    "kinds": [b"raw", "text", 1.5, {1, 2}, torch.float16, torch.Size([2]), torch.device("cpu")],
}


def write_good(path: Path) -> bytes:
    ckpt.write(path, GOOD)
    return path.read_bytes()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def refused(path: Path) -> str:
    text = error_message(ckpt.read, path)
    assert str(path) in text
    return text


def test_write_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a b.ckpt"
    write_good(path)
    content = ckpt.read(path)
    assert torch.equal(content["state_dict"]["model.w"], GOOD["state_dict"]["model.w"])
    for key in (ckpt.CARD, "ordered", "kinds"):
        assert content[key] == GOOD[key]
    assert content["optimizer"]["betas"] == (0.9, 0.999)
    assert names(path.parent) == ["a b.ckpt"]
    assert file_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (OmegaConf.create({"a": 1}), "DictConfig"),
        (OmegaConf.create([1]), "ListConfig"),
        (Path("x"), "Path"),
        (np.float64(1), "float64"),
        (np.int64(1), "int64"),
        (np.zeros(2), "ndarray"),
        (functools.partial(print), "partial"),
        (collections.defaultdict(int), "defaultdict"),
        (object(), "object"),
    ],
)
def test_only_builtins_are_written(tmp_path: Path, value: Any, kind: str) -> None:
    path = tmp_path / "a.ckpt"
    with pytest.raises(TypeError, match=r"^checkpoint\['hyper'\]\[0\]\['inner'\] is a .*" + kind):
        ckpt.write(path, {"hyper": [{"inner": value}]})
    with pytest.raises(TypeError, match="only builtins"):
        ckpt.write(path, {"hyper": {np.int64(1): 1}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "full"),
        (RuntimeError("[enforce fail] . unexpected pos 64 vs 0"), "the disk is full"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError(), "OSError"),
    ],
)
def test_a_failed_write_keeps_the_last_good_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    path = tmp_path / "last.ckpt"
    before = write_good(path)

    def save(content: Any, file: Any) -> None:
        file.write(b"half")
        file.flush()
        raise error

    monkeypatch.setattr(torch, "save", save)
    text = error_message(ckpt.write, path, GOOD)
    assert message in text and "the last good last.ckpt is kept" in text
    assert path.read_bytes() == before and names(tmp_path) == ["last.ckpt"]
    text = error_message(ckpt.write, tmp_path / "first.ckpt", GOOD)
    assert "kept" not in text and names(tmp_path) == ["last.ckpt"]


def test_an_interrupt_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_good(tmp_path / "a.ckpt")

    def save(content: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(KeyboardInterrupt):
        ckpt.write(tmp_path / "a.ckpt", GOOD)
    assert names(tmp_path) == ["a.ckpt"] and (tmp_path / "a.ckpt").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("size", [1, 2_000_000])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """torch reports ENOSPC in different ways for small and large files."""
    path = tmp_path / "last.ckpt"
    before = write_good(path)
    monkeypatch.setattr(Path, "open", lambda *args, **kwargs: os.fdopen(os.dup(full), "wb"))
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(UserError, match="the disk is full"):
            ckpt.write(path, {**GOOD, "big": torch.zeros(size)})
    finally:
        os.close(full)
        monkeypatch.undo()
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot save"):
        ckpt.write(tmp_path / "file" / "a.ckpt", GOOD)


def test_damaged_files(tmp_path: Path) -> None:
    raw = write_good(tmp_path / "good.ckpt")
    path = tmp_path / "bad.ckpt"
    for size in (0, 1, 10, len(raw) // 2, len(raw) - 30):
        path.write_bytes(raw[:size])
        assert "truncated or not a checkpoint" in refused(path) or size < 10
    for text in ("hello world\n", "a,b\n1,2\n" * 50, "{}", "."):
        path.write_text(text)
        assert "checkpoint" in refused(path)
    assert "checkpoint" in refused(tmp_path)


def test_any_damage_is_a_user_error(tmp_path: Path) -> None:
    """Randomly changed bytes never end in a traceback."""
    generator = random.Random(0)
    legacy = tmp_path / "legacy.pt"
    torch.save({"a": torch.ones(3)}, legacy, _use_new_zipfile_serialization=False)
    path = tmp_path / "bad.ckpt"
    for raw in (write_good(tmp_path / "good.ckpt"), legacy.read_bytes()):
        for _ in range(150):
            damaged = bytearray(raw)
            for _ in range(generator.randrange(1, 4)):
                damaged[generator.randrange(min(len(raw), 1500))] = generator.randrange(256)
            path.write_bytes(damaged)
            try:
                ckpt.read(path)
            except UserError as error:
                assert "\n" not in str(error)


def test_changed_weights_are_detected(tmp_path: Path) -> None:
    data = bytearray(write_good(tmp_path / "good.ckpt"))
    start = data.index(GOOD["state_dict"]["model.w"].numpy().tobytes())
    data[start + 4 : start + 12] = bytes(8)
    (tmp_path / "bad.ckpt").write_bytes(data)
    assert "bad.ckpt is damaged" in refused(tmp_path / "bad.ckpt")


class Malicious:
    """Pickles to a call that creates a directory."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    for zipped in (True, False):
        content = {**GOOD, "evil": Malicious(mark)}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        assert "could run code" in refused(path)
        assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the file was harmless, so the test proves nothing"


def test_files_of_other_programs_and_newer_versions(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    for content in ({"w": torch.ones(2)}, torch.ones(2), {ckpt.CARD: 3}, [GOOD]):
        torch.save(content, path)
        assert "model.weights=<file>" in refused(path)
    for number in (ckpt.FORMAT + 1, None, "1"):
        torch.save({ckpt.CARD: {"format": number}}, path)
        assert f"has format {number}" in refused(path)


def test_find(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_good(folder / "checkpoints" / "best.ckpt")
    best = folder / "checkpoints" / "best.ckpt"
    for place in (folder, folder / "checkpoints", best, str(folder)):
        assert find_checkpoint(place) == best
    with pytest.raises(UserError, match=r"no checkpoints/best\.ckpt"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no such checkpoint"):
        find_checkpoint(tmp_path / "none")
