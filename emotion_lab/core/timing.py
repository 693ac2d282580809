"""Interleaved timing of alternatives, and peak memory of a process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from emotion_lab.core.errors import UserError

#: Minimum duration of one measurement, in seconds.
AT_LEAST_S = 0.25


def per_second(work: Callable[[], int], at_least: float = AT_LEAST_S) -> float:
    """Return the images per second of ``work``.

    Args:
        work: Returns the number of images it processed; it is repeated.
        at_least: Minimum duration in seconds; 0 if ``work`` has its own.
    """
    start, count, seconds = time.perf_counter(), 0, 0.0
    while not count or seconds < at_least:
        count += work()
        seconds = time.perf_counter() - start
    return count / seconds


def time_interleaved(
    candidates: dict[str, Callable[[], int]],
    rounds: int,
    progress: bool = True,
    at_least: float = AT_LEAST_S,
) -> dict[str, list[float]]:
    """Time several candidates alternately, so that other load on the machine affects all.

    Args:
        candidates: Name -> function that returns the number of images it processed.
        rounds: Measurements of each candidate, after one warm-up round that is discarded.
        progress: Whether each measurement is printed.
        at_least: See :func:`per_second`.

    Returns:
        Images per second of each candidate, one value per round.
    """
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, work in candidates.items():
            rate = per_second(work, at_least)
            if turn:
                rates[name].append(rate)
            if progress:
                part = f"round {turn}/{rounds}" if turn else "warm-up"
                print(f"  {part} {name}: {rate:,.0f} images/s", flush=True)
    return rates


def summary(rates: list[float]) -> dict[str, float]:
    """Return median, minimum and maximum of the rounds."""
    return {
        "median": round(statistics.median(rates), 2),
        "min": round(min(rates), 2),
        "max": round(max(rates), 2),
    }


def calls(iterator: Iterator[int]) -> Callable[[], int]:
    """Return a function that takes the next value of an endless iterator."""
    return lambda: next(iterator)


#: Intermediate process that runs its arguments and prints the peak memory of its child. Linux adds
#: the memory of the parent at the time of the fork to the peak of the child.
_MEASURE = """
import os, subprocess, sys
process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(min(1, os.waitstatus_to_exitcode(status) & 255))
"""


def peak_memory_mib(arguments: list[str]) -> float:
    """Run ``python <arguments>`` and return the peak memory of that process in MiB.

    Its worker processes are not counted.
    """
    if not hasattr(os, "wait4"):
        raise UserError("peak memory can be measured on Linux and macOS only")
    completed = subprocess.run(
        [sys.executable, "-c", _MEASURE, *arguments], capture_output=True, text=True
    )
    if completed.returncode:
        last = (
            completed.stderr.strip().splitlines()[-1] if completed.stderr.strip() else "no message"
        )
        raise UserError(f"the process to measure failed: {last}")
    unit = 1024 if sys.platform != "darwin" else 1024 * 1024
    return round(int(completed.stdout) / unit, 1)
