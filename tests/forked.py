"""Runs a command of ours in a process of its own that has torch and Lightning imported already.

Their import takes seconds, many times what most commands do in a test. A server that has done it
once forks for each command; what a command sees is otherwise what ``python -m`` shows it.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

PRELOAD = ["emotion_lab.training.fit"]


def _child(module: str, arguments: list[str], cwd: str, env: dict[str, str], to: str) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # What the test process had on its path comes along; of python -m the folder is first.
    sys.path.insert(0, cwd)
    for number, name in ((0, os.devnull), (1, f"{to}/out"), (2, f"{to}/err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8") for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):
            sys.stdout.flush()


def run(
    module: str, arguments: list[str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess:
    """Run ``python -m module arguments``; returns what ``subprocess.run`` would.

    Raises:
        TimeoutError: If it takes longer than ``timeout`` seconds; it is killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as to:
        process = context.Process(
            target=_child, args=(module, arguments, str(cwd), dict(os.environ), to)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{module} {' '.join(arguments)}: not done after {timeout:g} s")
        out, err = ((Path(to) / name).read_text(encoding="utf-8") for name in ("out", "err"))
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, out, err)
