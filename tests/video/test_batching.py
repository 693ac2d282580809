"""Turns and shared batches of the threads of several sources."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from emotion_lab.video.batching import BatchingClassifier
from emotion_lab.video.multi_runner import MultiRunner
from emotion_lab.video.turns import Turns
from tests.helpers_several import Greys, collected, make_runners
from tests.helpers_web import wait_for
from tests.video.test_pipeline import BrightnessClassifier


def test_turns_are_in_order_of_arrival() -> None:
    turns, order, threads = Turns(1), [], []

    def work(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(5):
            threads.append(threading.Thread(target=work, args=(number,)))
            threads[-1].start()
            wait_for(lambda expected=number + 1: len(turns._waiting) == expected)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4] and turns._free == 1


def test_a_thread_that_is_stuck_loses_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emotion_lab.video.turns.PATIENCE_S", 0.05)
    turns, goes_on, order = Turns(1), threading.Event(), []

    def stuck() -> None:
        with turns:
            assert goes_on.wait(10)

    def work(number: int) -> None:
        for _ in range(3):
            with turns:
                order.append(number)

    threads = [threading.Thread(target=stuck)]
    threads[0].start()
    wait_for(lambda: turns._inside)
    threads += [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads[1:]:
        thread.start()
    wait_for(lambda: len(order) == 6)
    goes_on.set()
    for thread in threads:
        thread.join()
    assert turns._free == 1 and not turns._inside and not turns._waiting


def test_live_sources_that_are_too_fast_get_equal_shares() -> None:
    class Slow(BrightnessClassifier):
        def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
            time.sleep(0.001)
            return super().__call__(crops)

    readers = [Greys(f"s{k}", 400, True, lambda index: time.sleep(0.001)) for k in range(6)]
    runners = make_runners(readers, Slow(), turns=1)
    MultiRunner(runners).run()
    frames = [runner.stats.frames for runner in runners.values()]
    dropped = [runner.source.dropped for runner in runners.values()]
    assert sum(dropped) > 0  # the classifier is too slow for all frames
    assert [sum(pair) for pair in zip(frames, dropped, strict=True)] == [400] * 6
    assert min(frames) > 0.7 * max(frames)


class Gate(BrightnessClassifier):
    """The first batch waits until ``others`` more requests wait."""

    def __init__(self, others: int) -> None:
        super().__init__()
        self.others = others
        self.shared: BatchingClassifier | None = None

    def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
        if not self.batch_sizes and self.shared is not None:
            shared = self.shared
            wait_for(lambda: len(shared._waiting) == self.others)
        return super().__call__(crops)


def test_faces_of_all_sources_that_wait_are_one_batch() -> None:
    classifier = Gate(others=3)
    runners = make_runners([Greys(f"s{k}", 1) for k in range(4)], classifier, turns=4)
    classifier.shared = next(iter(runners.values())).pipeline.batching
    MultiRunner(runners).run()
    assert classifier.batch_sizes == [1, 3]
    for runner in runners.values():
        (result,) = collected(runner).results
        assert result.faces[0].probabilities[1] == pytest.approx(20 / 255)


def test_every_thread_gets_its_own_rows_of_a_batch() -> None:
    class Learned(Gate):
        def predict(self, crops: Any) -> tuple[np.ndarray, np.ndarray]:
            rows = self(crops)
            return rows, 2 * rows[:, 1:]

    classifier = Learned(others=3)
    shared = classifier.shared = BatchingClassifier(classifier)
    results: dict[int, Any] = {}

    def work(count: int) -> None:
        greys = [50 * count + k for k in range(count)]
        results[count] = shared([np.full((4, 4, 3), grey, np.uint8) for grey in greys])

    threads = [threading.Thread(target=work, args=(count,)) for count in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(classifier.batch_sizes) == 2 and sum(classifier.batch_sizes) == 10
    for count, (probabilities, quantities) in results.items():
        expected = (50 * count + np.arange(count)) / 255
        assert probabilities[:, 1] == pytest.approx(expected)
        assert quantities[:, 0] == pytest.approx(2 * expected)


def test_an_error_in_a_batch_is_raised_in_its_own_thread_only() -> None:
    class Strict(Gate):
        def __call__(self, crops: list[np.ndarray]) -> np.ndarray:
            probabilities = super().__call__(crops)
            if any(crop.mean() > 250 for crop in crops):
                raise ValueError("too bright")
            return probabilities

    classifier = Strict(others=2)
    shared = classifier.shared = BatchingClassifier(classifier)
    results: dict[int, Any] = {}

    def work(value: int) -> None:
        try:
            results[value] = shared([np.full((4, 4, 3), value, np.uint8)])[0][0, 1]
        except ValueError as error:
            results[value] = str(error)

    threads = [threading.Thread(target=work, args=(value,)) for value in (10, 255, 51)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Which one is first is open; the other two are a batch.
    assert results[255] == "too bright"
    assert results[10] == pytest.approx(10 / 255) and results[51] == pytest.approx(0.2)
