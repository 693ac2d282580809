"""The temperature of a checkpoint: fitted where val allows it, else 1 with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_lab.evaluation.temperature import MIN_IMAGES, describe, fit_calibration


def sample(n: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, 3) that are ``scale`` times too large, and labels drawn from them."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (p.cumsum(1) < generator.random((n, 1))).sum(1).clip(0, 2)
    return logits * scale, labels


def test_fitted_with_enough_images() -> None:
    calibration = fit_calibration(*sample(5000, 3.0), "hash")
    assert calibration["temperature"] == pytest.approx(3, rel=0.1)
    assert calibration["not_fitted"] is None and calibration["n"] == 5000
    assert calibration["nll_calibrated"] < calibration["nll"]
    assert describe(calibration).startswith("temperature 2.859, fitted on val: NLL 0.8857")


def test_few_images_keep_one() -> None:
    calibration = fit_calibration(*sample(MIN_IMAGES - 1, 3.0), "hash")
    assert calibration["temperature"] == 1
    assert calibration["nll_calibrated"] == calibration["nll"]
    assert describe(calibration) == (
        "temperature 1, not fitted: val has 199 images, at least 200 are needed"
    )
    assert fit_calibration(*sample(MIN_IMAGES, 3.0), "hash")["temperature"] > 1.5


@pytest.mark.parametrize("sign", [1, -1])
def test_a_value_at_the_limit_is_not_kept(sign: int) -> None:
    """Without errors the best temperature is 0, with errors only it is infinite."""
    labels = np.arange(300) % 3
    calibration = fit_calibration(sign * 2.0 * np.eye(3)[labels], labels, "hash")
    assert calibration["temperature"] == 1
    assert "the best value lies outside of 0.05 to 20" in describe(calibration)
