"""Error of the head pose, and intensity on synthetic faces of known strength.

The pose is measured on landmarks, not on pictures: synthetic faces are flat, without the depth of a
nose, from which the pose is estimated. Heads of random individuals are turned by known angles and
projected by a camera at a random distance, with the noise of a detector.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.progress import track
from emotion_lab.evaluation.statistics import interval
from emotion_lab.inference.classifier import Classifier, load_classifier
from emotion_lab.synthetic.render import draw_face
from emotion_lab.synthetic.spec import sample_face
from emotion_lab.video.head_pose import FACE, HeadPose, head_pose

NUM_HEADS = 3000
#: Limits of the turn in degrees that errors are given for.
TURNS = (0, 15, 30, 45, 60, 75)
#: Standard deviations of an individual's landmarks from the generic face and of the detector's
#: landmarks from those of the individual, in distances between the eyes.
SHAPE, NOISE = 0.05, 0.03
#: Distance of the camera in centimetres.
DISTANCE = (40.0, 200.0)
NUM_PEOPLE = 20
STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_ROUNDS = 1000


def _random_head(rng: np.random.Generator) -> np.ndarray:
    """Return the landmarks (5, 3) of a symmetric face that differs from the generic one."""
    eyes = FACE[1, 0] - FACE[0, 0]
    left, nose, mouth = (FACE[k] + rng.normal(0, SHAPE * eyes, 3) for k in (0, 2, 3))
    mirror = np.array((-1.0, 1.0, 1.0))
    return np.stack([left, left * mirror, nose * (0, 1, 1), mouth, mouth * mirror])


def pose_errors(seed: int) -> list[dict[str, Any]]:
    """Return mean absolute errors in degrees, with 95 % bootstrap intervals, by turn.

    Returns:
        For each interval of the turn: ``from``, ``to``, ``n``, and for ``yaw``, ``pitch``,
        ``roll`` and ``turn`` their error and its interval ``..._ci95``.
    """
    rng = np.random.default_rng(seed)
    eyes = FACE[1, 0] - FACE[0, 0]
    turns, errors = [], []
    for _ in range(NUM_HEADS):
        pose = HeadPose(rng.uniform(-75, 75), rng.uniform(-30, 30), rng.uniform(-45, 45))
        points, distance = _random_head(rng) @ pose.matrix.T, rng.uniform(*DISTANCE)
        pixels = 1000 * points[:, :2] / (distance - points[:, 2:])
        pixels += rng.normal(0, NOISE * eyes * 1000 / distance, pixels.shape)
        found = head_pose(pixels)
        assert found is not None  # the points are finite and differ
        turns.append(pose.turn)
        names = ("yaw", "pitch", "roll", "turn")
        errors.append([abs(getattr(found, name) - getattr(pose, name)) for name in names])
    table, turned = np.array(errors), np.array(turns)
    rows: list[dict[str, Any]] = []
    for low, high in itertools.pairwise(TURNS):
        inside = table[(turned >= low) & (turned < high)]
        draws = rng.integers(len(inside), size=(_ROUNDS, len(inside)))
        row: dict[str, Any] = {"from": low, "to": high, "n": len(inside)}
        for k, name in enumerate(names):
            row[name] = round(float(inside[:, k].mean()), 2)
            row[f"{name}_ci95"] = [round(v, 2) for v in interval(inside[:, k][draws].mean(1))]
        rows.append(row)
    return rows


def intensity_by_strength(classifier: Classifier, seed: int) -> dict[str, Any]:
    """Return the mean share of people who would name an emotion, by its drawn strength.

    The same people are drawn with the action units of each emotion at every strength.

    Returns:
        Emotion -> ``shares``, the mean over the people at each of :data:`STRENGTHS`;
        ``probabilities``, the mean probability of every class there;
        ``monotone``, whether they never fall; ``spearman``, the rank correlation of strength and
        share over all drawings, and its bootstrap interval over people ``spearman_ci95``.
    """
    vote_shares = classifier.derived.vote_shares
    assert vote_shares is not None  # checked by the caller
    names = [name for name in EMOTIONS if name in classifier.classes and name != "neutral"]
    results: dict[str, Any] = {}
    for name in track(names, "drawing faces"):
        shares = np.zeros((NUM_PEOPLE, len(STRENGTHS)))
        total = np.zeros((len(STRENGTHS), len(classifier.classes)))
        for person in range(NUM_PEOPLE):
            faces = [
                draw_face(
                    sample_face(np.random.default_rng([seed, person]), name, 0.2, strength), 96, 3
                )
                for strength in STRENGTHS
            ]
            probabilities = classifier(faces)
            total += probabilities
            shares[person] = vote_shares(probabilities)[:, classifier.classes.index(name)]
        rng = np.random.default_rng(seed)
        strengths = np.broadcast_to(STRENGTHS, shares.shape)
        draws = rng.integers(NUM_PEOPLE, size=(_ROUNDS, NUM_PEOPLE))
        rank = [spearmanr(strengths[d].ravel(), shares[d].ravel()).statistic for d in draws]
        mean = shares.mean(0)
        results[name] = {
            "shares": [round(float(v), 3) for v in mean],
            "probabilities": {
                key: [round(float(v), 3) for v in total[:, k] / NUM_PEOPLE]
                for k, key in enumerate(classifier.classes)
            },
            "monotone": bool((np.diff(mean) >= 0).all()),
            "spearman": round(float(spearmanr(strengths.ravel(), shares.ravel()).statistic), 3),
            "spearman_ci95": [round(v, 3) for v in interval(np.array(rank))],
        }
    return results


def bench(cfg: dict[str, Any]) -> dict[str, Any]:
    """Measure the pose; with a checkpoint that has vote shares, intensity as well."""
    result: dict[str, Any] = {
        "pose": pose_errors(cfg["seed"]),
        "heads": {"shape": SHAPE, "noise": NOISE, "distance_cm": list(DISTANCE)},
    }
    if cfg["ckpt"] is None:
        return result
    classifier = load_classifier(cfg["ckpt"], cfg["backend"])
    result["runtime"] = classifier.runtime_name
    if classifier.derived.vote_shares is None:
        print(f"{cfg['ckpt']} has no vote shares and so no intensity: evaluate calibrate=true.")
        return result
    result |= {"people": NUM_PEOPLE, "strengths": list(STRENGTHS)}
    result["intensity"] = intensity_by_strength(classifier, cfg["seed"])
    return result
