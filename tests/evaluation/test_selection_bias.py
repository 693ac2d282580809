"""How much choosing the epoch on val flatters its score, against known cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from emotion_lab.evaluation.selection_bias import _scores, describe, of_run, selection_bias
from emotion_lab.training.metrics import scalar_metrics
from emotion_lab.training.val_predictions import ValPredictions

K = 5


def predictions(epochs: int, n: int, accuracy: float = 0.6, seed: int = 0) -> ValPredictions:
    """Return independent epochs of equal accuracy; the differences of their scores are luck."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n).astype(np.uint8)
    wrong = (labels + rng.integers(1, K, (epochs, n))) % K
    is_right = rng.random((epochs, n)) < accuracy
    predicted = np.where(is_right, labels, wrong).astype(np.uint8)
    losses = np.where(is_right, 0.4, 2.0) + rng.normal(0, 0.01, (epochs, n))
    return ValPredictions(labels, predicted, losses.astype(np.float16))


@pytest.mark.parametrize("metric", ["accuracy", "loss", "macro_f1"])
def test_luck_of_equal_epochs_is_the_expected_maximum(metric: str) -> None:
    """The best of 40 equal epochs: E[max of 40 standard normals] = 2.16 standard errors."""
    n = 1000
    results = [
        selection_bias(predictions(40, n, seed=s), metric, "min" if metric == "loss" else "max", 50)
        for s in range(8)
    ]
    mean = np.mean([result["accuracy"] for result in results])
    # The loss has some noise of its own, and F1 is not accuracy: slightly less luck.
    assert mean == pytest.approx(2.16 * np.sqrt(0.6 * 0.4 / n), rel=0.15)


def test_halves_of_persons() -> None:
    """Ten equal images of a person are one: the luck of the best epoch grows by sqrt(10)."""
    images = [predictions(40, 100, seed=s) for s in range(20)]
    repeated = [ValPredictions(s.labels.repeat(10), s.predicted.repeat(10, 1)) for s in images]
    groups = [str(i) for i in range(100) for _ in range(10)]
    of_images = [selection_bias(s, "accuracy", "max", 20)["accuracy"] for s in repeated]
    results = [selection_bias(s, "accuracy", "max", 20, groups=groups) for s in repeated]
    assert results[0]["groups"] == 100 and "halves of its 100 groups" in describe(results[0])
    mean = np.mean([result["accuracy"] for result in results])
    assert mean == pytest.approx(2.16 * np.sqrt(0.6 * 0.4 / 100), rel=0.2)
    assert np.mean(of_images) < mean / 2


def test_one_epoch_or_a_clear_best_is_not_flattered() -> None:
    one = selection_bias(predictions(1, 501), "accuracy", "max")
    assert (one["accuracy"], one["std"], one["epochs"]) == (0, 0, 1)
    saved = predictions(30, 500, 0.3)
    saved.predicted[7] = predictions(1, 500, 0.9).predicted[0]
    saved.labels[:] = predictions(1, 500, 0.9).labels
    clear = selection_bias(saved, "accuracy", "max")
    assert abs(clear["accuracy"]) < 1e-6 and clear["std"] < 1e-6


@pytest.mark.parametrize(
    "metric", ["accuracy", "macro_f1", "weighted_f1", "macro_precision", "loss"]
)
def test_scores_of_a_part_are_those_of_torchmetrics(metric: str) -> None:
    saved, rng = predictions(3, 60), np.random.default_rng(1)
    halves = (rng.random((4, 60)) < 0.5).astype(np.float32)
    halves[0, saved.labels == 2] = 0  # a class that does not occur
    values = _scores(saved, metric, halves)
    for e in range(3):
        for s in range(4):
            rows = halves[s] > 0
            if metric == "loss":
                assert saved.losses is not None
                expected = saved.losses[e, rows].astype(np.float32).mean()
            else:
                parts = (
                    torch.from_numpy(x[rows].astype(np.int64))
                    for x in (saved.predicted[e], saved.labels)
                )
                expected = float(scalar_metrics(K)(*parts)[metric])
            assert values[e, s] == pytest.approx(expected, abs=1e-5)


def test_the_line() -> None:
    bias = {"accuracy": 0.0042, "std": 0.0031, "epochs": 52}
    assert describe(bias) == (
        "choosing the best of 52 epochs on val adds about +0.4 ± 0.3 points to its val accuracy"
    )


def test_files_that_do_not_belong_to_the_run_are_not_used(tmp_path: Path) -> None:
    cfg: dict[str, Any] = {"monitor": "val/macro_f1", "trainer": {"monitor_mode": "auto"}}
    assert of_run(tmp_path, cfg, 4) is None
    predictions(4, 50).write(tmp_path)
    bias = of_run(tmp_path, cfg, 4)
    assert bias is not None and bias["metric"] == "macro_f1" and bias["epochs"] == 4
    # An epoch is missing; a metric that is not of val, or not known of each image.
    assert of_run(tmp_path, cfg, 5) is None
    assert of_run(tmp_path, {**cfg, "monitor": "train/loss"}, 4) is None
    assert of_run(tmp_path, {**cfg, "monitor": "val/criterion"}, 4) is None
    file = tmp_path / "val_predictions.npz"
    for content in (b"", b"damaged", file.read_bytes()[:-20]):
        file.write_bytes(content)
        assert of_run(tmp_path, cfg, 4) is None


def test_a_resumed_run_continues_the_file(tmp_path: Path) -> None:
    saved = predictions(5, 50)
    saved.write(tmp_path)
    again = ValPredictions.read(tmp_path)
    assert again is not None and np.array_equal(again.predicted, saved.predicted)
    # Stopped after epoch 3: the epochs after it are trained again.
    joined = again.first(3).append(predictions(5, 50).first(2))
    assert len(joined.predicted) == 5 and joined.losses is not None and len(joined.losses) == 5
    assert np.array_equal(joined.predicted[3:], saved.predicted[:2])
    # Another order of the images, for instance of another number of devices.
    other = predictions(1, 50, seed=1)
    assert joined.append(other) is other


def test_losses_are_cross_entropies() -> None:
    from emotion_lab.training.metrics import ValMetrics

    metrics, logits = ValMetrics(K), torch.randn(7, K, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7) % K
    metrics.update(logits, labels)
    metrics.compute(F.cross_entropy)
    assert metrics.images is not None
    assert torch.equal(metrics.images[0], labels)
    assert torch.equal(metrics.images[1], logits.argmax(1))
    assert torch.allclose(metrics.images[2].mean(), F.cross_entropy(logits, labels))
