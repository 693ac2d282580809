"""Batches of the faces of all sources of one process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from emotion_lab.inference.classifier import Classifier

#: Probabilities, float32 (N, K), and learned quantities, float32 (N, Q).
Outputs: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclass
class _Request:
    """Crops of one thread, and what becomes of them."""

    crops: list[np.ndarray]
    outputs: Outputs | None = None
    error: BaseException | None = None
    done: bool = False


class BatchingClassifier:
    """Makes a classifier thread-safe: the crops of all threads that wait are one batch.

    While a batch runs, the crops of other threads collect; they are the next batch. Nothing waits
    for a batch to fill.

    Args:
        classifier: Called by one thread at a time.

    Attributes:
        batches: Number of batches so far.
        faces: Number of faces in them.
        requests: Number of calls in them.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.batches = self.faces = self.requests = 0
        self._classifier = classifier
        self._waiting: list[_Request] = []
        self._busy = False
        self._changed = threading.Condition()

    def __call__(self, crops: Sequence[np.ndarray]) -> Outputs:
        """Return :meth:`Classifier.predict` of the crops, or raise its error."""
        request = _Request(list(crops))
        batch: list[_Request] = []
        with self._changed:
            self._waiting.append(request)
            self._changed.wait_for(lambda: request.done or not self._busy)
            if not request.done:
                self._busy = True
                batch, self._waiting = self._waiting, []
        if batch:
            try:
                self._run(batch)
            finally:
                with self._changed:
                    self._busy = False
                    for one in batch:
                        one.done = True
                    self._changed.notify_all()
        if request.error is not None:
            raise request.error
        if request.outputs is None:
            raise RuntimeError("the thread that ran the batch was interrupted")
        return request.outputs

    def _run(self, batch: Sequence[_Request]) -> None:
        """Classify all requests at once; after an error each alone, so that one fails only."""
        try:
            probabilities, quantities = self._classifier.predict(
                [crop for request in batch for crop in request.crops]
            )
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for request in batch:
                self._run([request])
            return
        begin = 0
        for request in batch:
            end = begin + len(request.crops)
            request.outputs = probabilities[begin:end], quantities[begin:end]
            begin = end
        self.batches += 1
        self.faces += begin
        self.requests += len(batch)
