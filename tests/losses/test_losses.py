"""Losses compared with an independent numpy reference, hard and soft targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab.config.compose import CONF, defaults
from emotion_lab.core.errors import UserError
from emotion_lab.losses import LOSSES, build_loss, weighs_classes

COUNTS = [40, 4, 20, 70, 48, 31, 49]
WEIGHTS = [0.9, 8.0, 1.2, 0.5, 0.7, 1.1, 0.7]


def build(cfg: dict[str, Any] | str) -> torch.nn.Module:
    """Build a loss from a config, or from ``conf/loss/<name>.yaml``."""
    cfg = defaults("loss", cfg) if isinstance(cfg, str) else cfg
    return build_loss(cfg, 7, WEIGHTS, COUNTS)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


#: Losses that :func:`reference` computes. A loss that is added needs a test of its own formula.
REFERENCES = ("ce", "class_balanced", "focal", "label_smoothing", "weighted_ce", "weighted_focal")


def reference(name: str, cfg: dict, logits: np.ndarray, label: np.ndarray) -> float:
    """Compute the loss sample by sample from the formulas of the papers."""
    log_p = log_softmax(logits)
    k = logits.shape[1]
    weight = np.ones(k)
    if name in ("weighted_ce", "weighted_focal"):
        weight = np.array(WEIGHTS)
    if name == "class_balanced":
        weight = np.array([(1 - cfg["beta"]) / (1 - cfg["beta"] ** n) for n in COUNTS])
        weight = weight / weight.sum() * k
    total, total_weight = 0.0, 0.0
    for row, y in zip(log_p, label, strict=True):
        if name == "label_smoothing":
            s = cfg["label_smoothing"]
            total += -(1 - s) * row[y] - s / k * row.sum()
            total_weight += 1
            continue
        modulation = (1 - np.exp(row[y])) ** cfg["gamma"] if "focal" in name else 1.0
        total += -weight[y] * modulation * row[y]
        total_weight += weight[y]
    return total / total_weight


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(16, 7, generator=generator) * 3
    return logits, torch.randint(0, 7, (16,), generator=generator)


@pytest.mark.parametrize("name", REFERENCES)
def test_reference(name: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = batch
    expected = reference(name, defaults("loss", name), logits.double().numpy(), label.numpy())
    assert build(name)(logits, label).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES.names())
def test_one_hot_equals_index(name: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = batch
    loss = build(name)
    one_hot = torch.nn.functional.one_hot(label, 7).float()
    assert loss(logits, one_hot).item() == pytest.approx(loss(logits, label).item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES.names())
def test_gradient_is_finite_at_extremes(name: str) -> None:
    logits = torch.tensor([[200.0, -200, 0, 0, 0, 0, 0], [-200.0, 200, 0, 0, 0, 0, 0]])
    logits.requires_grad_()
    loss = build(name)(logits, torch.tensor([0, 0]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_multi_target_takes_the_most_probable_target() -> None:
    """All classes with 30 % of the votes are right; the largest share always is one."""
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    cases = [
        ([0.6, 0.4, 0.0], 0.5),
        ([0.1, 0.5, 0.4], 0.3),
        ([0.3, 0.0, 0.7], 0.5),  # 30 % is enough
        ([0.29, 0.0, 0.71], 0.2),
        ([0.2, 0.29, 0.28], 0.3),  # no class reaches 30 %
    ]
    loss = build_loss(defaults("loss", "multi_target"), 3, [1.0] * 3, [1] * 3)
    for shares, probability in cases:
        value = loss(logits, torch.tensor([shares])).item()
        assert value == pytest.approx(-math.log(probability), rel=1e-5), shares
    both = torch.tensor([cases[0][0], cases[1][0]])
    expected = -(math.log(0.5) + math.log(0.3)) / 2
    assert loss(logits.repeat(2, 1), both).item() == pytest.approx(expected, rel=1e-5)


def test_matches_torch(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    cross_entropy = torch.nn.functional.cross_entropy
    expected = cross_entropy(*batch, torch.tensor(WEIGHTS))
    torch.testing.assert_close(build("weighted_ce")(*batch), expected)
    expected = cross_entropy(*batch, label_smoothing=0.1)
    torch.testing.assert_close(build("label_smoothing")(*batch), expected)


def test_focal_without_gamma_is_cross_entropy(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    value = build({"name": "weighted_focal", "gamma": 0.0})(*batch)
    torch.testing.assert_close(value, build("weighted_ce")(*batch))


@pytest.mark.parametrize("name", LOSSES.names())
def test_losses_that_weight_classes(name: str) -> None:
    weighted = {"weighted_ce", "weighted_focal", "class_balanced"}
    assert weighs_classes(defaults("loss", name)) == (name in weighted)
    assert not weighs_classes({"name": "class_balanced", "beta": 0.0})


def test_yaml_for_every_loss() -> None:
    assert {p.stem for p in (CONF / "loss").glob("*.yaml")} == set(LOSSES.names())


def test_invalid_arguments() -> None:
    with pytest.raises(UserError, match="Did you mean 'focal'"):
        build({"name": "focla"})
    with pytest.raises(UserError, match="loss 'ce' takes"):
        build({"name": "ce", "gamma": 1})


def test_builder_gets_only_the_values_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(class_weights: torch.Tensor, scale: float) -> torch.nn.Module:
        loss = torch.nn.CrossEntropyLoss(class_weights)
        loss.scale = scale
        return loss

    monkeypatch.setitem(LOSSES._items, "scaled", scaled)
    loss = build({"name": "scaled", "scale": 2.0})
    assert loss.scale == 2.0 and loss.weight.tolist() == pytest.approx(WEIGHTS)
