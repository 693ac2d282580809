"""Ensembles of checkpoints: average, weights and incompatible members."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.evaluation.ensemble_weights import fit_weights
from emotion_lab.evaluation.evaluate import LedgerEntry, evaluate_checkpoint, identity
from emotion_lab.models.load import combine, load, restore
from tests.conftest import TINY, composed, make_checkpoint

NAMES = list(EMOTIONS)


@pytest.fixture(scope="module")
def members(cfg: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return three networks; the second has its classes in reverse order."""
    folder = tmp_path_factory.mktemp("members")
    orders = (NAMES, NAMES[::-1], NAMES)
    return [
        make_checkpoint(cfg, folder / f"{i}.ckpt", order, seed=i) for i, order in enumerate(orders)
    ]


@pytest.mark.parametrize("shares", [None, (0.5, 0.2, 0.3)])
def test_an_ensemble_averages_by_class_name(
    members: list[Path], shares: tuple[float, ...] | None
) -> None:
    net, card = combine(load(members), shares)
    images = torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8)
    expected = torch.zeros(5, 7)
    for path, share in zip(members, shares or (1 / 3,) * 3, strict=True):
        one, its = restore(path)
        order = [its["classes"].index(name) for name in card["classes"]]
        expected += share * one(images).softmax(1)[:, order]
    with torch.no_grad():
        actual = net(images).softmax(1)
    torch.testing.assert_close(actual, expected.detach(), atol=1e-6, rtol=1e-5)
    assert card["classes"] == NAMES and len(card["members"]) == 3
    alone, its = combine(load(members[1:2]))
    assert its["classes"] == NAMES[::-1] and "members" not in its
    torch.testing.assert_close(alone(images), restore(members[1])[0](images))


def test_weights_minimise_the_loss() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 7, 800)
    sharp = generator.dirichlet(np.ones(7), 800)
    sharp[np.arange(800), labels] += 2
    other = generator.dirichlet(np.ones(7), 800)
    other[np.arange(800), labels] += 0.5 * generator.random(800)
    noise = generator.dirichlet(np.ones(7), 800)
    probabilities = [p / p.sum(1, keepdims=True) for p in (noise, sharp, other)]
    shares = fit_weights(probabilities, labels)
    assert shares.sum() == pytest.approx(1) and shares.min() >= 0 and shares.argmax() == 1

    def loss(at: np.ndarray) -> float:
        mixed = sum(share * p for share, p in zip(at, probabilities, strict=True))
        return float(log_loss(labels, mixed, labels=range(7)))

    best = loss(shares)
    for direction in generator.dirichlet(np.ones(3), 200):
        near = 0.98 * shares + 0.02 * direction
        assert best <= loss(near) + 1e-7
    np.testing.assert_allclose(fit_weights(probabilities[1:2], labels), [1.0])


def test_evaluating_an_ensemble_is_one_access(
    cfg: dict[str, Any], members: list[Path], tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    result = evaluate_checkpoint(members, cfg["data"], "test", entry=LedgerEntry(ledger, tmp_path))
    (line,) = [json.loads(text) for text in ledger.read_text().splitlines()]
    assert line["checkpoint"] == identity(members) == identity(members[::-1])
    assert line["checkpoint"] not in {file_hash(path) for path in members}
    assert identity(members[:1]) == file_hash(members[0])
    assert result.scores["n"] == len(result.labels) == 7
    single = evaluate_checkpoint(members[0], cfg["data"])
    again = evaluate_checkpoint(members[:1], cfg["data"])
    assert single.scores == again.scores


def test_incompatible_members(cfg: dict[str, Any], members: list[Path], tmp_path: Path) -> None:
    fewer = make_checkpoint(cfg, tmp_path / "six.ckpt", NAMES[:6], seed=0)
    with pytest.raises(UserError, match="must have the same classes"):
        combine(load([members[0], fewer]))
    larger = composed(*TINY, "model.image_size=48", "data.size=48")
    other = make_checkpoint(larger, tmp_path / "large.ckpt", NAMES, seed=0)
    with pytest.raises(UserError, match="must take the same images"):
        combine(load([members[0], other]))
