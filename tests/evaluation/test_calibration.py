"""Calibration metrics and curves, compared with scikit-learn and manual sums."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics

from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.calibration import (
    brier,
    coverage,
    ece,
    fit_temperature,
    nll,
    probabilities,
    reliability,
)
from emotion_lab.evaluation.curves import macro_auc, precision_recall, roc, thin

CLASSES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


def material(
    n: int = 900, seed: int = 0, absent: int | None = None, sharp: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 logits (N, 7), right more often than not, and labels."""
    generator = np.random.default_rng(seed)
    share = np.array([14, 2, 14, 25, 17, 11, 17]) / 100
    labels = generator.choice(7, n, p=share)
    labels[:7] = range(7)
    if absent is not None:
        labels[labels == absent] = 3
    logits = generator.normal(size=(n, 7))
    logits[np.arange(n), labels] += 1.5
    return (sharp * logits).astype(np.float32), labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("absent", [None, 1])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_nll_and_brier_match_scikit_learn(
    seed: int, absent: int | None, temperature: float
) -> None:
    logits, labels = material(seed=seed, absent=absent)
    p = softmax(logits.astype(np.float64) / temperature, 1)
    np.testing.assert_allclose(probabilities(logits, temperature), p, atol=1e-12)
    expected = metrics.log_loss(labels, p, labels=range(7))
    assert nll(logits, labels, temperature) == pytest.approx(expected, abs=1e-6)
    # By column, as scikit-learn supports a Brier score of several classes only since 1.7.
    columns = [metrics.brier_score_loss(labels == i, p[:, i]) for i in range(7)]
    assert brier(logits, labels, temperature) == pytest.approx(sum(columns), abs=1e-6)


