"""Web page with several sources: the grid, one view, a source that fails."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from emotion_lab.core.errors import UserError
from emotion_lab.video.multi_runner import LostSourcesError
from emotion_lab.video.web import server
from emotion_lab.video.web.routes import build_app
from emotion_lab.video.web.server import LOCAL_HOSTS
from emotion_lab.video.web.session_thread import TILE_WIDTH, encode_jpeg
from emotion_lab.video.web.sessions import SessionManager
from tests.helpers_web import GreyFrames, decode, make_runner, parse_next, wait_for


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[SessionManager]:
    """Return the running sessions of three sources: two live ones and one that fails."""
    readers = {"door": GreyFrames(live=True), "玄関": GreyFrames(live=True), "bad": GreyFrames(1)}
    readers["bad"].error = UserError("no signal")
    runners = {}
    for name, reader in readers.items():
        (tmp_path / name).mkdir()
        runners[name] = make_runner(reader, tmp_path / name)
    manager = SessionManager(runners, tmp_path)
    for session in manager.mains.values():
        session.start()
    yield manager
    manager.close()


@pytest.fixture
def client(manager: SessionManager) -> TestClient:
    app = build_app(manager, lambda: None, None, LOCAL_HOSTS, 8080)
    return TestClient(app, base_url="http://127.0.0.1:8080")


def grid(client: TestClient, after: str = "") -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return the views of a response and their JPEGs."""
    content = client.get("/api/grid", params={"after": after}).content
    length = struct.unpack(">I", content[:4])[0]
    views = json.loads(content[4 : 4 + length])["views"]
    jpegs, offset = [], 4 + length
    for view in views:
        jpegs.append(content[offset : offset + view["bytes"]])
        offset += view["bytes"]
    assert offset == len(content)
    return views, jpegs


def test_the_grid_shows_all_sources_and_one_that_failed(
    manager: SessionManager, client: TestClient
) -> None:
    assert client.get("/api/about").json()["views"] == ["door", "玄関", "bad"]
    wait_for(lambda: all(view["row"] for view in grid(client)[0]))
    wait_for(lambda: manager.mains["bad"].over)
    views, jpegs = grid(client)
    assert [view["view"] for view in views] == ["door", "玄関", "bad"]
    assert [view["state"] for view in views] == ["running", "running", "failed"]
    assert views[2]["message"] == "no signal"
    for jpeg in jpegs:
        assert decode(jpeg).shape[:2] == (48, 64)
    # Only pictures that changed are sent again.
    after = [str(view["version"]) for view in views]
    again, jpegs = grid(client, ",".join(after))
    assert again[2]["version"] == views[2]["version"] and jpegs[2] == b""
    assert any(jpegs[:2])
    assert client.get("/api/grid", params={"after": "x"}).status_code == 400


def test_pictures_of_the_grid_are_drawn_less_often_than_those_of_one_view(
    manager: SessionManager, client: TestClient
) -> None:
    wait_for(lambda: all(view["row"] for view in grid(client)[0]))

    def drawn(seconds: float) -> tuple[int, int]:
        runner, session = manager.mains["玄関"].runner, manager.mains["玄関"]
        frames, version, end = runner.stats.frames, session.version, time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
        return runner.stats.frames - frames, session.version - version

    frames, pictures = drawn(0.4)
    assert 1 <= pictures <= 6 < frames
    status, jpeg = parse_next(client.get("/api/next", params={"view": "玄関"}).content)
    assert status["view"] == "玄関" and jpeg
    time.sleep(0.15)
    frames, pictures = drawn(0.2)
    assert abs(frames - pictures) <= 2  # every frame now
    assert client.get("/api/next", params={"view": "live"}).status_code == 400
    response = client.get("/api/rows", params={"view": "玄関"})
    named = "filename*=utf-8''%E7%8E%84%E9%96%A2.jsonl"  # RFC 6266
    assert response.headers["content-disposition"] == f"attachment; {named}"
    rows = response.text.splitlines()
    assert {json.loads(row)["source"] for row in rows} == {"grey"} and len(rows) > 10


def test_a_tile_is_small() -> None:
    jpeg = encode_jpeg(np.zeros((1080, 1920, 3), np.uint8), TILE_WIDTH)
    assert decode(jpeg).shape == (270, 480, 3)


def test_the_program_ends_when_all_sources_have_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runners = {}
    for name, frames in (("a", 3), ("b", 4)):
        reader = GreyFrames(frames)
        reader.error = UserError("no signal")
        (tmp_path / name).mkdir()
        runners[name] = make_runner(reader, tmp_path / name)
    local = {"host": "127.0.0.1", "port": 0, "token": None}
    with server.bind(local) as listener, pytest.raises(LostSourcesError, match="2 of 2 sources"):
        server.serve(runners, local, tmp_path, listener)
    printed = capsys.readouterr()
    assert "a ended: no signal" in printed.err and "b ended: no signal" in printed.err
    assert (
        "a: 3 frames" in printed.out and f"b: rows: {tmp_path / 'b' / 'live.jsonl'}" in printed.out
    )
