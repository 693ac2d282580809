"""One job of a sweep: a training in its own process. Does not import torch.

A job that crashes, is killed or runs out of memory does not affect other jobs. Memory, random
seeds and loggers start fresh with each job.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emotion_lab.config.overrides import quote
from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import write_json

#: Status of a job, in its run directory.
FILE = "job.json"
#: Everything that a job prints, in its run directory.
LOG = "job.log"
#: Seconds that a job has to save and exit after it was asked to stop.
GRACE = 60.0


@dataclass
class JobResult:
    """Result of a job.

    Attributes:
        folder: Its run directory.
        overrides: Its overrides.
        status: ``finished``, ``failed``, ``killed``, ``stopped``, ``pruned`` or ``running``.
        reason: Why it did not finish, one line; None if it finished.
        value: Best value of the monitored metric; None if it did not finish.
        seconds: Wall time, summed over all starts.
    """

    folder: Path
    overrides: list[str]
    status: str
    reason: str | None
    value: float | None
    seconds: float

    def save(self) -> None:
        """Write ``job.json``."""
        content = asdict(self)
        del content["folder"]
        write_json(self.folder / FILE, content)


def read(folder: Path) -> JobResult | None:
    """Read the result of the job in ``folder``; None if there is no job.

    Raises:
        UserError: If ``job.json`` cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        return JobResult(folder=folder, **json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None


def _has_scores(folder: Path) -> bool:
    """Return whether a job finished its training and its scores can be read."""
    try:
        runs.read(folder)
    except UserError:
        return False
    return True


def is_complete(folder: Path) -> bool:
    """Return whether a job has valid scores and val predictions, as other commands read them."""
    from emotion_lab.evaluation.predictions_file import read_predictions

    try:
        runs.read(folder)
        read_predictions(folder, "val")
    except UserError:
        return False
    return True


def _command(overrides: list[str], folder: Path) -> list[str]:
    """Return module and arguments of the command that completes a job."""
    run_dir = quote(str(folder))
    checkpoints = folder / "checkpoints"
    if _has_scores(folder) and (checkpoints / "best.ckpt").is_file():
        # The training is finished: resuming could train another epoch, or open test again.
        return ["evaluate", f"ckpt={run_dir}", "rescore=true", "trainer.enable_progress_bar=false"]
    if (checkpoints / "last.ckpt").is_file():
        return ["train", f"resume={run_dir}"]
    # A job without a checkpoint starts from scratch and overwrites its incomplete files.
    return ["train", *overrides, f"hydra.run.dir={quote(str(folder), interpolate=True)}"]


def wait_until_free(folder: Path) -> None:
    """Wait until a job that survived its killed sweep has saved and exited."""
    from filelock import FileLock, Timeout

    lock = folder / ".lock"
    if not lock.exists():
        return
    try:
        with FileLock(lock, timeout=GRACE):
            pass
    except Timeout:
        raise UserError(f"another process trains in {folder}: stop it, then resume.") from None
    lock.unlink(missing_ok=True)


def run(
    overrides: list[str], folder: Path, should_prune: Callable[[Path], bool] | None = None
) -> JobResult:
    """Train in a child process, ``python -m emotion_lab.train``, and append its output to a log.

    A finished job is not run again. A job without predictions is scored again. An interrupted job
    is resumed from its last checkpoint. Any other job starts from scratch.

    Args:
        should_prune: Called with the run directory about once a second; True stops the job as
            ``pruned``.

    Raises:
        UserError: If the directory holds a job with other overrides.
        KeyboardInterrupt: After the child has saved and exited.
    """
    wait_until_free(folder)
    try:
        previous = read(folder)
    except UserError:
        # The overrides of the sweep are in sweep.json, so this is the same job.
        previous = JobResult(folder, overrides, "killed", "its job.json is damaged", None, 0.0)
    if previous is not None and previous.overrides != overrides:
        raise UserError(
            f"{folder} holds another job ({' '.join(previous.overrides)}): use a new folder for "
            "the sweep."
        )
    seconds = previous.seconds if previous is not None else 0.0
    if previous is not None and is_complete(folder) and previous.status != "pruned":
        return _finish(previous, "finished", None, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    job = JobResult(folder, overrides, "running", None, None, seconds)
    job.save()
    module, *arguments = _command(overrides, folder)
    start_time = time.perf_counter()
    child = _Child([sys.executable, "-m", f"emotion_lab.{module}", *arguments], folder / LOG)
    try:
        pruned = child.wait(None if should_prune is None else lambda: should_prune(folder))
    except BaseException:
        child.stop()
        seconds += time.perf_counter() - start_time
        _finish(job, "stopped", "stopped by the user", seconds)
        raise
    status, reason = ("pruned", "pruned") if pruned else child.exit_status()
    return _finish(job, status, reason, seconds + time.perf_counter() - start_time)


def _finish(job: JobResult, status: str, reason: str | None, seconds: float) -> JobResult:
    """Set and save the result of a job that has ended."""
    job.status, job.reason, job.seconds = status, reason, round(seconds, 3)
    if status == "finished":
        try:
            job.value = float(runs.read(job.folder).metrics["monitor"]["best"])
        except UserError as error:
            job.status, job.reason = "failed", str(error)
    job.save()
    return job


def _terminate_with_parent() -> None:
    """Let Linux send SIGTERM to this process when its parent dies."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class _Child:
    """A subprocess whose output goes to a log file, with graceful shutdown."""

    def __init__(self, command: list[str], log: Path) -> None:
        environment = dict(os.environ)
        # app.run sets it for this process; the child reports a user error in one line.
        environment["HYDRA_FULL_ERROR"] = environment.get("EMOTION_LAB_FULL_ERROR", "0")
        environment["PYTHONUNBUFFERED"] = "1"
        options: dict[str, Any] = {}
        if sys.platform == "linux":
            options["preexec_fn"] = _terminate_with_parent
        self.log = log
        with log.open("ab") as stream:
            # Output of earlier starts of a resumed job.
            self.log_start = stream.tell()
            # Its own session: Ctrl-C reaches it once, from here, and not from the terminal too.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                **options,
            )

    def _error(self) -> str:
        """Return the last error line of the log, else its last line; empty without output."""
        text = self.log.read_bytes()[self.log_start :].decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return [*lines[-1:], *errors][-1].removeprefix("error: ") if lines else ""

    def wait(self, should_prune: Callable[[], bool] | None) -> bool:
        """Wait for the end of the process; return whether ``should_prune`` stopped it."""
        while True:
            try:
                self.process.wait(timeout=None if should_prune is None else 1.0)
            except subprocess.TimeoutExpired:
                assert should_prune is not None
                if should_prune():
                    self.stop()
                    return True
                continue
            return False

    def stop(self) -> None:
        """Ask the process to save and exit; kill it after :data:`GRACE` seconds."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        try:
            self.process.wait(timeout=GRACE)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            # Its data loader workers are in the same session.
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()

    def exit_status(self) -> tuple[str, str | None]:
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
            return "stopped", self._error() or "stopped"
        return "failed", self._error() or f"exit code {code}"
