"""Learned and derived values against annotated ones, with the formula of Lin 1989."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotion_lab.data.transforms import Resize
from emotion_lab.data.types import ArrayStore, Split
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.evaluation.quantities import score_quantities
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.inference.derived import DerivedOutputs

CLASSES = ["happy", "sad"]


def make_result(logits: np.ndarray, quantities: dict[str, np.ndarray]) -> EvaluationResult:
    n = len(logits)
    labels = np.zeros(n, np.int64)
    store = ArrayStore(np.zeros((1, 4, 4, 1), np.uint8))
    part = Split(store, np.zeros(n, np.int64), labels, ["x"] * n, quantities=quantities)
    predictions = Predictions(
        torch.tensor(logits, dtype=torch.float32), torch.from_numpy(labels), torch.arange(n)
    )
    card = {"classes": CLASSES, "temperature": 1.0}
    return EvaluationResult(None, card, "val", part, predictions, {}, Resize(4, 1), "cpu")  # type: ignore[arg-type]


def test_ccc_and_rmse_by_hand() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 2)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    derive = DerivedOutputs(CLASSES)
    found = np.array([derive(row, 0)["valence"] for row in p], dtype=np.float64)
    true = (found * 0.5 + 0.1).astype(np.float32)
    true[:5] = np.nan
    scores = score_quantities(make_result(logits, {"valence": true}))
    (row,) = scores
    assert (row["quantity"], row["source"], row["n"]) == ("valence", "derived", 35)
    x, y = found[5:], true[5:].astype(np.float64)
    ccc = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    # torchmetrics divides by n - 1.
    assert row["ccc"] == pytest.approx(ccc, rel=0.02)
    low, high = row["ccc_ci95"]
    assert 0 < low < row["ccc"] < high < 1
    assert row["rmse"] == pytest.approx(np.sqrt(((x - y) ** 2).mean()), rel=1e-4)


def test_what_cannot_be_compared_is_left_out() -> None:
    logits = np.random.default_rng(0).normal(size=(12, 2))
    nothing, one = np.full(12, np.nan, np.float32), np.ones(12, np.float32)
    assert score_quantities(make_result(logits, {})) == []
    assert score_quantities(make_result(logits, {"valence": nothing})) == []
    assert score_quantities(make_result(logits, {"intensity": one})) == []  # no vote shares
    (equal,) = score_quantities(make_result(logits, {"arousal": one}))
    assert equal["ccc"] is None


def test_learned_values_come_first() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(-1, 1, 20).astype(np.float32)
    result = make_result(rng.normal(size=(20, 2)), {"valence": true})
    result.predictions.quantities["valence"] = torch.from_numpy(true)
    learned, derived = score_quantities(result)
    assert (learned["source"], derived["source"]) == ("learned", "derived")
    assert learned["ccc"] == pytest.approx(1, abs=1e-5) and derived["ccc"] < 0.9
