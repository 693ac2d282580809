"""Serving the web page: nobody slows the session, it ends at once, mistakes are one line."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from emotion_lab.core.errors import UserError
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.types import Frame
from emotion_lab.video.web import server
from tests.helpers_web import Drawn, frames_of, make_session, wait_for

# --- the session is not slowed, and the program ends ----------------------------------------------


def test_browsers_that_hang_slow_nobody(tmp_path: Path) -> None:
    """Browsers that ask and never read: their connections fill up, and the clip goes on."""

    class Noise(Drawn):
        picture = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)

        def frames(self, stop: threading.Event) -> Iterator[Frame]:
            for frame in super().frames(stop):
                frame.image = self.picture
                yield frame

    session = make_session(Noise(100))
    with served(session, tmp_path) as port:
        hanging = []
        for _ in range(3):
            browser = socket.create_connection(("127.0.0.1", port))
            # About 80 kB for each answer, far more in all than any buffer holds.
            browser.sendall(b"GET /api/next?after=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
            hanging.append(browser)
        # Were it to wait for one of them, it would wait for ever.
        wait_for(lambda: session.report.frames == 100, 20)
        for browser in hanging:
            browser.close()
    assert session.report.dropped == 0


@contextlib.contextmanager
def served(session: PipelineRunner, folder: Path, **cfg: Any) -> Iterator[int]:
    """Serve on a free port and end it from the page."""
    port = free_port()
    settings = {"host": "127.0.0.1", "port": port, "token": None, **cfg}
    thread = threading.Thread(target=server.serve, args=(session, settings, folder), daemon=True)
    thread.start()
    wait_for(lambda: reachable(port))
    try:
        yield port
    finally:
        request = f"POST /api/stop HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as browser:
            browser.sendall(request.encode())
            assert b"200" in browser.recv(100)
        thread.join(5)
        assert not thread.is_alive()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def reachable(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_the_page_outlives_its_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = make_session(Drawn(5))
    with served(session, tmp_path) as port:
        wait_for(lambda: session.report.frames == 5)
        time.sleep(0.2)
        assert reachable(port)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"page: http://127.0.0.1:{port}/ ")
    assert lines[0].startswith("5 frames, 5 of them with a face")
    assert lines[-1] == str(tmp_path)
    assert len((tmp_path / "live.jsonl").read_text().splitlines()) == 5


def test_a_source_that_goes_away_is_told(tmp_path: Path) -> None:
    reader = Drawn(3)
    reader.error = UserError("The camera went away.")
    settings = {"host": "localhost", "port": 0, "token": None}
    with pytest.raises(UserError, match=r"^The camera went away\.$"):
        server.serve(make_session(reader), settings, tmp_path)
    assert len((tmp_path / "live.jsonl").read_text().splitlines()) == 3


PROGRAM = """
import sys
import time
from pathlib import Path
from tests.helpers_web import Drawn, make_session
from emotion_lab.video.web.server import serve
session = make_session(Drawn(live=True))
serve(session, {"host": "127.0.0.1", "port": 0, "token": None}, Path(sys.argv[1]))
print("done", time.monotonic())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
def test_ctrl_c_ends_at_once_and_files_are_whole(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        address = program.stdout.readline().split()[1]
        import httpx

        with httpx.Client(base_url=address) as client:
            wait_for(lambda: client.get("/api/next").content, 20)
            name = client.post("api/record?on=1").json()["file"]
            # A browser that waits for news while the clip stands still.
            time.sleep(0.5)
            client.post("api/pause?on=1")
            time.sleep(0.2)
            status = client.get("/api/next").content
            length = struct.unpack(">I", status[:4])[0]
            version = json.loads(status[4 : 4 + length])["version"]
            waiting = socket.create_connection(("127.0.0.1", httpx.URL(address).port))
            request = f"GET /api/next?after={version} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            waiting.sendall(request.encode())
            begin = time.monotonic()
            program.send_signal(signal.SIGINT)
            out, errors = program.communicate(timeout=30)
        waiting.close()
    finally:
        program.kill()
    assert program.returncode == 0 and "Traceback" not in errors, errors
    word, ended = out.splitlines()[-1].split()  # on the same clock as ours
    assert word == "done" and float(ended) - begin < 2.5
    assert frames_of(tmp_path / name) > 5
    text = (tmp_path / "live.jsonl").read_text()
    assert text.endswith("\n") and all(json.loads(line) for line in text.splitlines())


# --- what the user may get wrong ------------------------------------------------------------------


def test_a_port_in_use_names_a_free_one(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = {"host": "127.0.0.1", "port": port, "token": None}
        with pytest.raises(UserError, match=rf"^Port {port} is taken .*web\.port=(\d+)\.$") as info:
            server.serve(make_session(Drawn(3)), settings, tmp_path)
    server.open_socket("127.0.0.1", int(str(info.value).split("=")[-1][:-1])).close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7"])
@pytest.mark.parametrize("token", [None, ""])
def test_others_need_a_token(tmp_path: Path, host: str, token: str | None) -> None:
    settings = {"host": host, "port": 0, "token": token}
    with pytest.raises(UserError, match=r"web\.token=<word>"):
        server.serve(make_session(Drawn(3)), settings, tmp_path)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such name."])
def test_an_address_of_another_machine(tmp_path: Path, host: str) -> None:
    settings = {"host": host, "port": 0, "token": "secret"}
    with pytest.raises(UserError, match=r"web\.host=") as info:
        server.serve(make_session(Drawn(3)), settings, tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["starlette", "uvicorn"])
def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    settings = {"host": "127.0.0.1", "port": 0, "token": None}
    with pytest.raises(UserError, match=rf"needs {name}.*pip install starlette uvicorn"):
        server.serve(make_session(Drawn(3)), settings, tmp_path)


def test_the_address_can_be_opened() -> None:
    assert server.address("127.0.0.1", 80, None) == "http://127.0.0.1:80/"
    assert server.address("::1", 80, None) == "http://[::1]:80/"
    name = socket.gethostname()
    assert server.address("0.0.0.0", 80, "a&b") == f"http://{name}:80/?token=a%26b"
