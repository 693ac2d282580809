"""Run an entry point in a process forked from a server that has imported torch and Lightning.

These imports take seconds, more than most commands take in a test. The server imports them once;
otherwise a command runs as with ``python -m``.
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

PRELOAD = ["emotion_lab.experiments.run.training"]


def _run_module(
    module: str, arguments: list[str], cwd: str, env: dict[str, str], output_dir: str
) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # Like python -m, search the working directory first.
    sys.path.insert(0, cwd)
    for fd, path in ((0, os.devnull), (1, f"{output_dir}/out"), (2, f"{output_dir}/err")):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), fd)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(fd, mode, encoding="utf-8") for fd, mode in ((0, "r"), (1, "w"), (2, "w"))
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
    """Run ``python -m module arguments`` for at most ``timeout`` seconds; return the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as output_dir:
        process = context.Process(
            target=_run_module, args=(module, arguments, str(cwd), dict(os.environ), output_dir)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{module} {' '.join(arguments)}: not finished after {timeout:g} s")
        out, err = (
            Path(output_dir, name).read_text(encoding="utf-8", errors="surrogateescape")
            for name in ("out", "err")
        )
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, out, err)
