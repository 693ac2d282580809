"""Timing in turn, peak memory of a process, and tables."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from emotion_lab.core.errors import UserError

#: Seconds that a way is timed for at least.
AT_LEAST_S = 0.25


def per_second(work: Callable[[], int], at_least: float = AT_LEAST_S) -> float:
    """Run ``work``, which returns how many images it did, and return images a second.

    Args:
        work: Done again until ``at_least`` seconds are over.
        at_least: 0 for what sees to that itself.
    """
    begin, count, took = time.perf_counter(), 0, 0.0
    while not count or took < at_least:
        count += work()
        took = time.perf_counter() - begin
    return count / took


def in_turn(
    ways: dict[str, Callable[[], int]],
    rounds: int,
    progress: bool = True,
    unit: str = "images",
    at_least: float = AT_LEAST_S,
) -> dict[str, list[float]]:
    """Time several ways in turn, so that whatever else the machine does hits all of them.

    One round before the first is not counted: it warms up. ``unit`` is what is counted, for the
    lines of progress; ``at_least`` is that of :func:`per_second`.

    Returns:
        Images a second of each way, one value for each round.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, work in ways.items():
            rate = per_second(work, at_least)
            if turn:
                rates[name].append(rate)
            if progress:
                part = f"round {turn}/{rounds}" if turn else "warm-up"
                print(f"  {part} {name}: {rate:,.0f} {unit}/s", flush=True)
    return rates


def summary(rates: list[float]) -> dict[str, float]:
    """Return median, lowest and highest of the rounds."""
    return {
        "median": round(statistics.median(rates), 2),
        "min": round(min(rates), 2),
        "max": round(max(rates), 2),
    }


def calls(iterator: Iterator[int]) -> Callable[[], int]:
    """Return a function that takes the next value of an endless iterator."""
    return lambda: next(iterator)


#: Runs its arguments in a process and writes that process's peak memory. It stands between because
#: Linux counts what the starting process had in memory to the peak of the one it starts.
_WATCH = """
import os, subprocess, sys
process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(min(1, os.waitstatus_to_exitcode(status) & 255))
"""


def peak_of(arguments: list[str]) -> float:
    """Run ``python <arguments>`` in a process of its own; return its peak memory in MiB.

    Workers of that process are not counted, only itself.

    Raises:
        UserError: If it fails, with the last line it wrote, or where peaks cannot be asked for.
    """
    if not hasattr(os, "wait4"):
        raise UserError("peak memory can be measured on Linux and macOS only")
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, *arguments], capture_output=True, text=True
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
        raise UserError(f"the process measured for memory failed: {last}")
    unit = 1024 if sys.platform != "darwin" else 1024 * 1024
    return round(int(done.stdout) / unit, 1)
