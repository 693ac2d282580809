"""Accuracy of an evaluation by how far the heads are turned."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from emotion_lab.audits.no_face import enlarge
from emotion_lab.config.compose import defaults
from emotion_lab.core.progress import track
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.statistics import wilson
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.head_pose import head_pose
from emotion_lab.video.types import Detector

#: Limits of the bins of the turn, degrees.
TURNS = (0, 15, 30, 45, 180)


def build_landmark_detector(name: str, file: str | None) -> Detector | None:
    """Return a detector with landmarks in its default config, or None for ``none``."""
    if name == "none":
        return None
    return build_detector({**defaults("detector", name), "file": file})


def head_turns(result: EvaluationResult, detector: Detector) -> np.ndarray:
    """Return the turn of the head in every image in degrees, NaN where no face is found.

    Of several faces the one with the highest score counts.

    Returns:
        float64 (N,).
    """
    turns = np.full(len(result.labels), np.nan)
    for i in track(range(len(turns)), f"head pose ({detector.name})"):
        detections = detector(enlarge(result.raw(i)))
        if len(detections) and detections.landmarks is not None:
            pose = head_pose(detections.landmarks[int(detections.scores.argmax())])
            turns[i] = np.nan if pose is None else pose.turn
    return turns


def accuracy_by_turn(result: EvaluationResult, detector: Detector) -> dict[str, Any]:
    """Return the accuracy in bins of the turn of the head.

    Returns:
        ``detector``; ``without``, the images without landmarks; ``bins`` with ``from`` and ``to``
        in degrees, ``n``, ``accuracy`` and its Wilson interval ``accuracy_ci95``, both None
        without images.
    """
    turns, correct = head_turns(result, detector), result.predicted == result.labels
    bins = []
    for low, high in itertools.pairwise(TURNS):
        inside = (turns >= low) & (turns < high)
        n, right = int(inside.sum()), int(correct[inside].sum())
        scores = {"accuracy": right / n, "accuracy_ci95": wilson(right, n)} if n else {}
        empty = {"accuracy": None, "accuracy_ci95": None}
        bins.append({"from": low, "to": high, "n": n, **empty, **scores})
    return {"detector": detector.name, "without": int(np.isnan(turns).sum()), "bins": bins}
