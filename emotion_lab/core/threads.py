"""The number of CPU threads of this process, for all programs that compute in it."""

from __future__ import annotations

from emotion_lab.core.environment import cores

_limit: int | None = None


def limit_threads(count: int) -> None:
    """Let OpenCV, and every network that is opened later, use ``count`` threads."""
    import cv2

    global _limit
    _limit = count
    cv2.setNumThreads(count)


def thread_limit() -> int | None:
    """Return the number set by :func:`limit_threads`; None: no limit."""
    return _limit


def usable_cores() -> int:
    """Return the threads of this process if they are limited, else its cores."""
    return thread_limit() or cores()
