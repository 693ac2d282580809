"""The shard command: atomic and reproducible output, error messages."""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.data.shards.writer import open_all_splits, write_shards
from tests.conftest import TINY, command, error_message
from tests.data.helpers import BASE, write_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an image folder of 24 images and one invalid file."""
    root = write_images(tmp_path / "some faces", ("train", "test"), ("happy", "sad"), 6, 24)
    (root / "train" / "sad" / "broken.png").write_bytes(b"no image")
    return root


def test_shard_command(folder: Path, tmp_path: Path) -> None:
    """Shards are readable by train; an invalid file is skipped only if requested."""
    shard = functools.partial(
        command,
        *("data=image_folder", f"data.path={folder}", "out=my stream", "hydra.run.dir=log"),
        module="emotion_lab.shard",
        cwd=tmp_path,
    )
    failed = shard()
    assert failed.returncode == 2 and "Bad image" in failed.stderr
    assert failed.stderr.count("\n") == 1 and not (tmp_path / "my stream").exists()
    done = shard("data.on_decode_error=skip", "licence=ours")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-2:] == ["licence: ours", "my stream"] and lines[-3].startswith("test: 12 images")
    meta = json.loads((tmp_path / "my stream" / "stream.json").read_text())
    assert meta["licence"] == "ours" and meta["classes"] == ["happy", "sad"]
    assert meta["notes"] == ["1 unreadable files left out"]
    assert list(meta["splits"]) == ["train", "test"]
    assert meta["splits"]["train"]["fingerprint"]["counts"] == {"happy": 6, "sad": 6}
    assert str(tmp_path) not in json.dumps(meta)
    repeated = shard()
    assert repeated.returncode == 2 and "exists, and nothing is replaced" in repeated.stderr
    overrides = [text for text in TINY if not text.startswith("data")]
    overrides += ["data=stream", "data.path=my stream", "trainer.max_epochs=1", "test=true"]
    trained = command(*overrides, "hydra.run.dir=run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "stream of image_folder, 2 shards; licence: ours" in trained.stdout
    assert (tmp_path / "outputs" / "test_ledger.jsonl").read_text().count("\n") == 1


def refused(*overrides: str) -> str:
    from emotion_lab import shard
    from emotion_lab.config import compose

    def validate() -> None:
        shard.validate(compose.precheck("shard", list(overrides)), list(overrides))

    return error_message(validate)


def test_invalid_arguments(folder: Path, tmp_path: Path) -> None:
    where = ("data=image_folder", f"data.path={folder}")
    assert "out is missing" in refused(*where)
    assert "exists, and nothing is replaced" in refused(*where, f"out={tmp_path}")
    assert "is inside the data" in refused(*where, f"out={folder}/new/stream")
    assert "is an address" in refused(*where, "out=s3://bucket/x")
    assert "data.path=nowhere does not exist" in refused("data.path=nowhere", "out=new")
    assert "data=stream cannot be sharded" in refused("data=stream", "out=new")
    assert "data.labels=ferplus cannot be sharded" in refused("data.labels=ferplus", "out=new")
    assert "data.folds, data.drop_csv cannot be written" in refused(
        *where, "out=new", "data.folds=5", "data.drop_csv=drop.csv"
    )
    (tmp_path / "file").touch()
    assert "is not a writable folder" in refused(*where, f"out={tmp_path}/file/new")
    assert "shard_mib=0 is not valid" in refused(*where, "out=new", "shard_mib=0")


def write(out: Path, **more: Any) -> dict[str, Any]:
    return write_shards(open_all_splits({**BASE, **more}), "synthetic", out, 16 * 1024)


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    meta = write(tmp_path / "a", exclude=["happy"], limit=20)
    write(tmp_path / "b", exclude=["happy"], limit=20)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) > 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert len(meta["classes"]) == 6 and meta["splits"]["train"]["n"] == 20
    assert "shows no person" in meta["licence"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_full_disk_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset

    original, calls = webdataset.TarWriter.write, []

    def write_until_full(self: Any, sample: dict[str, Any]) -> int:
        calls.append(1)
        if len(calls) == 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, sample)

    monkeypatch.setattr(webdataset.TarWriter, "write", write_until_full)
    with pytest.raises(UserError, match=r"No space left on device.; no partial output is left"):
        write(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import webdataset
from tests.data.test_shards_writer import write

original, calls = webdataset.TarWriter.write, []

def kill(self, sample):
    calls.append(1)
    if len(calls) == 60:
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    return original(self, sample)

webdataset.TarWriter.write = kill
write(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_interrupted_write_leaves_no_stream(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    out = folder / "a"
    (tmp_path / "program.py").write_text(KILLED)
    done = command(str(out), name, module="program", cwd=tmp_path)
    assert done.returncode != 0 and not out.exists()
    if name == "SIGKILL":
        assert done.returncode == -signal.SIGKILL
        assert (folder / ".a.part").is_dir() and not (folder / ".a.part/stream.json").exists()
    else:
        assert "KeyboardInterrupt" in done.stderr and list(folder.iterdir()) == []
    write(out)
    assert [p.name for p in folder.iterdir()] == ["a"]


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    from filelock import FileLock

    with (
        FileLock(tmp_path / ".a.part.lock"),
        pytest.raises(UserError, match="another process is writing"),
    ):
        write(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_source_file_changed_during_write(folder: Path, tmp_path: Path) -> None:
    cfg = {**BASE, "name": "image_folder", "path": str(folder), "on_decode_error": "skip"}
    source = open_all_splits(cfg)
    (folder / "test" / "sad" / "0.png").write_bytes(b"other")
    with pytest.raises(UserError, match=r"0.png changed while the data was sharded"):
        write_shards(source, "image_folder", tmp_path / "a", 2**20)
    assert not (tmp_path / "a").exists()
