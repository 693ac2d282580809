"""Web server: slow browsers, shutdown, invalid settings."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.web import server
from tests.helpers_sinks import frames_of
from tests.helpers_web import GreyFrames, make_runner, parse_next, wait_for

LOCAL = {"host": "127.0.0.1", "port": 0, "token": None}

# --- slow browsers and shutdown -------------------------------------------------------------------


def test_hanging_browsers_do_not_slow_the_session(tmp_path: Path) -> None:
    """The browsers send requests and never read the responses, so their connections fill up."""
    reader = GreyFrames(100)
    reader.image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    runner = make_runner(reader, tmp_path)
    with served(runner, tmp_path) as port:
        hanging = []
        for _ in range(3):
            browser = socket.create_connection(("127.0.0.1", port))
            # About 80 kB per response, in total far more than any buffer holds.
            browser.sendall(b"GET /api/next?after=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
            hanging.append(browser)
        wait_for(lambda: runner.stats.frames == 100, 20)
        for browser in hanging:
            browser.close()
    assert runner.stats.dropped == 0


@pytest.mark.parametrize("path", ["/api/upload?name=a.mp4", "/api/camera/camera-1"])
def test_a_browser_that_goes_away_while_sending_leaves_no_traceback(
    path: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    runner = make_runner(GreyFrames(), tmp_path)
    with served(runner, tmp_path) as port:
        header = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as browser:
            browser.sendall(header.encode() + b"part of the file")
            time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", port)) as browser:  # still answers
            browser.sendall(b"GET /api/about HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert browser.recv(12) == b"HTTP/1.1 200"
        wait_for(lambda: not list((tmp_path / "temp").iterdir()))
    printed = caplog.text + capfd.readouterr().err
    assert "Traceback" not in printed and "ClientDisconnect" not in printed


@contextlib.contextmanager
def served(runner: PipelineRunner, folder: Path) -> Iterator[int]:
    """Serve on a free port; stop with the page's Stop button."""
    listener = server.bind(LOCAL)
    port = listener.getsockname()[1]
    arguments = ({"live": runner}, LOCAL, folder, listener)
    thread = threading.Thread(target=server.serve, args=arguments, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        request = f"POST /api/stop HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as browser:
            browser.sendall(request.encode())
            assert b"200" in browser.recv(100)
        thread.join(5)
        assert not thread.is_alive()
        listener.close()


def test_page_stays_available_after_the_end_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = make_runner(GreyFrames(5), tmp_path)
    with served(runner, tmp_path) as port:
        wait_for(lambda: runner.stats.frames == 5)
        time.sleep(0.2)  # served() checks that the page still answers
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"page: http://127.0.0.1:{port}/ ")
    assert lines[0].startswith("5 frames, 5 of them with a face")
    assert lines[-1] == str(tmp_path)
    assert len((tmp_path / "live.jsonl").read_text().splitlines()) == 5


def test_source_error_is_raised(tmp_path: Path) -> None:
    reader = GreyFrames(3)
    reader.error = UserError("The camera was disconnected.")
    message = r"^The camera was disconnected\.$"
    with server.bind(LOCAL) as listener, pytest.raises(UserError, match=message):
        server.serve({"live": make_runner(reader, tmp_path)}, LOCAL, tmp_path, listener)
    assert len((tmp_path / "live.jsonl").read_text().splitlines()) == 3


PROGRAM = """
import sys
import time
from pathlib import Path
from tests.helpers_web import GreyFrames, make_runner
from emotion_lab.video.web.server import bind, serve
cfg = {"host": "127.0.0.1", "port": 0, "token": None}
with bind(cfg) as listener:
    folder = Path(sys.argv[1])
    serve({"live": make_runner(GreyFrames(live=True), folder)}, cfg, folder, listener)
print("done", time.monotonic())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
def test_ctrl_c_ends_at_once_with_complete_files(tmp_path: Path) -> None:
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
            # A browser that waits for a new frame during a pause.
            time.sleep(0.5)
            client.post("api/pause?on=1")
            time.sleep(0.2)
            version = parse_next(client.get("/api/next").content)[0]["version"]
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
    word, ended = out.splitlines()[-1].split()  # time.monotonic() is the same in all processes
    assert word == "done" and float(ended) - begin < 2.5
    assert len(list(frames_of(tmp_path / name))) > 5
    text = (tmp_path / "live.jsonl").read_text()
    assert text.endswith("\n") and all(json.loads(line) for line in text.splitlines())


# --- invalid settings -----------------------------------------------------------------------------


def test_port_in_use_error_suggests_a_free_port() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^Port {port} is in use .*web\.port=(\d+)\.$"
        ) as info:
            server.bind({**LOCAL, "port": port})
    server.open_socket("127.0.0.1", int(str(info.value).split("=")[-1][:-1])).close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7"])
@pytest.mark.parametrize("token", [None, ""])
def test_public_host_requires_a_token(host: str, token: str | None) -> None:
    with pytest.raises(UserError, match=r"web\.token=<word>"):
        server.bind({"host": host, "port": 0, "token": token})


@pytest.mark.parametrize("host", ["203.0.113.7", "no such name."])
def test_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(UserError, match=r"web\.host=") as info:
        server.bind({"host": host, "port": 0, "token": "secret"})
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["starlette", "uvicorn"])
def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"needs {name}.*pip install starlette uvicorn"):
        server.bind(LOCAL)


def test_page_url() -> None:
    assert server.page_url("127.0.0.1", 80, None) == "http://127.0.0.1:80/"
    assert server.page_url("::1", 80, None) == "http://[::1]:80/"
    name = socket.gethostname()
    assert server.page_url("0.0.0.0", 80, "a&b") == f"http://{name}:80/?token=a%26b"
