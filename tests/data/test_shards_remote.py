"""s3:// addresses, against a server of this machine: fetched, kept within bounds, told in a line.

The server speaks the few words of S3 that reading needs; boto3 does the talking as it would with
the real one.
"""

from __future__ import annotations

import functools
import http.server
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
from emotion_lab.data.build import load_data
from emotion_lab.data.shards import storage
from tests.data.test_datamodule import BASE, same
from tests.data.test_shards import STREAM, convert, module

boto3 = pytest.importorskip("boto3")


class Server:
    """A bucket called ``faces`` and what was asked of it."""

    def __init__(self, root: Path) -> None:
        asked: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path.split("?")[0])
                super().do_GET()

            def log_message(self, *args: Any) -> None:
                pass

        self.asked = asked
        handler = functools.partial(Handler, directory=str(root))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve the stream of ``BASE`` in small shards as s3://faces/drawn."""
    convert(BASE, tmp_path / "remote" / "faces" / "drawn", 32 * 1024)
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


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_batches(server: Server, workers: int) -> None:
    """As from the data itself; each file is fetched once, the test split never."""
    ours = module(STREAM, "light", path=ADDRESS, num_workers=workers)
    theirs = module(BASE, "light")
    assert ours.fingerprints() == theirs.fingerprints()
    assert not any(path.endswith(".tar") for path in server.asked)
    for epoch in (0, 1):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert same(ours.train_dataloader(), theirs.train_dataloader())
    assert same(ours.val_dataloader(), theirs.val_dataloader())
    assert len(server.asked) == len(set(server.asked))
    assert not any("/test/" in path for path in server.asked)
    # A second process finds them.
    count = len(server.asked)
    again = module(STREAM, path=ADDRESS)
    list(again.train_dataloader())
    assert server.asked[count:] == ["/faces/drawn/stream.json"]


def test_disk_space_is_bounded(server: Server, tmp_path: Path) -> None:
    """Old shards make room; the images stay right."""
    data = module(STREAM, path=ADDRESS, shuffle_buffer_shards=2, cache_size_mib=1)
    store = data.split("train").store
    # Two shards that are shuffled together and the two that come next, of six.
    limit = store.storage.limit = sum(sorted(size for _, size in store.shards)[-4:])
    direct = module(BASE)
    order = []
    for batch in data.train_dataloader():
        np.testing.assert_array_equal(
            batch.images[0].numpy(),
            direct.dataset("train").image(int(batch.positions[0])).transpose(2, 0, 1),
        )
        order += batch.positions.tolist()
        time.sleep(0.05)  # the next shards come meanwhile
        kept = list((tmp_path / "cache").rglob("*.tar"))
        assert sum(file.stat().st_size for file in kept) <= limit
    assert sorted(order) == list(range(64)) and len(kept) < 6
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_cache_that_is_too_small(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_lab.data.datasets import shards as loader

    entry = {"shards": [{"bytes": 30 * 2**20}] * 10}
    with pytest.raises(UserError, match="set data.cache_size_mib=120 or more"):
        loader._check_cache_size(
            {"shuffle_buffer_shards": 2, "cache_size_mib": 100}, entry, "train"
        )
    loader._check_cache_size({"shuffle_buffer_shards": 2, "cache_size_mib": 120}, entry, "train")
    loader._check_cache_size({"shuffle_buffer_shards": 90, "cache_size_mib": 300}, entry, "train")


def told(path: str = ADDRESS) -> str:
    with pytest.raises(UserError) as caught:
        split = load_data({**STREAM, "path": path}, ("train",)).splits["train"]
        for position in range(len(split)):
            split.image(position)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_there(server: Server, tmp_path: Path) -> None:
    assert "s3://faces/nothing/stream.json: it does not exist" in told("s3://faces/nothing")
    assert "names no bucket" in told("s3://")
    remote = tmp_path / "remote" / "faces" / "drawn" / "train"
    (remote / "000002.tar").rename(remote / "gone")
    assert "Cannot read s3://faces/drawn/train/000002.tar: it does not exist" in told()
    shutil.copy(remote / "000001.tar", remote / "000002.tar")
    with open(remote / "000002.tar", "ab") as file:
        file.write(b"more")
    assert "the stream is damaged; copy it there again" in told()
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_changed_stream_has_a_cache_of_its_own(server: Server, tmp_path: Path) -> None:
    module(STREAM, path=ADDRESS).split("train").image(0)
    shutil.rmtree(tmp_path / "remote" / "faces" / "drawn")
    convert({**BASE, "seed": 5}, tmp_path / "remote" / "faces" / "drawn", 32 * 1024)
    ours, theirs = module(STREAM, path=ADDRESS), module(BASE, seed=5)
    np.testing.assert_array_equal(ours.split("train").image(0), theirs.split("train").image(0))


def test_what_does_not_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A closed port at once, a server that accepts and is silent within 20 s."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    begin = time.monotonic()
    assert "Could not connect to the endpoint URL" in told()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(storage, "CONNECT_TIMEOUT_S", 2.0)
        assert "no answer in 2 s" in told()
    assert time.monotonic() - begin < 20


def test_addresses_pass_the_first_check() -> None:
    """The check made before anything is imported lets the data's address through, no other."""
    paths.check_exist({"data.path": "s3://faces/drawn"})
    with pytest.raises(UserError, match="model.weights=s3://x does not exist"):
        paths.check_exist({"model.weights": "s3://x"})
