"""Learning-rate range test: recovered batch losses, suggestion, files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.experiments.tuning import lr_finder
from tests.conftest import TINY, composed

RATES = np.logspace(-6, 0, 100)


def smoothed(losses: Sequence[float], beta: float = 0.98) -> list[float]:
    """Return the bias-corrected average of Lightning's callback; its first batch is step 1."""
    mean, result = 0.0, []
    for step, loss in enumerate(losses, 1):
        mean = beta * mean + (1 - beta) * loss
        result.append(mean / (1 - beta ** (step + 1)))
    return result


def valley(at: float, noise: float = 0.0) -> np.ndarray:
    """Return losses that fall fastest at learning rate ``at`` and diverge two decades later."""
    x = np.log10(RATES) - np.log10(at)
    losses = 2 - 0.5 / (1 + np.exp(-4 * x)) + np.exp(3 * (x - 2))
    return losses + noise * np.random.default_rng(0).standard_normal(len(x))


def test_groups_keep_their_relative_rates() -> None:
    """Lightning's range test sets one rate for all groups; layer decay scales it in every step."""
    weights = [torch.nn.Parameter(torch.zeros(())) for _ in range(3)]
    groups = [{"params": [w], "lr": rate} for w, rate in zip(weights, (1, 2, 4), strict=True)]
    optimizer = torch.optim.SGD(groups)
    lr_finder.keep_relative_rates(optimizer)
    for rate in (0.1, 0.8):
        for group, weight in zip(optimizer.param_groups, weights, strict=True):
            group["lr"] = rate  # as the schedule of the test does before each step
            weight.data.zero_()
            weight.grad = torch.tensor(-1.0)
        optimizer.step()
        assert [float(w) for w in weights] == pytest.approx([rate / 4, rate / 2, rate])


def test_batch_losses_are_recovered() -> None:
    losses = valley(1e-3, noise=0.1)
    np.testing.assert_allclose(lr_finder.batch_losses(smoothed(losses)), losses, rtol=1e-9)


def test_batch_losses_invert_lightnings_smoothing() -> None:
    from types import SimpleNamespace

    import torch
    from lightning.pytorch.tuner.lr_finder import _LRCallback

    callback = _LRCallback(num_training=5, early_stop_threshold=None)
    losses = [2.0, 1.5, 1.7, 0.9]
    for step, loss in enumerate(losses, 1):
        trainer = SimpleNamespace(
            fit_loop=SimpleNamespace(batch_idx=step - 1),
            accumulate_grad_batches=1,
            global_step=step,
            should_stop=False,
            strategy=SimpleNamespace(broadcast=lambda value: value),
        )
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss)}, None, step - 1)
    np.testing.assert_allclose(lr_finder.batch_losses(callback.losses), losses, rtol=1e-6)


@pytest.mark.parametrize("at", [1e-4, 1e-3, 1e-2])
def test_steepest_decrease_is_suggested(at: float) -> None:
    for noise in (0.0, 0.02):
        result = lr_finder.suggest_lr(RATES, smoothed(valley(at, noise)))
        assert at / 2 < result["suggestion"] < at * 2
        assert result["suggestion"] < result["lowest"]


def test_decrease_after_divergence_is_ignored() -> None:
    losses = valley(1e-4)
    losses[90:] = np.linspace(losses[89], 0.5, 10)
    assert 5e-5 < lr_finder.suggest_lr(RATES, smoothed(losses))["suggestion"] < 2e-4


def test_loss_that_does_not_fall_is_an_error() -> None:
    message = r"does not fall between sweep\.min_lr=1e-06 and sweep\.max_lr=1"
    with pytest.raises(UserError, match=message):
        lr_finder.suggest_lr(RATES, smoothed(np.full(100, 1.9)))
    with pytest.raises(UserError, match="finite for 10 batches only"):
        lr_finder.suggest_lr(RATES, smoothed([1.9] * 10 + [float("nan")] * 90))


def test_range_test_of_a_real_network(rendered_figures: None, tmp_path: Path) -> None:
    small = (*TINY, "data.n=400", "sweep=lr_find", "sweep.num_steps=60", "augment=none")
    cfg = composed(*small, entry="sweep")
    result = lr_finder.range_test(cfg, tmp_path)
    assert 1e-5 < result["suggestion"] < 1 and result["steps"] <= 60
    assert json.loads((tmp_path / "lr_find.json").read_text()) == result
    assert (tmp_path / "lr_find.png").stat().st_size > 5000
    # No checkpoint, no temporary file.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lr_find.json", "lr_find.png"]
    assert lr_finder.range_test(cfg, tmp_path)["loss"] == result["loss"]
