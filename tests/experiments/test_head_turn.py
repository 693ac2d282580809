"""Accuracy by the turn of the head, with a detector that returns known landmarks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotion_lab.data.transforms import Resize
from emotion_lab.data.types import ArrayStore, Split
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.experiments.run.head_turn import accuracy_by_turn, build_landmark_detector
from emotion_lab.video.head_pose import FACE, HeadPose
from emotion_lab.video.types import Detections


class TurnDetector:
    """Reads the yaw from the grey value of the image; there is no face in a black one."""

    name = "turn"

    def __call__(self, image: np.ndarray) -> Detections:
        yaw = int(image[0, 0, 0])
        if not yaw:
            return Detections.none()
        points = (FACE @ HeadPose(yaw, 0, 0).matrix.T)[:, :2] + 80
        boxes = np.array([[0, 0, 9, 9], [60, 60, 40, 40]], np.float32)
        landmarks = np.stack([np.zeros((5, 2)), points])
        return Detections(boxes, np.array([0.3, 0.9], np.float32), landmarks)


def test_accuracy_of_each_bin() -> None:
    yaws = np.array([2, 3, 22, 0, 80], np.uint8)
    store = ArrayStore(np.repeat(yaws, 48 * 48).reshape(-1, 48, 48, 1))
    labels = np.zeros(5, np.int64)
    part = Split(store, np.arange(5), labels, list("abcde"))
    logits = torch.eye(2)[[0, 1, 0, 0, 1]]
    predictions = Predictions(logits, torch.from_numpy(labels), torch.arange(5))
    result = EvaluationResult(None, {}, "val", part, predictions, {}, Resize(48, 1), "cpu")  # type: ignore[arg-type]
    by_turn = accuracy_by_turn(result, TurnDetector())
    assert by_turn["detector"] == "turn" and by_turn["without"] == 1
    values = [(row["from"], row["n"], row["accuracy"]) for row in by_turn["bins"]]
    assert values == [(0, 2, 0.5), (15, 1, 1.0), (30, 0, None), (45, 1, 0.0)]
    low, high = by_turn["bins"][0]["accuracy_ci95"]
    assert low == pytest.approx(0.0945, abs=1e-3) and high == pytest.approx(0.9055, abs=1e-3)


def test_no_detector_is_built_for_none() -> None:
    assert build_landmark_detector("none", None) is None
