"""Measures the command ``live`` from outside: time to the first frame, and memory over many."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError

#: Seconds to wait for the first frame, and for one more frame later.
_START_S, _STALL_S = 60.0, 30.0
#: Seconds between two looks at the log.
_POLL_S = 0.002


def live_command(cfg: dict[str, Any], clip: Path, folder: Path, frames: int) -> list[str]:
    """Return the command that runs ``frames`` frames of a clip without showing them.

    It has the checkpoint, the detector and the backend of ``cfg`` and writes ``log.jsonl`` and its
    run directory into ``folder``.
    """
    from emotion_lab.config.overrides import quote

    words = {
        "ckpt": cfg["ckpt"],
        "source": clip,
        "log": folder / "log.jsonl",
        "hydra.run.dir": folder / "run",
        "detector.file": cfg["detector"].get("file"),
    }
    overrides = [f"{key}={quote(str(value))}" for key, value in words.items() if value is not None]
    return [
        *(sys.executable, "-m", "emotion_lab.live", *overrides),
        *(f"detector={cfg['detector']['name']}", f"backend={cfg['backend']['name']}"),
        *("display=none", "loop=true", f"max_frames={frames}"),
    ]


def wait_or_kill(process: subprocess.Popen[Any]) -> None:
    """Wait 5 seconds for the end of a process, then kill it."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Process:
    """A running command whose JSON lines are counted as they are written."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log, self._position, self.lines = log, 0, 0
        self.begin = time.perf_counter()
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (until close)
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=self._messages, stdin=subprocess.DEVNULL
        )

    def wait_for(self, lines: int, progress: bool = False) -> float:
        """Wait until the log has so many lines; return the seconds since the start.

        Raises:
            UserError: If the command ends before, or no line comes for a long time.
        """
        last, shown = time.perf_counter(), time.perf_counter()
        while self.lines < lines:
            ended = self.process.poll() is not None
            if self._read():
                last = time.perf_counter()
            elif ended:
                raise UserError(f"live ended after {self.lines} frames: {self._message()}")
            elif time.perf_counter() - last > (_STALL_S if self.lines else _START_S):
                raise UserError(f"live wrote no frame after {self.lines}: {self._message()}")
            if progress and time.perf_counter() - shown > 10:
                shown = time.perf_counter()
                print(f"  {self.lines:,} frames, {self.memory_mib():,.0f} MiB", flush=True)
            time.sleep(_POLL_S if lines == 1 else 10 * _POLL_S)
        return time.perf_counter() - self.begin

    def _read(self) -> int:
        if not self._log.is_file():
            return 0
        with self._log.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        self._position += len(data)
        self.lines += data.count(b"\n")
        return len(data)

    def _message(self) -> str:
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"

    def memory_mib(self) -> float:
        """Return the resident memory; 0 on systems without ``/proc``."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0.0
        line = next((line for line in status.splitlines() if line.startswith("VmRSS")), "x 0")
        return int(line.split()[1]) / 1024

    def has_loaded(self, library: str) -> bool:
        """Return whether the process has loaded a library whose path contains ``library``."""
        return library in Path(f"/proc/{self.process.pid}/maps").read_text()

    def close(self) -> None:
        """End the command."""
        if self.process.poll() is None:
            self.process.terminate()
            wait_or_kill(self.process)
        self._messages.close()


def first_frame(cfg: dict[str, Any], clip: Path, rounds: int) -> dict[str, Any]:
    """Return the seconds from the start of the command to its first result.

    A run before the first round fills the caches: the checkpoint is a known one then.
    """
    seconds = []
    for turn in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            command = live_command(cfg, clip, Path(folder), 1)
            process = _Process(command, Path(folder) / "log.jsonl")
            try:
                elapsed = process.wait_for(1)
            finally:
                process.close()
        if turn:
            seconds.append(elapsed)
            print(f"  round {turn}/{rounds}: first frame after {elapsed:.2f} s", flush=True)
    return {
        "median_s": round(statistics.median(seconds), 3),
        "max_s": round(max(seconds), 3),
        "rounds": len(seconds),
    }


def memory(cfg: dict[str, Any], clip: Path, frames: int) -> dict[str, Any]:
    """Return the resident memory of the command at the start, half and end of many frames.

    Returns:
        ``at`` (frame -> MiB, at 1,000 frames, half and end), ``growth_mib`` from the first to the
        last, ``torch_imported`` and ``seconds``.

    Raises:
        UserError: On systems without ``/proc``.
    """
    if not Path("/proc/self/maps").exists():
        raise UserError("memory can be measured on Linux only: set memory_frames=0.")
    marks = sorted({min(1000, frames), frames // 2, frames})
    # The command must still run at the last mark.
    beyond = frames + max(200, frames // 20)
    at: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = live_command(cfg, clip, Path(folder), beyond)
        process = _Process(command, Path(folder) / "log.jsonl")
        try:
            for mark in marks:
                seconds = process.wait_for(mark, progress=True)
                at[str(mark)] = round(process.memory_mib(), 1)
            torch_imported = process.has_loaded("libtorch")
        finally:
            process.close()
    values = list(at.values())
    return {
        "frames": frames,
        "at": at,
        "growth_mib": round(values[-1] - values[0], 1),
        "torch_imported": torch_imported,
        "seconds": round(seconds, 1),
    }
