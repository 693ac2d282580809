"""Fork server of tests/forked.py: imports torch and the like once, then forks a process a command.

Usage: python -m tests.fork_server <file descriptor of a listening socket> <its path> <module to
import>... It ends when its standard input is closed.

A supervisor process forks each command, waits for it and sends its exit code, so that the end of
the server does not affect a running command.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from typing import Any

import pytest

from tests import figures, forked


def _exit_code(error: SystemExit) -> int:
    """Return the exit code of a SystemExit; print its message, if it has one."""
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def _run_command(request: dict[str, Any], fds: list[int]) -> int:
    """Run ``python -m module arguments`` in this process; return its exit code."""
    if request["new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.stdin, sys.stdout = (os.fdopen(fd, "rw"[fd], encoding="utf-8") for fd in (0, 1))
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")
    # Like python -m, search the working directory first, not that of the server.
    sys.path[0] = request["cwd"]
    sys.argv = [request["module"], *request["arguments"]]
    if "matplotlib" in sys.modules and figures.RENDER not in os.environ:
        figures.skip_rendering(pytest.MonkeyPatch())
    code, interrupted = 1, False
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        interrupted = isinstance(error, KeyboardInterrupt)
    # As Python does at its end.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return code


def _supervise(connection: socket.socket) -> None:
    """Fork the requested command; send its process id, then its exit code (-signal)."""
    _, fds, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as stream:
        request = json.loads(stream.readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = 1
        try:
            code = _run_command(request, fds)
        finally:
            os._exit(code)
    connection.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    # The client may have exited.
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def serve(listener: socket.socket) -> None:
    """Answer requests until standard input is closed."""
    # Signals to the processes of a test or of the terminal do not reach the server.
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    # Garbage collection of a command does not visit the objects of these imports.
    gc.collect()
    gc.freeze()
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            return
        connection, _ = listener.accept()
        with connection:
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                try:
                    _supervise(connection)
                finally:
                    os._exit(0)


if __name__ == "__main__":
    for name in sys.argv[3:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # The jobs of a sweep are forked from this server too.
    forked.SERVER.address = sys.argv[2]
    forked.fork_jobs(pytest.MonkeyPatch())
    with socket.socket(fileno=int(sys.argv[1])) as server:
        serve(server)
