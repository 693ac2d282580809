"""Runs an iterator in a thread, so that the stages of a pipeline work side by side."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

#: How often a waiting thread looks whether it must end, seconds.
_POLL_S = 0.1
#: Maximum wait for a blocked worker on close; the daemon thread ends after it.
_JOIN_S = 2.0


class _Worker(threading.Thread):
    """Moves items to a bounded queue; the last message is an error, or None at the end."""

    def __init__(self, items: Iterable[object], size: int, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._items = items
        self.stop = threading.Event()
        self.messages: queue.Queue[tuple[object, bool]] = queue.Queue(size)

    def run(self) -> None:
        """Move all items; close the iterator if the consumer stops early."""
        last: BaseException | None = None
        try:
            for item in self._items:
                if not self._put((item, False)):
                    break
        except BaseException as error:  # raised again in the consumer
            last = error
        finally:
            close = getattr(self._items, "close", None)
            if self.stop.is_set() and close is not None:
                close()
            self._put((last, True))

    def _put(self, message: tuple[object, bool]) -> bool:
        while not self.stop.is_set():
            try:
                self.messages.put(message, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False


def prefetch(items: Iterable[T], name: str, size: int = 1) -> Iterator[T]:
    """Yield the items of an iterator that runs in a thread of its own, in order.

    An exception of the iterator is raised after the items before it. Closing the generator stops
    the thread and closes the iterator.

    Args:
        name: Of the thread.
        size: Number of items that are computed ahead.
    """
    worker = _Worker(items, size, name)
    worker.start()
    try:
        while True:
            try:
                # The timeout is for Ctrl-C: on Windows a wait without one cannot be interrupted.
                item, is_last = worker.messages.get(timeout=0.5)
            except queue.Empty:
                continue
            if not is_last:
                yield item  # type: ignore[misc]  # of items
            elif isinstance(item, BaseException):
                raise item
            else:
                return
    finally:
        worker.stop.set()
        worker.join(_JOIN_S)
