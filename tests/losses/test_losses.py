"""Losses compared with an independent numpy reference, hard and soft targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from emotion_lab.config.compose import CONF
from emotion_lab.core.errors import UserError
from emotion_lab.losses import LOSSES, build_loss

COUNTS = [40, 4, 20, 70, 48, 31, 49]
WEIGHTS = [0.9, 8.0, 1.2, 0.5, 0.7, 1.1, 0.7]


def loss_cfg(name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(CONF / "loss" / f"{name}.yaml"))


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


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
            target = np.full(k, s / k)
            target[y] += 1 - s
            total += -(target * row).sum()
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


@pytest.mark.parametrize("name", LOSSES.names())
def test_reference(name: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = batch
    cfg = loss_cfg(name)
    value = build_loss(cfg, 7, WEIGHTS, COUNTS)(logits, label).item()
    expected = reference(name, cfg, logits.double().numpy(), label.numpy())
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES.names())
def test_one_hot_equals_index(name: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = batch
    loss = build_loss(loss_cfg(name), 7, WEIGHTS, COUNTS)
    one_hot = torch.nn.functional.one_hot(label, 7).float()
    assert loss(logits, one_hot).item() == pytest.approx(loss(logits, label).item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES.names())
def test_gradient_is_finite_at_extremes(name: str) -> None:
    logits = torch.tensor([[200.0, -200, 0, 0, 0, 0, 0], [-200.0, 200, 0, 0, 0, 0, 0]])
    logits.requires_grad_()
    loss = build_loss(loss_cfg(name), 7, WEIGHTS, COUNTS)(logits, torch.tensor([0, 0]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_matches_torch(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = batch
    value = build_loss(loss_cfg("weighted_ce"), 7, WEIGHTS, COUNTS)(logits, label)
    expected = torch.nn.functional.cross_entropy(logits, label, torch.tensor(WEIGHTS))
    torch.testing.assert_close(value, expected)
    value = build_loss(loss_cfg("label_smoothing"), 7, WEIGHTS, COUNTS)(logits, label)
    expected = torch.nn.functional.cross_entropy(logits, label, label_smoothing=0.1)
    torch.testing.assert_close(value, expected)


def test_focal_without_gamma_is_cross_entropy(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    cfg = {"name": "weighted_focal", "gamma": 0.0}
    value = build_loss(cfg, 7, WEIGHTS, COUNTS)(*batch)
    expected = build_loss({"name": "weighted_ce"}, 7, WEIGHTS, COUNTS)(*batch)
    torch.testing.assert_close(value, expected)


def test_yaml_for_every_loss() -> None:
    assert {p.stem for p in (CONF / "loss").glob("*.yaml")} == set(LOSSES.names())


def test_invalid_arguments() -> None:
    with pytest.raises(UserError, match="Did you mean 'focal'"):
        build_loss({"name": "focla"}, 7, WEIGHTS, COUNTS)
    with pytest.raises(UserError, match="loss=ce"):
        build_loss({"name": "ce", "gamma": 1}, 7, WEIGHTS, COUNTS)


def test_builder_gets_only_the_values_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(class_weights: torch.Tensor, scale: float) -> torch.nn.Module:
        loss = torch.nn.CrossEntropyLoss(class_weights)
        loss.scale = scale
        return loss

    monkeypatch.setitem(LOSSES._items, "scaled", build)
    loss = build_loss({"name": "scaled", "scale": 2.0}, 7, WEIGHTS, COUNTS)
    assert loss.scale == 2.0 and loss.weight.tolist() == pytest.approx(WEIGHTS)
