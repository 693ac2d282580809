"""The map to shares of votes: fitted on made-up annotators, checked on held-out images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from emotion_lab.core.errors import UserError
from emotion_lab.data.transforms import Resize
from emotion_lab.data.types import ArrayStore, Split
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.vote_shares import check_intensity, fit, fit_checkpoint_shares


def annotated(n: int, split: str = "val", seed: int = 0) -> EvaluationResult:
    """Return predictions of ``n`` images with ten votes, drawn with the square root of p."""
    generator = np.random.default_rng(seed)
    logits = 3 * generator.normal(size=(n, 3))
    votes = np.stack([generator.multinomial(10, p) for p in softmax(logits / 2, axis=1)])
    labels = votes.argmax(1)
    store = ArrayStore(np.zeros((1, 4, 4, 1), np.uint8))
    part = Split(store, np.zeros(n, np.int64), labels, ["x"] * n, votes=votes)
    predictions = Predictions(
        torch.tensor(logits, dtype=torch.float32), torch.tensor(labels), torch.arange(n)
    )
    scores = {"fingerprint": {"hash": f"{split}{seed}"}}
    card = {"classes": ["a", "b", "c"], "temperature": 1.0}
    return EvaluationResult(None, card, split, part, predictions, scores, Resize(4, 1), "cpu")  # type: ignore[arg-type]


def test_fit_recovers_a_known_map() -> None:
    logits = np.random.default_rng(1).normal(size=(500, 3)) * 2
    weight, bias = np.array([[0.5, 0.1, 0], [0, 0.6, 0], [0, 0, 0.7]]), np.array([0.3, 0, -0.2])
    log_p = log_softmax(logits, axis=1)
    target = softmax(log_p @ weight.T + bias, axis=1)
    assert np.abs(fit(log_p, target)(np.exp(log_p)) - target).max() < 0.02


def test_intensity_follows_the_votes() -> None:
    checked = check_intensity(annotated(600))
    assert checked is not None and checked["n"] == 600
    assert checked["cross_fitted"] and not checked["in_checkpoint"]
    low, high = checked["spearman_ci95"]
    assert 0.5 < low < checked["spearman"] < high < 1
    assert sum(row["n"] for row in checked["bins"]) == 600
    for row in checked["bins"]:
        if row["n"] > 50:
            assert row["intensity"] == pytest.approx(row["share"], abs=0.06)


def test_a_stored_map_is_applied_to_other_images() -> None:
    result, other = annotated(600), annotated(400, "test", seed=1)
    stored = fit_checkpoint_shares(result, 1.0)
    assert stored is not None and stored["hash"] == "val0" and stored["n"] == 600
    other.card["vote_shares"] = result.card["vote_shares"] = stored
    applied, again = check_intensity(other), check_intensity(result)
    assert applied is not None and not applied["cross_fitted"] and applied["mae"] < 0.15
    assert again is not None and again["cross_fitted"]


def test_without_enough_votes_there_is_no_map() -> None:
    result = annotated(199)
    assert fit_checkpoint_shares(result, 1.0) is None and check_intensity(result) is None
    result.part.votes = None
    assert check_intensity(result) is None


def test_other_splits_are_refused() -> None:
    with pytest.raises(UserError, match="set split=val"):
        fit_checkpoint_shares(annotated(300, "test"), 1.0)
