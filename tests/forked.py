"""Run an entry point in a process forked from a server that has imported torch and Lightning.

These imports take seconds, more than most commands take in a test. The server
(tests/fork_server.py) imports them once; otherwise a command runs as with ``python -m``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from emotion_lab.experiments.sweep import subprocess_job

ROOT = Path(__file__).resolve().parents[1]
#: The packages of most commands. Not OpenVINO, whose import starts a process.
IMPORTS = (
    "emotion_lab.experiments.run.training",
    "emotion_lab.experiments.run.evaluation",
    "hydra.main",
    "albumentations",
    "captum.attr",
    "onnxscript",
)


class Server:
    """A server of this process, started at the first command.

    Args:
        imports: Modules that it imports.

    Attributes:
        address: Path of its socket; in a command, that of the server that forked it.
    """

    def __init__(self, imports: Sequence[str] = IMPORTS) -> None:
        self.imports = imports
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it unless it runs."""
        forked = self.address and self._process is None
        if forked or (self._process is not None and self._process.poll() is None):
            return
        self._folder = tempfile.TemporaryDirectory(prefix="fork-server-")
        self.address = f"{self._folder.name}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.address)
            listener.listen()
            # Its standard input is closed when this process ends; then it ends too.
            fd = listener.fileno()
            command = [sys.executable, "-m", "tests.fork_server", str(fd), self.address]
            self._process = subprocess.Popen(
                [*command, *self.imports], cwd=ROOT, stdin=subprocess.PIPE, pass_fds=[fd]
            )

    def kill(self) -> None:
        """Kill it, as a lack of memory does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


SERVER = Server()


class Popen:
    """The part of :class:`subprocess.Popen` that tests need, for ``python -m <module>``.

    The parent of the process is the server: ``preexec_fn`` is not called.
    """

    def __init__(
        self,
        command: list[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: IO[Any],
        stderr: IO[Any] | int = subprocess.STDOUT,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        start_new_session: bool = False,
        preexec_fn: Any = None,
        server: Server = SERVER,
    ) -> None:
        assert command[1] == "-m" and stdin == subprocess.DEVNULL
        self.args, self.returncode = command, None
        request = {
            "module": command[2],
            "arguments": command[3:],
            "cwd": str(cwd or Path.cwd()),
            "env": env or dict(os.environ),
            "new_session": start_new_session,
        }
        server.start()
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(server.address)
        with Path(os.devnull).open() as null:
            errors = stdout if isinstance(stderr, int) else stderr
            fds = [stream.fileno() for stream in (null, stdout, errors)]
            socket.send_fds(self._connection, [b"\0"], fds)
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        self._lines = b""
        self.pid = self._read_number(None)

    def _read_number(self, timeout: float | None) -> int:
        """Read a line of the supervisor: the process id, then the exit code."""
        self._connection.settimeout(timeout)
        while b"\n" not in self._lines:
            received = self._connection.recv(100)
            if not received:
                raise RuntimeError(f"the supervisor of {self.args} was killed")
            self._lines += received
        line, self._lines = self._lines.split(b"\n", 1)
        return int(line)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code, or the negative number of a signal."""
        if self.returncode is None:
            try:
                self.returncode = self._read_number(timeout)
            except TimeoutError:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout) from None
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to a process that has not ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)


def fork_jobs(patch: pytest.MonkeyPatch) -> list[Popen]:
    """Fork the jobs of a sweep instead of starting Python anew; return the list of started jobs."""
    jobs: list[Popen] = []

    def start(command: list[str], **options: Any) -> Popen:
        jobs.append(Popen(command, **options))
        return jobs[-1]

    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "STDOUT", "TimeoutExpired")}
    patch.setattr(subprocess_job, "subprocess", SimpleNamespace(Popen=start, **names))
    return jobs


def run(
    module: str, arguments: list[str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module arguments`` for at most ``timeout`` seconds; return the process."""
    command = [sys.executable, "-m", module, *arguments]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape") as err,
    ):
        process = Popen(command, stdout=out, stderr=err, cwd=cwd)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())
