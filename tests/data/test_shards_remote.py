"""s3:// addresses with a local server: downloads, cache limit, error messages.

The server implements the part of the S3 protocol that reading needs; boto3 is the real client.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_lab.core import paths
from emotion_lab.core.errors import UserError
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.data.shards import storage
from tests.data.helpers import BASE, batches_equal, make_data
from tests.data.test_shards import STREAM, read_error, write_stream

boto3 = pytest.importorskip("boto3")


class Server:
    """A server with the bucket ``faces`` that records the requested paths."""

    def __init__(self, root: Path) -> None:
        requests: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path.split("?")[0])
                super().do_GET()

            def log_message(self, *args: Any) -> None:
                pass

        self.requests = requests
        handler = functools.partial(Handler, directory=str(root))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve a stream of ``BASE`` in small shards as s3://faces/drawn."""
    write_stream(BASE, tmp_path / "remote" / "faces" / "drawn", 32 * 1024)
    server = Server(tmp_path / "remote")
    for key in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    monkeypatch.setenv("EMOTION_LAB_CACHE", str(tmp_path / "cache"))
    yield server
    server.http.shutdown()


ADDRESS = "s3://faces/drawn"


def remote_data(augment: str = "none", **cfg: Any) -> EmotionData:
    return make_data(augment, **{**STREAM, "path": ADDRESS, **cfg})


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_match_the_original_data(server: Server, workers: int) -> None:
    """Each file is downloaded once, files of the test split never."""
    ours = remote_data("light", num_workers=workers)
    theirs = make_data("light")
    assert ours.fingerprints() == theirs.fingerprints()
    assert not any(path.endswith(".tar") for path in server.requests)
    for epoch in (0, 1):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert batches_equal(ours.train_dataloader(), theirs.train_dataloader())
    assert batches_equal(ours.val_dataloader(), theirs.val_dataloader())
    assert len(server.requests) == len(set(server.requests))
    assert not any("/test/" in path for path in server.requests)
    # A second data module uses the cache.
    count = len(server.requests)
    second = remote_data()
    list(second.train_dataloader())
    assert server.requests[count:] == ["/faces/drawn/stream.json"]


def test_cache_size_limit(server: Server, tmp_path: Path) -> None:
    """Least recently used shards are removed; images stay correct."""
    data = remote_data(shuffle_buffer_shards=2, cache_size_mib=1)
    store = data.split("train").store
    # Two shuffle buffers of two shards, of six shards.
    limit = store.storage.limit = sum(sorted(size for _, size in store.shards)[-4:])
    direct = make_data()
    order = []
    for batch in data.train_dataloader():
        np.testing.assert_array_equal(
            batch.images[0].numpy(),
            direct.dataset("train").image(int(batch.positions[0])).transpose(2, 0, 1),
        )
        order += batch.positions.tolist()
        time.sleep(0.05)  # the next shards are downloaded meanwhile
        cached = list((tmp_path / "cache").rglob("*.tar"))
        assert sum(file.stat().st_size for file in cached) <= limit
    assert sorted(order) == list(range(64)) and len(cached) < 6
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_cache_smaller_than_shuffle_buffer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_lab.data.datasets import shards as loader

    entry = {"shards": [{"bytes": 30 * 2**20}] * 10}
    with pytest.raises(UserError, match=r"set data.cache_size_mib=120 or more"):
        loader._check_cache_size(
            {"shuffle_buffer_shards": 2, "cache_size_mib": 100}, entry, "train"
        )
    loader._check_cache_size({"shuffle_buffer_shards": 2, "cache_size_mib": 120}, entry, "train")
    loader._check_cache_size({"shuffle_buffer_shards": 90, "cache_size_mib": 300}, entry, "train")


def test_missing_remote_files(server: Server, tmp_path: Path) -> None:
    assert "s3://faces/nothing/stream.json: it does not exist" in read_error("s3://faces/nothing")
    assert "names no bucket" in read_error("s3://")
    remote = tmp_path / "remote" / "faces" / "drawn" / "train"
    (remote / "000002.tar").rename(remote / "gone")
    assert "Cannot read s3://faces/drawn/train/000002.tar: it does not exist" in read_error(ADDRESS)
    shutil.copy(remote / "000001.tar", remote / "000002.tar")
    with (remote / "000002.tar").open("ab") as file:
        file.write(b"more")
    assert "the stream is damaged; copy it there again" in read_error(ADDRESS)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_changed_stream_has_a_separate_cache(server: Server, tmp_path: Path) -> None:
    remote_data().split("train").image(0)
    shutil.rmtree(tmp_path / "remote" / "faces" / "drawn")
    write_stream({**BASE, "seed": 5}, tmp_path / "remote" / "faces" / "drawn", 32 * 1024)
    ours, theirs = remote_data(), make_data(seed=5)
    np.testing.assert_array_equal(ours.split("train").image(0), theirs.split("train").image(0))


def test_unreachable_server(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A closed port fails immediately, a server without an answer within 20 s."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    begin = time.monotonic()
    assert "Could not connect to the endpoint URL" in read_error(ADDRESS)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(storage, "CONNECT_TIMEOUT_S", 2.0)
        assert "no answer in 2 s" in read_error(ADDRESS)
    assert time.monotonic() - begin < 20


def test_remote_paths_skip_the_existence_check() -> None:
    """The existence check before the run accepts s3:// for data.path only."""
    paths.check_exist({"data.path": "s3://faces/drawn"})
    with pytest.raises(UserError, match=r"model.weights=s3://x does not exist"):
        paths.check_exist({"model.weights": "s3://x"})


@pytest.mark.parametrize(
    "name", ["/abs/evil.sh", "../../x", "train/../../x", "train\\\\x", "x.tar"]
)
@pytest.mark.parametrize("field", ["index", "names", "shards"])
def test_names_outside_the_stream_are_refused_before_anything_is_opened(
    server: Server, tmp_path: Path, name: str, field: str
) -> None:
    """A foreign stream.json cannot make the cache write outside of its folder."""
    meta_path = tmp_path / "remote" / "faces" / "drawn" / "stream.json"
    meta = json.loads(meta_path.read_text())
    entry = meta["splits"]["train"]
    file = entry["shards"][0] if field == "shards" else entry[field]
    file["file"] = name
    meta_path.write_text(json.dumps(meta))
    (tmp_path / "remote" / "abs").mkdir()
    (tmp_path / "remote" / "abs" / "evil.sh").write_text("echo")
    for path in (ADDRESS, meta_path.parent):
        message = read_error(str(path))
        assert "is refused" in message or "is not a file of the split" in message
    assert server.requests == ["/faces/drawn/stream.json"]
    assert not (tmp_path / "cache").exists()
