"""One job of a sweep: a training in a process of its own. Nothing here imports torch.

A job that crashes, is killed or fills the memory harms no other, and memory, seeds and trackers
begin fresh with each.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emotion_lab.config.overrides import quote
from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write

#: What a job says of itself, in its folder.
FILE = "job.json"
#: Seconds a job has to save and leave once it was asked to stop.
GRACE = 60.0


@dataclass
class JobResult:
    """How a job ended.

    Attributes:
        folder: Its run folder.
        overrides: What the job was given.
        status: ``finished``, ``failed``, ``killed``, ``stopped``, ``pruned`` or ``running``.
        reason: Why it did not finish, one line; None where it did.
        value: Best value of the monitored metric; None where it did not finish.
        seconds: Wall time, of all its starts together.
    """

    folder: Path
    overrides: list[str]
    status: str
    reason: str | None
    value: float | None
    seconds: float

    def save(self) -> None:
        """Write ``job.json`` into the job's folder."""
        content = asdict(self)
        del content["folder"]
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        atomic_write(self.folder / FILE, text.encode())


def read(folder: Path) -> JobResult | None:
    """Return what the job of a folder said of itself, None where there was none.

    Raises:
        UserError: If its ``job.json`` cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        return JobResult(folder=folder, **json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None


def _scored(folder: Path) -> bool:
    """Tell whether a job was trained to its end and its scores can be read."""
    try:
        runs.read(folder)
    except UserError:
        return False
    return True


def finished(folder: Path) -> bool:
    """Tell whether a job left all that ``compare``, ``ensemble`` and ``folds`` read, undamaged."""
    from emotion_lab.evaluation.predictions_file import read_predictions

    if not _scored(folder):
        return False
    try:
        read_predictions(folder, "val")
    except UserError:
        return False
    return True


def _command(overrides: list[str], folder: Path) -> list[str]:
    """Return what to run in a folder: what is missing there, and no more."""
    place = quote(str(folder))
    checkpoints = folder / "checkpoints"
    if _scored(folder) and (checkpoints / "best.ckpt").is_file():
        # It was trained to its end: going on would train an epoch more, or open test again.
        return ["evaluate", f"ckpt={place}", "rescore=true", "trainer.enable_progress_bar=false"]
    if (checkpoints / "last.ckpt").is_file():
        return ["train", f"resume={place}"]
    # A job that never saved begins anew; what it left half-written is replaced by it.
    return ["train", *overrides, f"hydra.run.dir={quote(str(folder), interpolate=True)}"]


def wait_for(folder: Path) -> None:
    """Wait until a process that a killed sweep has left behind is done saving.

    Raises:
        UserError: If it does not leave.
    """
    from filelock import FileLock, Timeout

    lock = folder / ".lock"
    if not lock.exists():
        return
    try:
        with FileLock(lock, timeout=GRACE):
            pass
    except Timeout:
        raise UserError(f"another process trains in {folder}: end it, then go on.") from None
    lock.unlink(missing_ok=True)


def run(
    overrides: list[str],
    folder: Path,
    watch: Callable[[Path], bool] | None = None,
    title: str | None = None,
) -> JobResult:
    """Train in a child process, ``python -m emotion_lab.train``; what it prints is passed on.

    A job that is finished is not run again, one that lost its predictions is scored again, one
    that was interrupted goes on from its last checkpoint, any other begins anew.

    Args:
        overrides: Hydra overrides, one value each.
        folder: The run folder; of a former start of this job, or new.
        watch: Called with the folder about once a second; True stops the job as ``pruned``.
        title: Put before each line it prints; by default the folder's name.

    Raises:
        UserError: If the folder holds a job with other overrides.
        KeyboardInterrupt: Passed on once the child has saved and left.
    """
    wait_for(folder)
    try:
        before = read(folder)
    except UserError:
        # The sweep's own sweep.json says that this is the same job.
        before = JobResult(folder, overrides, "killed", "its job.json is damaged", None, 0.0)
    if before is not None and before.overrides != overrides:
        raise UserError(
            f"{folder} holds another job ({' '.join(before.overrides)}): give the sweep a new "
            "folder."
        )
    spent = before.seconds if before is not None else 0.0
    if before is not None and finished(folder) and before.status != "pruned":
        return _ended(before, "finished", None, spent)
    folder.mkdir(parents=True, exist_ok=True)
    outcome = JobResult(folder, overrides, "running", None, None, spent)
    outcome.save()
    module, *given = _command(overrides, folder)
    command = [sys.executable, "-m", f"emotion_lab.{module}", *given]
    begin = time.perf_counter()
    child = _Child(command, folder.name if title is None else title)
    try:
        pruned = child.follow(None if watch is None else lambda: watch(folder))
    except BaseException:
        child.stop()
        _ended(outcome, "stopped", "stopped by the user", spent + time.perf_counter() - begin)
        raise
    status, reason = ("pruned", "pruned") if pruned else child.verdict()
    return _ended(outcome, status, reason, spent + time.perf_counter() - begin)


def _ended(outcome: JobResult, status: str, reason: str | None, seconds: float) -> JobResult:
    outcome.status, outcome.reason, outcome.seconds = status, reason, round(seconds, 3)
    if status == "finished":
        try:
            outcome.value = float(runs.read(outcome.folder).metrics["monitor"]["best"])
        except UserError as error:
            outcome.status, outcome.reason = "failed", str(error)
    outcome.save()
    return outcome


def _die_with_parent() -> None:
    """Ask Linux to stop this process when the one that started it dies."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class _Child:
    """A process whose lines are passed on, each with a title, and that is stopped in order."""

    def __init__(self, command: list[str], title: str) -> None:
        environment = dict(os.environ)
        # config.run sets it for itself; the child shall answer a mistake in one line.
        environment["HYDRA_FULL_ERROR"] = environment.get("EMOTION_LAB_FULL_ERROR", "0")
        environment["PYTHONUNBUFFERED"] = "1"
        options: dict[str, Any] = {}
        if sys.platform == "linux":
            options["preexec_fn"] = _die_with_parent
        # A session of its own: Ctrl-C reaches it once, from here, and not from the terminal too.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,
            **options,
        )
        self.title, self.last = title, ""
        self._threads = [
            threading.Thread(target=self._pass_on, args=pipe, daemon=True)
            for pipe in ((self.process.stdout, "stdout"), (self.process.stderr, "stderr"))
        ]
        for thread in self._threads:
            thread.start()

    def _pass_on(self, pipe: Any, name: str) -> None:
        for line in pipe:
            text = line.rstrip()
            if name == "stderr" and text.strip():
                self.last = text.strip()
            # A reader that has left (head) must not block the child.
            with contextlib.suppress(OSError, ValueError):
                print(f"[{self.title}] {text}", file=getattr(sys, name), flush=True)

    def follow(self, watch: Callable[[], bool] | None) -> bool:
        """Wait for the end; returns whether ``watch`` stopped it before."""
        while True:
            try:
                self.process.wait(timeout=None if watch is None else 1.0)
            except subprocess.TimeoutExpired:
                assert watch is not None
                if watch():
                    self.stop()
                    return True
                continue
            self._drain()
            return False

    def _drain(self) -> None:
        for thread in self._threads:
            thread.join(timeout=10)

    def stop(self) -> None:
        """Ask it to save and leave, wait, and end it when it does not."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        try:
            self.process.wait(timeout=GRACE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            # Its workers are in its session and go with it.
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        self._drain()

    def verdict(self) -> tuple[str, str | None]:
        """Return status and reason of a process that has ended by itself."""
        code = self.process.returncode
        if code == 0:
            return "finished", None
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            return "killed", f"the process was killed ({name})"
        if code == 130:
            return "stopped", self.last or "stopped"
        return "failed", self.last.removeprefix("error: ") or f"exit code {code}"