def by_hand(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    p = softmax(logits.astype(np.float64) / temperature, 1)
    confidence, right = p.max(1), p.argmax(1) == labels
    total = 0.0
    for i in range(15):
        inside = (confidence >= i / 15) & (confidence < (i + 1) / 15 if i < 14 else True)
        if inside.any():
            total += inside.sum() * abs(confidence[inside].mean() - right[inside].mean())
    return total / len(labels)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sharp", [1.0, 3.0, 60.0])
def test_ece_by_hand(seed: int, sharp: float) -> None:
    """Sharp logits give confidences of exactly 1, which belong to the last bin."""
    logits, labels = material(seed=seed, sharp=sharp)
    if sharp == 60:
        assert (probabilities(logits).max(1) == 1).sum() > 100
    for temperature in (1.0, 2.5):
        actual = ece(logits, labels, temperature)
        assert actual == pytest.approx(by_hand(logits, labels, temperature), abs=1e-6)
        bins = reliability(logits, labels, temperature)
        gaps = [abs(r["confidence"] - r["accuracy"]) * r["count"] for r in bins if r["count"]]
        assert sum(gaps) / len(labels) == pytest.approx(actual, abs=1e-6)


def test_confidence_one_is_in_the_last_bin() -> None:
    """Five predictions at 1.0 (one wrong) and five at 0.95 (all right) share a bin."""
    logits = np.array([[90.0, 0.0]] * 5 + [[np.log(0.95 / 0.05), 0.0]] * 5)
    labels = np.array([1] + [0] * 9)
    assert ece(logits, labels) == pytest.approx(0.975 - 0.9, abs=1e-6)


def test_reliability_bins() -> None:
    """Two classes, confidences 0.6 (three of five right) and 0.95 (all of four)."""
    confidence = np.array([0.6] * 5 + [0.95] * 4)
    logits = np.log(np.stack([confidence, 1 - confidence], 1))
    labels = np.array([0, 0, 0, 1, 1, 0, 0, 0, 0])
    bins = reliability(logits, labels)
    assert len(bins) == 15 and sum(row["count"] for row in bins) == 9
    assert [row["count"] for row in bins if row["count"]] == [5, 4]
    assert bins[14]["confidence"] == pytest.approx(0.95) and bins[14]["accuracy"] == 1
    assert bins[0] == {"low": 0, "high": 1 / 15, "count": 0, "confidence": None, "accuracy": None}
    assert ece(logits, labels) == pytest.approx(4 * 0.05 / 9, abs=1e-6)


def test_log_probabilities_work_as_logits() -> None:
    logits, labels = material()
    p = np.log(probabilities(logits))
    assert nll(p, labels, 1.4) == pytest.approx(nll(logits, labels, 1.4), abs=1e-9)
    assert fit_temperature(p, labels) == pytest.approx(fit_temperature(logits, labels), 1e-4)


def test_large_logits_stay_finite() -> None:
    logits = np.array([[3e4, 0, -3e4], [0, 1e4, 0]], dtype=np.float32)
    labels = np.array([2, 1])
    assert nll(logits, labels) == pytest.approx(3e4)
    assert brier(logits, labels) == pytest.approx(1)
    for function in (ece, fit_temperature):
        assert np.isfinite(function(logits, labels))
    json.dumps([reliability(logits, labels), coverage(logits, labels)], allow_nan=False)


@pytest.mark.parametrize("function", [nll, brier, ece, reliability, coverage, fit_temperature])
def test_broken_predictions(function: object) -> None:
    logits, labels = material(20)
    logits[4, 2] = np.nan
    logits[9, 0] = np.inf
    with pytest.raises(UserError, match=r"2 of 20 predictions are NaN or infinite.*number 5"):
        function(logits, labels)
    with pytest.raises(UserError, match="empty"):
        function(logits[:0], labels[:0])


@pytest.mark.parametrize("known", [0.4, 1.0, 2.5])
def test_known_temperature_is_recovered(known: float) -> None:
    """Labels drawn from softmax(z), logits are known * z."""
    generator = np.random.default_rng(0)
    z = generator.normal(scale=2, size=(20000, 7))
    draw = generator.random(20000)[:, None]
    labels = (softmax(z, 1).cumsum(1) < draw).sum(1).clip(0, 6)
    logits = (known * z).astype(np.float32)
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(known, rel=0.03)
    assert nll(logits, labels, fitted) <= nll(logits, labels)
    for factor in (0.99, 1.01):
        assert nll(logits, labels, fitted) < nll(logits, labels, fitted * factor)
    assert ece(logits, labels, fitted) < 0.01


def test_temperature_limits() -> None:
    logits, labels = material(200)
    sure = np.eye(7)[labels] * 2
    assert fit_temperature(sure, labels) == pytest.approx(0.05, rel=0.05)
    assert fit_temperature(-sure, labels) == pytest.approx(20, rel=0.05)
    assert fit_temperature(np.zeros((200, 7)), labels) == 1
    assert (np.argmax(logits, 1) == probabilities(logits, 3).argmax(1)).all()


def test_coverage_by_hand() -> None:
    logits, labels = material(400)
    rows = coverage(logits, labels)
    assert [row["coverage"] for row in rows] == pytest.approx(np.arange(20, 0, -1) / 20)
    p = probabilities(logits)
    right = p.argmax(1) == labels
    assert rows[0]["accuracy"] == metrics.accuracy_score(labels, p.argmax(1))
    order = np.argsort(-p.max(1))
    for row in rows:
        kept = order[: round(row["coverage"] * 400)]
        assert row["accuracy"] == pytest.approx(right[kept].mean())
        assert row["threshold"] == p.max(1)[kept].min()
    assert rows[-1]["accuracy"] > rows[0]["accuracy"]


def test_equally_confident_images_are_kept_together() -> None:
    confidence = np.array([0.9] * 3 + [0.6] * 7)
    logits = np.log(np.stack([confidence, 1 - confidence], 1))
    rows = coverage(logits, np.array([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
    assert [row["coverage"] for row in rows] == [1.0, 0.3]
    assert [row["accuracy"] for row in rows] == [0.9, 1.0]
    (row,) = coverage(logits[:1], np.array([0]))
    assert row == {"coverage": 1.0, "accuracy": 1.0, "threshold": pytest.approx(0.9)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("absent", [None, 1])
@pytest.mark.parametrize("digits", [None, 2])
def test_areas_match_scikit_learn(seed: int, absent: int | None, digits: int | None) -> None:
    """Includes a class without samples, and many ties from rounded probabilities."""
    logits, labels = material(3589, seed, absent)
    p = probabilities(logits)
    p = p if digits is None else p.round(digits)
    actual, recall = roc(p, labels, CLASSES), precision_recall(p, labels, CLASSES)
    areas = []
    for i, name in enumerate(CLASSES):
        if i == absent:
            assert actual[name] is None and recall[name] is None
            continue
        areas.append(metrics.roc_auc_score(labels == i, p[:, i]))
        assert actual[name]["auc"] == pytest.approx(areas[-1], abs=1e-6)
        ap = metrics.average_precision_score(labels == i, p[:, i])
        assert recall[name]["ap"] == pytest.approx(ap, abs=1e-6)
    assert macro_auc(actual) == pytest.approx(np.mean(areas), abs=1e-6)
    if absent is None and digits is None:
        expected = metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro")
        assert macro_auc(actual) == pytest.approx(expected, abs=1e-6)
    json.dumps([actual, recall], allow_nan=False)


def test_drawn_curves_are_subsampled_exactly() -> None:
    logits, labels = material(3589)
    p = probabilities(logits)
    for name, curve in roc(p, labels, CLASSES).items():
        x, y = curve["fpr"], curve["tpr"]
        assert 2 <= len(x) == len(y) <= 200
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        assert x == sorted(x) and y == sorted(y)
        assert metrics.auc(x, y) == pytest.approx(curve["auc"], abs=0.004), name
        fpr, tpr, _ = metrics.roc_curve(
            labels == CLASSES.index(name), p[:, CLASSES.index(name)], drop_intermediate=False
        )
        assert set(zip(x, y, strict=True)) <= set(zip(fpr.tolist(), tpr.tolist(), strict=True))
    for name, curve in precision_recall(p, labels, CLASSES).items():
        x, y = curve["recall"], curve["precision"]
        assert len(x) == len(y) <= 200 and x == sorted(x, reverse=True), name
        assert (x[0], x[-1], y[-1]) == (1, 0, 1)
        assert -(np.diff(x) * y[:-1]).sum() == pytest.approx(curve["ap"], abs=0.03)


def test_single_class() -> None:
    p = np.array([[0.9, 0.1], [0.6, 0.4]])
    labels = np.array([0, 0])
    curves = roc(p, labels, ["x", "y"])
    assert curves == {"x": {"fpr": [], "tpr": [], "auc": None}, "y": None}
    assert macro_auc(curves) is None
    assert precision_recall(p, labels, ["x", "y"])["x"]["ap"] == 1


def test_thin_keeps_short_curves() -> None:
    x, y = np.array([0, 0.5, 1]), np.array([0, 1, 1])
    assert thin(x, y) == ([0, 0.5, 1], [0, 1, 1])
    many = np.linspace(0, 1, 1000)
    kept, _ = thin(many, many, 10)
    assert len(kept) == 10 and kept[0] == 0 and kept[-1] == 1
    steep, _ = thin(np.r_[np.zeros(999), 1], np.linspace(0, 1, 1000), 10)
    assert steep[0] == 0 and steep[-1] == 1
