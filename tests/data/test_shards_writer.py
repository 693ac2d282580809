"""Converting: complete or not there at all, the same bytes twice, mistakes in one line."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emotion_lab.core.errors import UserError
from emotion_lab.data.shards.writer import open_all_splits, write_shards
from tests.conftest import command
from tests.data.test_datamodule import BASE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of 24 pictures and one file that is none."""
    rng = np.random.default_rng(0)
    root = tmp_path / "some faces"
    for split in ("train", "test"):
        for name in ("happy", "sad"):
            (root / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 256, (24, 24), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    (root / "train" / "sad" / "broken.png").write_bytes(b"no image")
    return root


def test_the_command(folder: Path, tmp_path: Path) -> None:
    """It is read by train and evaluate; a bad file is left out only when asked."""
    given = ["data=image_folder", f"data.path={folder}", "out=my stream", "hydra.run.dir=log"]
    refused = command(*given, module="emotion_lab.shard", cwd=tmp_path)
    assert refused.returncode == 2 and "Bad image" in refused.stderr
    assert refused.stderr.count("\n") == 1 and not (tmp_path / "my stream").exists()
    done = command(
        *given,
        "data.on_decode_error=skip",
        "licence=ours",
        module="emotion_lab.shard",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-2:] == ["licence: ours", "my stream"] and lines[-3].startswith("test: 12 images")
    meta = json.loads((tmp_path / "my stream" / "stream.json").read_text())
    assert meta["licence"] == "ours" and meta["classes"] == ["happy", "sad"]
    assert meta["notes"] == ["1 unreadable files left out"]
    assert list(meta["splits"]) == ["train", "test"]
    assert meta["splits"]["train"]["fingerprint"]["counts"] == {"happy": 6, "sad": 6}
    assert str(tmp_path) not in json.dumps(meta)
    again = command(*given, module="emotion_lab.shard", cwd=tmp_path)
    assert again.returncode == 2 and "exists, and nothing is replaced" in again.stderr
    train = ["data=stream", "data.path=my stream", "model=senet", "model.widths=[8,8,8,8]"]
    train += ["model.stem=8", "trainer=cpu", "trainer.max_epochs=1", "logger=none", "test=true"]
    trained = command(
        *train, "hydra.run.dir=run", "trainer.enable_progress_bar=false", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    assert "stream of image_folder, 2 shards; licence: ours" in trained.stdout
    assert (tmp_path / "outputs" / "test_ledger.jsonl").read_text().count("\n") == 1


def told(*overrides: str) -> str:
    from emotion_lab import shard
    from emotion_lab.config import compose

    with pytest.raises(UserError) as caught:
        shard.validate(compose.precheck("shard", list(overrides)), list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes(folder: Path, tmp_path: Path) -> None:
    where = ("data=image_folder", f"data.path={folder}")
    assert "out is missing" in told(*where)
    assert "exists, and nothing is replaced" in told(*where, f"out={tmp_path}")
    assert "is inside the data" in told(*where, f"out={folder}/new/stream")
    assert "is an address" in told(*where, "out=s3://bucket/x")
    assert "data.path=nowhere does not exist" in told("data.path=nowhere", "out=new")
    assert "data=stream cannot be sharded" in told("data=stream", "out=new")
    assert "data.folds, data.drop_csv cannot be written" in told(
        *where, "out=new", "data.folds=5", "data.drop_csv=drop.csv"
    )
    (tmp_path / "file").touch()
    assert "is not a writable folder" in told(*where, f"out={tmp_path}/file/new")
    assert "shard_mib=0 is not valid" in told(*where, "out=new", "shard_mib=0")


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


def test_nothing_is_left_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset

    original, calls = webdataset.TarWriter.write, []

    def full(self: Any, sample: dict[str, Any]) -> int:
        calls.append(1)
        if len(calls) == 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, sample)

    monkeypatch.setattr(webdataset.TarWriter, "write", full)
    with pytest.raises(UserError, match="No space left on device.; nothing was left behind"):
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
def test_an_interrupted_conversion_is_no_stream(name: str, tmp_path: Path) -> None:
    out = tmp_path / "a"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(out), name],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=100,
    )
    assert done.returncode != 0 and not out.exists()
    if name == "SIGKILL":
        assert done.returncode == -signal.SIGKILL
        assert (tmp_path / ".a.part").is_dir() and not (tmp_path / ".a.part/stream.json").exists()
    else:
        assert b"KeyboardInterrupt" in done.stderr and list(tmp_path.iterdir()) == []
    write(out)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_one_at_a_time(tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".a.part.lock"):
        with pytest.raises(UserError, match="another process is writing"):
            write(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_file_that_changes_meanwhile(folder: Path, tmp_path: Path) -> None:
    cfg = {**BASE, "name": "image_folder", "path": str(folder), "on_decode_error": "skip"}
    source = open_all_splits(cfg)
    (folder / "test" / "sad" / "0.png").write_bytes(b"other")
    with pytest.raises(UserError, match="0.png changed while the data was sharded"):
        write_shards(source, "image_folder", tmp_path / "a", 2**20)
    assert not (tmp_path / "a").exists()
