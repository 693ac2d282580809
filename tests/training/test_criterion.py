"""``loss`` is the cross-entropy, ``criterion`` the value of the trained loss, of all images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab import train
from emotion_lab.config import compose
from emotion_lab.core import runs
from emotion_lab.core.errors import UserError
from emotion_lab.experiments import criterion as comparability
from emotion_lab.losses import LOSSES, total_weight
from emotion_lab.losses.cross_entropy import CrossEntropy
from emotion_lab.training.fit import fit
from emotion_lab.training.metrics import TrainMetrics, ValMetrics
from tests.conftest import run_training
from tests.losses.test_losses import WEIGHTS, build
from tests.training.conftest import Tiny, read_history


def images(n: int = 61) -> tuple[Tensor, Tensor]:
    """Return logits (n, 7) and rare and frequent labels (n,), sorted as the files of a folder."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.multinomial(torch.tensor([9.0, 1, 7, 20, 8, 2, 9]), n, True, generator=generator)
    return torch.randn(n, 7, generator=generator) * 3, labels.sort().values


def trained_losses() -> dict[str, nn.Module]:
    """Return every registered loss, and some that only a plug-in or Python builds."""
    weights = torch.tensor(WEIGHTS)
    return {
        **{name: build(name) for name in LOSSES.names()},
        "weighted and smoothed": CrossEntropy(weights, 0.2),
        "of torch": nn.CrossEntropyLoss(weights),
    }


@pytest.mark.parametrize("name", trained_losses())
def test_batches_of_one_equal_one_batch_of_all(name: str) -> None:
    loss, (logits, labels) = trained_losses()[name], images()
    expected = float(loss(logits, labels))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    for size in (1, 7, 61):
        val, train = ValMetrics(7), TrainMetrics(7)
        for part in order.split(size):
            val.update(logits[part], labels[part])
            value = loss(logits[part], labels[part])
            weight = total_weight(loss, labels[part])
            train.update(logits[part], labels[part], labels[part], value, weight)
        for metrics in (val.compute(loss), train.compute()):
            assert float(metrics["criterion"]) == pytest.approx(expected, rel=1e-6)
            nll = float(F.cross_entropy(logits, labels))
            assert float(metrics["loss"]) == pytest.approx(nll, rel=1e-6)


@pytest.mark.parametrize("name", ["weighted_ce", "weighted_focal", "weighted and smoothed", "ce"])
def test_batches_with_soft_targets(name: str) -> None:
    """Mixing and the FER+ votes give probabilities as targets, whose weight is a mixture."""
    loss, (logits, labels) = trained_losses()[name], images()
    target = 0.7 * F.one_hot(labels, 7) + 0.3 * F.one_hot(labels.flip(0), 7)
    train = TrainMetrics(7)
    for part in torch.arange(len(labels)).split(4):
        value, weight = loss(logits[part], target[part]), total_weight(loss, target[part])
        train.update(logits[part], labels[part], target[part], value, weight)
    means = {key: float(value) for key, value in train.means().items()}
    assert means["criterion"] == pytest.approx(float(loss(logits, target)), rel=1e-6)
    assert means["loss"] == pytest.approx(float(F.cross_entropy(logits, target)), rel=1e-6)


def test_history_of_runs_with_other_losses_and_batch_sizes(tiny: Tiny, tmp_path: Path) -> None:
    """One network, not trained: its val loss is that of metrics.json whatever is trained."""
    # Frozen, so that the batches do not change its BatchNorm either.
    fixed = ("model.freeze=backbone", "optim.lr=1e-30", "schedule=none", "trainer.precision=fp32")
    common = (*fixed, "trainer.max_epochs=1")
    rows = {}
    for name, size in (("ce", 8), ("focal", 8), ("weighted_focal", 8), ("weighted_focal", 3)):
        run = tmp_path / f"{name}{size}"
        metrics = run_training(tiny(*common, f"loss={name}", f"data.batch_size={size}"), run)
        (rows[name, size],) = read_history(run)
        val = float(rows[name, size]["val/loss"])
        assert val == pytest.approx(metrics["val"]["loss"], abs=1e-6)
    ce, focal = rows["ce", 8], rows["focal", 8]
    for stage in ("train", "val"):
        value = float(ce[f"{stage}/criterion"])
        assert value == pytest.approx(float(ce[f"{stage}/loss"]), abs=1e-6)
    assert float(focal["val/loss"]) == pytest.approx(float(ce["val/loss"]), abs=1e-6)
    assert float(focal["val/criterion"]) < 0.9 * float(focal["val/loss"])
    (first, second) = (float(rows["weighted_focal", n]["val/criterion"]) for n in (8, 3))
    assert first == pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize("monitor", ["val/criterion", "train/criterion", "val/loss"])
def test_monitors_to_minimise(monitor: str, tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny(f"monitor={monitor}", "loss=focal", "schedule=plateau", "trainer.max_epochs=2")
    assert runs.monitor_mode(cfg) == "min"
    assert cfg["schedule"]["monitor"] == "val/criterion"
    history = fit(cfg, tmp_path).history
    assert history.best == min(row[monitor] for row in history.rows)


@pytest.mark.parametrize(
    ("monitor", "key"),
    [
        ("val/criterion", "loss"),
        ("val/criterion", "loss.gamma"),
        ("val/criterion", "data.class_weights"),
        ("val/criterion", "data.effective_beta"),
        ("val/criterion", "data.drop_not_face"),
        ("val/criterion", "experiment"),
        ("train/criterion", "mix.mixup"),
    ],
)
def test_choice_between_losses_by_their_own_values_is_refused(monitor: str, key: str) -> None:
    with pytest.raises(UserError, match=f"cannot choose between values of {key}: set monitor=val/"):
        comparability.check_searched(monitor, ["optim.lr", key])
    comparability.check_searched("val/loss", ["optim.lr", key])
    comparability.check_searched(monitor, ["optim.lr", "trainer.max_epochs"])


def test_sweep_over_losses_by_their_own_values_is_refused(tmp_path: Path) -> None:
    typed = ["data=synthetic", "loss=ce,focal", f"hydra.sweep.dir={tmp_path / 'never'}"]
    for monitor in ("val/criterion", "val/loss,val/criterion"):
        overrides = [*typed, f"monitor={monitor}"]
        with pytest.raises(UserError, match="cannot choose between values of loss"):
            train.validate(compose.precheck("train", overrides, True), overrides)
    assert not (tmp_path / "never").exists()
