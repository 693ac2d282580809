"""Turns of threads, in order of arrival."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from contextlib import AbstractContextManager

from emotion_lab.core.threads import usable_cores

#: A thread that stays inside for longer is stuck: another one gets its turn.
PATIENCE_S = 2.0


class Turns(AbstractContextManager):
    """Lets a number of threads work at a time, in the order in which they came.

    Threads that always come again take turns (round robin), whatever the system's scheduler does.

    Args:
        count: Number of threads inside the ``with`` block at a time.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._inside: dict[int, float] = {}  # thread -> time.monotonic() of its entry
        self._waiting: deque[tuple[int, threading.Lock]] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._lock:
            if self._free:
                self._free -= 1
                self._inside[me] = time.monotonic()
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append((me, turn))
        while not turn.acquire(timeout=PATIENCE_S):  # released by the thread that leaves
            with self._lock:
                if any(other is turn for _, other in self._waiting):
                    self._replace_stuck()

    def __exit__(self, *error: object) -> None:
        with self._lock:
            if self._inside.pop(threading.get_ident(), None) is not None:
                self._pass_on()

    def _pass_on(self) -> None:
        """Give a turn to the thread that waits for the longest time, if any."""
        if self._waiting:
            thread, turn = self._waiting.popleft()
            self._inside[thread] = time.monotonic()
            turn.release()
        else:
            self._free += 1

    def _replace_stuck(self) -> None:
        """Pass on the turns of threads that are stuck."""
        now = time.monotonic()
        for thread in [key for key, begin in self._inside.items() if now - begin >= PATIENCE_S]:
            del self._inside[thread]
            self._pass_on()


@functools.cache
def decoding() -> Turns:
    """Return the turns of the threads that decode pictures, for half of the cores.

    Without them, the capture threads of many sources would take the whole machine for frames that
    are dropped afterwards.
    """
    return Turns(max(1, usable_cores() // 2))
