"""Graceful stop on SIGTERM and SIGHUP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from emotion_lab.core import distributed

PROGRAM = """
import time
from emotion_lab.core import distributed
try:
    with distributed.stoppable():
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("closed", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_ends_the_program_like_ctrl_c(name: str) -> None:
    number = getattr(signal, name)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.kill(process.pid, number)
    assert process.communicate(timeout=30)[0] == "closed\n"
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_ignored_signals_stay_ignored_and_handlers_are_restored() -> None:
    old_hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    old_terminate = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with distributed.stoppable():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as set by nohup
            assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, old_hangup)
        signal.signal(signal.SIGTERM, old_terminate)
