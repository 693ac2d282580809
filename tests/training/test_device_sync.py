"""Nothing in a training step asks the accelerator for a number, which would mean to wait for it.

Tensors on ``meta`` have no numbers: whatever asks for one (``item``, ``unique``, ``bincount``, a
mask as an index) fails there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import PropertyMock

import pytest
import torch

from emotion_lab.data.torch_dataset import Batch
from emotion_lab.losses import LOSSES, build_loss
from emotion_lab.models.base import build_model
from emotion_lab.training.factory import device_augment
from emotion_lab.training.metrics import EpochMetrics, scalar_metrics
from emotion_lab.training.module import EmotionModule

CLASSES = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
Tiny = Callable[..., dict[str, Any]]


@pytest.fixture
def stepping(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a function that takes one training and one validation step on ``meta``."""
    trainer = SimpleNamespace(max_epochs=2)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    monkeypatch.setattr(EmotionModule, "trainer", PropertyMock(return_value=trainer))
    monkeypatch.setattr(EmotionModule, "current_epoch", PropertyMock(return_value=0))
    monkeypatch.setattr(EmotionModule, "global_step", PropertyMock(return_value=1))
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
        # Lightning would bring a plain number over.
        assert all(isinstance(value, torch.Tensor) for value in logged.values())

    yield step


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss(stepping: Callable[..., None], name: str) -> None:
    stepping(f"loss={name}")


@pytest.mark.parametrize(
    "more",
    [
        ("augment.erase_p=1", "augment.progressive_resize=[[0,32],[0.5,48]]"),
        ("mix.mixup=0.2",),
        ("mix.cutmix=1",),
        ("mix.mixup=0.2", "mix.cutmix=1", "mix.probability=0.5"),
    ],
)
def test_augmentation_and_mixing(stepping: Callable[..., None], more: tuple[str, ...]) -> None:
    stepping(*more)


def test_the_trap_works() -> None:
    """What the former metrics did is what this would find."""
    logits, labels = torch.zeros(8, 7, device="meta"), torch.zeros(8, dtype=torch.long).to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        scalar_metrics(7).to("meta").update(logits, labels)


def test_the_tally_is_torchmetrics() -> None:
    torch.manual_seed(0)
    batches = [(torch.rand(()), torch.randn(n, 7), torch.randint(0, 5, (n,))) for n in (8, 8, 3)]
    tally, metrics = EpochMetrics(7), scalar_metrics(7)
    for loss, logits, labels in batches:
        tally.update(loss, logits, labels)
        metrics.update(logits, labels)
    found = tally.compute()
    mean = sum(loss * len(labels) for loss, _, labels in batches) / 19
    torch.testing.assert_close(found.pop("loss"), mean)
    torch.testing.assert_close(tally.means()["accuracy"], found["accuracy"])
    expected = metrics.compute()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name
