"""Commands that tests fork from a server: exit codes, output, a server that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked
from tests.conftest import command

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork")

PROGRAM = """
import atexit, os, signal, sys, threading, time
name = sys.argv[1]
if __name__ == "__main__":
    atexit.register(print, "at exit")
    print("torch" in sys.modules, os.getcwd() == sys.path[0])
    if name == "thread":
        threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    elif name == "sleep":
        open("started", "w").close()
        time.sleep(1)
    elif name == "group":
        os.killpg(0, signal.SIGTERM)
    elif name == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    elif name == "exception":
        raise ValueError("wrong")
    elif name.isdigit():
        sys.exit(int(name))
    elif name == "text":
        sys.exit("a message")
"""


def run(name: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    (cwd / "program.py").write_text(PROGRAM)
    return command(name, module="program", cwd=cwd)


@pytest.mark.parametrize(
    ("name", "code", "out", "err"),
    [
        ("0", 0, "True True\nat exit\n", ""),
        ("3", 3, "True True\nat exit\n", ""),
        ("255", 255, "True True\nat exit\n", ""),
        ("text", 1, "True True\nat exit\n", "a message\n"),
        ("thread", 0, "True True\nthread\nat exit\n", ""),
        ("interrupt", -2, "True True\nat exit\n", "KeyboardInterrupt\n"),
        ("exception", 1, "True True\nat exit\n", "ValueError: wrong\n"),
    ],
)
def test_a_forked_command_ends_as_python_does(
    name: str, code: int, out: str, err: str, tmp_path: Path
) -> None:
    done = run(name, tmp_path)
    assert (done.returncode, done.stdout) == (code, out)
    assert done.stderr.endswith(err) and (err or not done.stderr)
    fresh = subprocess.run(
        [sys.executable, "-m", "program", name], cwd=tmp_path, capture_output=True, text=True
    )
    assert fresh.returncode == code and fresh.stderr.endswith(err)
    assert fresh.stdout == out.replace("True", "False", 1)


def test_the_end_of_the_server_does_not_affect_a_command(tmp_path: Path) -> None:
    """With the server of multiprocessing, the exit code was 255."""
    (tmp_path / "program.py").write_text(PROGRAM)
    server = forked.Server(imports=())
    addresses = []
    for name in ("sleep", "7"):
        arguments = [sys.executable, "-m", "program", name]
        with (tmp_path / name).open("w") as out:
            process = forked.Popen(arguments, stdout=out, cwd=tmp_path, server=server)
            addresses.append(server.address)
            server.kill()
            assert process.wait(30) == (7 if name == "7" else 0)
        assert (tmp_path / name).read_text() == "False True\nat exit\n"
    assert len(set(addresses)) == 2, "the second command starts another server"


def test_signals_of_a_command_do_not_reach_the_server(tmp_path: Path) -> None:
    before = run("0", tmp_path).returncode, forked.SERVER.address
    assert run("group", tmp_path).returncode == -signal.SIGTERM
    assert (run("0", tmp_path).returncode, forked.SERVER.address) == before


def test_a_command_that_runs_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with pytest.raises(subprocess.TimeoutExpired):
        forked.run("program", ["sleep"], tmp_path, timeout=0.2)
