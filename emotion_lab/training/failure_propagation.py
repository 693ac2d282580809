"""Several processes of one run: one voice, one end."""

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

#: Made by the process that fails first: it tells why, the others leave in silence.
FILE = ".failed"
#: Seconds in which processes leave by themselves once the run has ended.
GRACE = 20.0


@contextlib.contextmanager
def rank_zero_stdout() -> Iterator[None]:
    """Let only the first process of a run print."""
    if distributed.is_rank_zero():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


class FailurePropagation(L.Callback):
    """Ends all processes of a run when one of them fails, with one message.

    Lightning's own watch kills the first process too, and with it the message and the exit code.

    Args:
        run_dir: The run folder; on several machines without a common disk each has its own.
    """

    def __init__(self, run_dir: Path) -> None:
        self.file = run_dir / FILE
        self.children: list[subprocess.Popen] = []
        self._world = 1
        self._mine = False
        self._over = threading.Event()
        # config.run has Hydra pass exceptions on; the processes that Lightning is about to start
        # shall know what the user asked for.
        self._full = os.environ.get("HYDRA_FULL_ERROR")
        if "EMOTION_LAB_FULL_ERROR" in os.environ:
            os.environ["HYDRA_FULL_ERROR"] = os.environ["EMOTION_LAB_FULL_ERROR"]
        if distributed.is_rank_zero():
            self.file.unlink(missing_ok=True)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take over the processes that Lightning started."""
        self._restore()
        self._world = trainer.world_size
        procs = getattr(trainer.strategy.launcher, "procs", None) or []
        # Lightning's watch holds this list: once empty, it leaves.
        self.children = list(procs)
        procs.clear()
        if self.children:
            threading.Thread(target=self._watch_children, daemon=True).start()
        elif os.environ.get("LOCAL_RANK", "0") != "0":
            threading.Thread(target=self._watch_parent, daemon=True).start()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Be the first to fail, or not: only then do the others notice."""
        with contextlib.suppress(FileExistsError):
            with open(self.file, "x", encoding="utf-8") as file:
                file.write(str(getattr(exception, "exit_code", 2)))
            self._mine = True

    def leave(self, error: BaseException) -> None:
        """End the other processes after a failure.

        Returns where this process is to tell of ``error``.

        Raises:
            SystemExit: Where another process does.
            UserError: Where the failure is that another process was killed.
        """
        self._restore()
        if self._world == 1:
            self.file.unlink(missing_ok=True)
            return
        stopped = getattr(error, "exit_code", 2) == 130
        mistake = isinstance(error, UserError)
        lost = None if mistake else self._lost()
        # Those that stop as they were asked to, or that tell of the failure, need a moment.
        self._end(GRACE if stopped or not self._mine else 0.0)
        code = 130 if stopped else 2
        if distributed.is_rank_zero():
            with contextlib.suppress(OSError, ValueError):
                code = int(self.file.read_text(encoding="utf-8"))
            self.file.unlink(missing_ok=True)
        if not (distributed.is_rank_zero() if stopped else self._mine):
            raise SystemExit(code)
        if lost is not None:
            raise UserError(lost) from None

    def _restore(self) -> None:
        if self._full is not None:
            os.environ["HYDRA_FULL_ERROR"] = self._full

    def finish(self) -> None:
        """Wait for the other processes after a fit that went well."""
        self._end(GRACE)

    def _end(self, grace: float) -> None:
        self._over.set()
        until = time.monotonic() + grace
        for child in self.children:
            try:
                child.wait(timeout=max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _lost(self) -> str | None:
        """Return what to say when another process was killed; None if none was."""
        until = time.monotonic() + 2.0
        while self.children and time.monotonic() < until:
            for number, child in enumerate(self.children, 1):
                if child.poll() is not None and child.returncode < 0:
                    name = signal.Signals(-child.returncode).name
                    return (
                        f"process {number} of this run was killed ({name}; out of memory?). Go on "
                        f"from the last checkpoint with resume={self.file.parent}."
                    )
            time.sleep(0.05)
        return None

    def _watch_children(self) -> None:
        """End a run that goes on waiting for a process that is gone."""
        while not self._over.wait(1.0):
            ended = [child.returncode for child in self.children if child.poll()]
            # Most often the next exchange of gradients fails, and this process leaves in order.
            if ended and not self._over.wait(GRACE):
                if not self.file.exists():
                    print(f"error: {self._lost() or 'a process ended'}", file=sys.stderr)
                for child in self.children:
                    child.kill()
                os._exit(2)

    def _watch_parent(self) -> None:
        """Leave when the process that started this one was killed."""
        parent = os.getppid()
        while not self._over.wait(1.0):
            if os.getppid() != parent:
                os._exit(1)
