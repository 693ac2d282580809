"""Propagate the failure of one rank to all others and print a single error message."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lightning as L

from emotion_lab.core import distributed
from emotion_lab.core.errors import UserError

#: Marker file written by the first failing rank; only that rank reports the error.
MARKER = ".failed"
#: Seconds that processes have to exit by themselves once the run has ended.
GRACE_S = 20.0


@contextlib.contextmanager
def rank_zero_stdout() -> Iterator[None]:
    """Discard standard output in all processes but rank 0."""
    if distributed.is_rank_zero():
        yield
        return
    with Path(os.devnull).open("w") as devnull, contextlib.redirect_stdout(devnull):
        yield


class FailurePropagation(L.Callback):
    """Ends all processes of a run when one of them fails, with one error message.

    Lightning's own process monitor kills rank 0 as well, which loses the message and the exit code.
    Machines without a shared disk use one marker file each.
    """

    def __init__(self, run_dir: Path) -> None:
        self.marker = run_dir / MARKER
        self.children: list[subprocess.Popen] = []
        self._world_size = 1
        self._failed_first = False
        self._run_ended = threading.Event()
        # cli.app sets HYDRA_FULL_ERROR for this process; the processes that Lightning starts need
        # the value that the user had set.
        self._full_error = os.environ.get("HYDRA_FULL_ERROR")
        if "EMOTION_LAB_FULL_ERROR" in os.environ:
            os.environ["HYDRA_FULL_ERROR"] = os.environ["EMOTION_LAB_FULL_ERROR"]
        if distributed.is_rank_zero():
            self.marker.unlink(missing_ok=True)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take over the monitoring of the processes that Lightning started."""
        self._restore_environment()
        self._world_size = trainer.world_size
        processes = getattr(trainer.strategy.launcher, "procs", None) or []
        # Lightning's monitor thread shares this list and ends when it is empty.
        self.children = list(processes)
        processes.clear()
        if self.children:
            threading.Thread(target=self._monitor_children, daemon=True).start()
        elif os.environ.get("LOCAL_RANK", "0") != "0":
            threading.Thread(target=self._monitor_parent, daemon=True).start()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Write the marker file with the exit code, unless another rank failed before."""
        with contextlib.suppress(FileExistsError):
            with self.marker.open("x", encoding="utf-8") as file:
                file.write(str(getattr(exception, "exit_code", 2)))
            self._failed_first = True

    def end_others(self, error: BaseException) -> None:
        """End the other processes after a failure; return if this process reports ``error``.

        Raises:
            SystemExit: If another process reports the failure.
            UserError: If the failure was caused by another process being killed.
        """
        self._restore_environment()
        if self._world_size == 1:
            self.marker.unlink(missing_ok=True)
            return
        interrupted = getattr(error, "exit_code", 2) == 130
        killed = None if isinstance(error, UserError) else self._killed_child()
        # Processes that save after Ctrl-C, or that report the failure, need time to finish.
        self._end_children(GRACE_S if interrupted or not self._failed_first else 0.0)
        code = 130 if interrupted else 2
        if distributed.is_rank_zero():
            with contextlib.suppress(OSError, ValueError):
                code = int(self.marker.read_text(encoding="utf-8"))
            self.marker.unlink(missing_ok=True)
        if not (distributed.is_rank_zero() if interrupted else self._failed_first):
            raise SystemExit(code)
        if killed is not None:
            raise UserError(killed) from None

    def _restore_environment(self) -> None:
        if self._full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = self._full_error

    def wait_for_others(self) -> None:
        """Wait for the other processes after a successful fit."""
        self._end_children(GRACE_S)

    def _end_children(self, grace: float) -> None:
        """Wait ``grace`` seconds for the child processes, then kill them."""
        self._run_ended.set()
        deadline = time.monotonic() + grace
        for child in self.children:
            try:
                child.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _killed_child(self) -> str | None:
        """Return the error message if a child process was killed by a signal, else None."""
        deadline = time.monotonic() + 2.0
        while self.children and time.monotonic() < deadline:
            for rank, child in enumerate(self.children, 1):
                if child.poll() is not None and child.returncode < 0:
                    name = signal.Signals(-child.returncode).name
                    return (
                        f"process {rank} of this run was killed ({name}; out of memory?). Resume "
                        f"from the last checkpoint with resume={self.marker.parent}."
                    )
            time.sleep(0.05)
        return None

    def _monitor_children(self) -> None:
        """End the run if it keeps waiting for a child process that has ended."""
        while not self._run_ended.wait(1.0):
            failed = any(child.poll() for child in self.children)
            # Usually the next gradient exchange fails and this process handles the error.
            if failed and not self._run_ended.wait(GRACE_S):
                if not self.marker.exists():
                    message = self._killed_child() or "a process of this run ended unexpectedly"
                    print(f"error: {message}", file=sys.stderr)
                for child in self.children:
                    child.kill()
                os._exit(2)

    def _monitor_parent(self) -> None:
        """Exit if the parent process was killed."""
        parent = os.getppid()
        while not self._run_ended.wait(1.0):
            if os.getppid() != parent:
                os._exit(1)
