"""Class and sample weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emotion_lab import train
from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.data.class_weights import class_weights, sample_weights

TRAINING = np.array([3995, 436, 4097, 7215, 4830, 3171, 4965])


@pytest.mark.parametrize("method", ["inverse", "sqrt_inverse", "effective_number"])
def test_mean_weight_of_a_sample_is_one(method):
    weights = class_weights(TRAINING, method)
    assert weights.dtype == np.float32 and weights.shape == (7,)
    assert (weights * TRAINING).sum() / TRAINING.sum() == pytest.approx(1, abs=1e-6)
    # Rarer classes weigh more.
    assert np.argsort(weights).tolist() == np.argsort(-TRAINING).tolist()


def test_inverse_formula():
    expected = TRAINING.sum() / (7 * TRAINING)
    np.testing.assert_allclose(class_weights(TRAINING, "inverse"), expected, rtol=1e-6)


def test_sqrt_inverse_ratio():
    weights = class_weights(TRAINING, "sqrt_inverse")
    assert weights[1] / weights[3] == pytest.approx(np.sqrt(7215 / 436), rel=1e-5)


def test_effective_number_formula_and_limits():
    beta = 0.99
    raw = (1 - beta) / (1 - beta ** np.array([3.0, 50.0]))
    weights = class_weights(np.array([3, 50]), "effective_number", beta)
    assert weights[0] / weights[1] == pytest.approx(raw[0] / raw[1], rel=1e-5)
    np.testing.assert_allclose(class_weights(TRAINING, "effective_number", 0), 1)
    close = class_weights(TRAINING, "effective_number", 1 - 1e-12)
    np.testing.assert_allclose(close, class_weights(TRAINING, "inverse"), rtol=1e-4)


def test_empty_class():
    with pytest.raises(UserError, match="Class number 1 has no images"):
        class_weights(np.array([3, 0, 2]))


def test_sample_weights():
    weights = sample_weights(np.array([0, 0, 0, 2]), 4)
    assert weights.sum() == pytest.approx(1)
    assert weights[:3].sum() == pytest.approx(weights[3])


@pytest.mark.parametrize(
    ("typed", "loss"),
    [
        (("loss=weighted_ce",), "weighted_ce"),
        (("loss=class_balanced", "data.class_weights=sqrt_inverse"), "class_balanced"),
        (("loss=ce,weighted_focal",), "weighted_focal"),
    ],
)
def test_classes_are_balanced_once(typed: tuple[str, ...], loss: str, tmp_path: Path) -> None:
    """A weighted sampler and a weighted loss would both correct the frequencies."""
    weights = class_weights(TRAINING)
    assert weights[1] / weights.sum() == pytest.approx(0.63, abs=0.005)  # all drawn equally often
    common = ["data=synthetic", *typed, f"hydra.run.dir={tmp_path / 'never'}"]
    multirun = any("," in text for text in typed)
    overrides = [*common, "data.sampler=weighted"]
    with pytest.raises(UserError, match=f"loss={loss} weights rare classes again") as caught:
        train.validate(compose.precheck("train", overrides, multirun), overrides)
    assert "\n" not in str(caught.value) and not (tmp_path / "never").exists()
    if not multirun:
        train.validate(compose.precheck("train", common), common)
        overrides = ["data=synthetic", "loss=focal", "data.sampler=weighted", common[-1]]
        train.validate(compose.precheck("train", overrides), overrides)
