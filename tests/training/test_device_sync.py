"""Training steps never read a value from the accelerator, which would wait for it.

Tensors on the device ``meta`` have no values: ``item``, ``unique``, ``bincount`` or a boolean mask
as an index raise an error.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from emotion_lab.data.torch_dataset import Batch
from emotion_lab.losses import LOSSES, build_loss
from emotion_lab.models.base import build_model
from emotion_lab.training.factory import device_augment
from emotion_lab.training.metrics import TrainMetrics, scalar_metrics
from emotion_lab.training.module import EmotionModule
from tests.training.conftest import CLASSES, Tiny


@pytest.fixture
def run_step(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that runs one training and one validation step on ``meta``."""
    trainer = SimpleNamespace(max_epochs=2)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    for name, value in (("trainer", trainer), ("current_epoch", 0), ("global_step", 1)):
        monkeypatch.setattr(EmotionModule, name, value)
    monkeypatch.setattr(EmotionModule, "optimizers", lambda self: optimizer)

    def step(*overrides: str) -> None:
        cfg = tiny("augment=device", *overrides)
        net, _ = build_model(cfg["model"], len(CLASSES))
        criterion = build_loss(cfg["loss"], len(CLASSES), [1.0] * 7, [5] * 7)
        module = EmotionModule(net, criterion, cfg, {"classes": CLASSES})
        module.augment = device_augment(cfg["augment"], net)
        logged = {}
        monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
        module.to("meta").train()
        images = torch.zeros(8, 1, 48, 48, dtype=torch.uint8, device="meta")
        labels = torch.zeros(8, dtype=torch.long, device="meta")
        batch = Batch(images, labels, torch.arange(8))
        module.training_step(batch, 1).backward()
        with torch.no_grad():
            module.validation_step(batch, 1)
        # Lightning copies a plain number to the accelerator.
        assert all(isinstance(value, torch.Tensor) for value in logged.values())

    return step


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss(run_step: Callable[..., None], name: str) -> None:
    run_step(f"loss={name}")


@pytest.mark.parametrize(
    "more",
    [
        ("augment.erase_p=1", "augment.progressive_resize=[[0,32],[0.5,48]]"),
        ("mix.mixup=0.2",),
        ("mix.cutmix=1",),
        ("mix.mixup=0.2", "mix.cutmix=1", "mix.probability=0.5"),
    ],
)
def test_augmentation_and_mixing(run_step: Callable[..., None], more: tuple[str, ...]) -> None:
    run_step(*more)


def test_meta_device_detects_synchronisation() -> None:
    """The metrics of torchmetrics synchronise, so they fail on ``meta``."""
    logits, labels = torch.zeros(8, 7, device="meta"), torch.zeros(8, dtype=torch.long).to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        scalar_metrics(7).to("meta").update(logits, labels)


def test_epoch_metrics_agree_with_torchmetrics() -> None:
    torch.manual_seed(0)
    batches = [(torch.rand(()), torch.randn(n, 7), torch.randint(0, 5, (n,))) for n in (8, 8, 3)]
    metrics, reference = TrainMetrics(7), scalar_metrics(7)
    for loss, logits, labels in batches:
        metrics.update(logits, labels, labels, loss, len(labels))
        reference.update(logits, labels)
    values = metrics.compute()
    mean = sum(loss * len(labels) for loss, _, labels in batches) / 19
    torch.testing.assert_close(values.pop("criterion"), mean)
    logits, labels = (torch.cat([batch[i] for batch in batches]) for i in (1, 2))
    torch.testing.assert_close(values.pop("loss"), F.cross_entropy(logits, labels))
    torch.testing.assert_close(metrics.means()["accuracy"], values["accuracy"])
    expected = reference.compute()
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name] == value, name
