"""Runs several sources at the same time, each in a thread of its own."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping

from emotion_lab.core.errors import UserError
from emotion_lab.core.wording import counted
from emotion_lab.video.runner import PipelineRunner, RunStats

#: Duration of the load measurement, and the wait before it, seconds.
MEASURE_S, _SETTLE_S = 5.0, 1.0
#: Share of dropped frames above which the machine does not keep up.
_MAX_DROPPED = 0.02
_POLL_S = 0.1


class LostSourcesError(UserError):
    """Some of several sources ended with an error; the others were complete."""

    exit_code = 1


def print_error(name: str, error: BaseException) -> None:
    """Print the error that ended one of several sources; the others go on."""
    if not isinstance(error, UserError):
        traceback.print_exception(error)
    print(f"{name} ended: {error}", file=sys.stderr, flush=True)


def raise_errors(errors: Mapping[str, BaseException], count: int) -> None:
    """Raise one error for the sources that were lost, if any; :func:`print_error` has run.

    Args:
        errors: Name of a source -> its error.
        count: Number of all sources.
    """
    if errors:
        name, error = next(iter(errors.items()))
        raise LostSourcesError(
            f"{len(errors)} of {counted(count, 'source')} ended with an error; the first is "
            f"{name}: {error}"
        )


class LoadMonitor:
    """Measures in the first seconds whether the machine keeps up with all sources.

    Args:
        runners: By the name of the source.
        paced: Whether files are played at their own frame rate (the web page).
    """

    def __init__(self, runners: Mapping[str, PipelineRunner], paced: bool = False) -> None:
        self._runners, self._paced = dict(runners), paced
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load monitor", daemon=True)

    def start(self) -> None:
        """Start the measurement in a thread."""
        self._thread.start()

    def close(self) -> None:
        """End it; nothing more is printed."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while any(r.stats.frames == 0 and not r.source.closed for r in self._runners.values()):
            if self._stop.wait(_POLL_S):
                return
        if self._stop.wait(_SETTLE_S):
            return
        before, begin = self._counts(), time.monotonic()
        if self._stop.wait(MEASURE_S):
            return
        text = self._report(before, self._counts(), time.monotonic() - begin)
        if text:
            print(text, file=sys.stderr, flush=True)

    def _counts(self) -> dict[str, tuple[int, int]]:
        """Return the processed and dropped frames of every source that is not paused."""
        return {
            name: (runner.stats.frames, runner.source.dropped)
            for name, runner in self._runners.items()
            if not runner.paused
        }

    def _report(
        self, before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], seconds: float
    ) -> str:
        """Return what the machine can do in one line, or "" if it keeps up."""
        delivered, rates = 0.0, {}
        for name in before.keys() & after.keys():
            frames, dropped = (b - a for a, b in zip(before[name], after[name], strict=True))
            source = self._runners[name].source
            has_pace = source.live or (self._paced and source.fps and not source.stills)
            if source.closed or not has_pace:
                continue
            # A file that is played at its pace waits if it cannot be decoded in time.
            is_device = source.kind in ("camera", "stream") or source.fps is None
            arrived = (frames + dropped) / seconds
            delivered += arrived if is_device else max(source.fps or 0.0, arrived)
            rates[name] = frames / seconds
        total = sum(rates.values())
        if not rates or total >= (1 - _MAX_DROPPED) * delivered:
            return ""
        least, most = min(rates.values()), max(rates.values())
        return (
            f"{counted(len(rates), 'source')} deliver {delivered:.0f} frames/s; this machine "
            f"processes {total:.0f} of them, {total / len(rates):.1f} frames/s of each source "
            f"({least:.1f} to {most:.1f}); for more, use fewer sources, smaller pictures or a "
            "larger tracking.detect_every."
        )


class MultiRunner:
    """Runs several sources until all have ended; an error of one ends none of the others.

    Args:
        runners: By the name of the source; they share a detector, a classifier and ``turns``.

    Attributes:
        errors: Name of a source that was lost -> its error.
    """

    def __init__(self, runners: Mapping[str, PipelineRunner]) -> None:
        self.runners = dict(runners)
        self.errors: dict[str, BaseException] = {}
        self._threads = [
            threading.Thread(target=self._run, args=item, name=f"source {item[0]}", daemon=True)
            for item in self.runners.items()
        ]

    def _run(self, name: str, runner: PipelineRunner) -> None:
        try:
            runner.run()
        except BaseException as error:  # counted by raise_errors in the main thread
            self.errors[name] = error
            print_error(name, error)

    def run(self, on_frame: Callable[[RunStats], object] | None = None) -> None:
        """Run all sources; after Ctrl-C all files are complete.

        Args:
            on_frame: Called several times per second with the sum of the frames.
        """
        monitor = LoadMonitor(self.runners)
        try:
            for thread in self._threads:
                thread.start()
            monitor.start()
            for thread in self._threads:
                # Short timeouts: on some platforms Ctrl-C cannot interrupt one long wait.
                while thread.is_alive():
                    thread.join(_POLL_S)
                    if on_frame is not None:
                        frames = sum(runner.stats.frames for runner in self.runners.values())
                        on_frame(RunStats(frames=frames))
        finally:
            for runner in self.runners.values():
                runner.source.close()
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
            monitor.close()
