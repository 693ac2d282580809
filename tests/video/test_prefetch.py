"""Iterators in threads: order, errors, early end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.prefetch import prefetch


def stage_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("stage ")]


def test_stages_keep_the_order_and_work_at_the_same_time() -> None:
    names: dict[str, str] = {}
    both = threading.Barrier(2, timeout=10)  # broken if only one stage works at a time

    def stage(name: str, items: Iterator[int]) -> Iterator[int]:
        for item in items:
            names[name] = threading.current_thread().name
            if (name == "a" and item == 1) or (name == "b" and item == 0):
                both.wait()
            yield item

    first = prefetch(stage("a", iter(range(50))), "stage a")
    assert list(prefetch(stage("b", first), "stage b")) == list(range(50))
    assert names == {"a": "stage a", "b": "stage b"}
    assert not stage_threads()


def test_an_error_comes_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield from (1, 2)
        raise UserError("the source is lost")

    seen = []
    with pytest.raises(UserError, match="the source is lost"):
        for item in prefetch(prefetch(failing(), "stage a"), "stage b"):
            seen.append(item)
    assert seen == [1, 2] and not stage_threads()


def test_an_early_end_stops_all_stages_and_runs_ahead_by_a_few_items_only() -> None:
    produced, closed = [], threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                produced.append(len(produced))
                yield produced[-1]
        finally:
            closed.set()

    stages = prefetch(prefetch(endless(), "stage a"), "stage b")
    assert [next(stages), next(stages)] == [0, 1]
    time.sleep(0.05)
    assert len(produced) <= 8
    stages.close()  # type: ignore[attr-defined]  # a generator
    assert closed.wait(5) and not stage_threads()
