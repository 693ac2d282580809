"""Exponential moving average: the formula, early scores, accumulation and device."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from emotion_lab.training.ema import EMACallback, decay_at
from emotion_lab.training.fit import fit
from tests.training.conftest import Tiny


class Net(L.LightningModule):
    """A weight, BatchNorm statistics and an integer buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("index", torch.arange(100))


class RecordMetaOps(TorchDispatchMode):
    """Records the operations on tensors on the device ``meta``."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        devices = {str((kwargs or {}).get("device") or "")} | {t.device.type for t in tensors}
        if any(device.startswith("meta") for device in devices):
            self.names.add(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def started(net: Any, decay: float) -> EMACallback:
    ema = EMACallback(decay)
    ema.setup(SimpleNamespace(), net, "fit")
    ema.on_fit_start(SimpleNamespace(), net)
    return ema


def step(ema: EMACallback, net: Any, number: int) -> None:
    with torch.no_grad():
        net.weight.add_(torch.randn(3).to(net.device))
        net.norm.running_mean.add_(1)
        net.norm.num_batches_tracked.add_(1)
    ema.on_train_batch_end(SimpleNamespace(global_step=number), net, None, None, 0)


def test_decay_warms_up() -> None:
    assert decay_at(1, 0.998) == 2 / 11
    assert decay_at(90, 0.998) == 0.91
    assert decay_at(90, 0.5) == 0.5
    assert decay_at(10**6, 0.998) == 0.998
    # After 500 steps the first weights have no influence; with a constant decay it would be 37 %.
    weight = 1.0
    for number in range(2, 501):
        weight *= decay_at(number, 0.998)
    assert weight < 1e-6 < 0.3 < 0.998**499


@pytest.mark.parametrize("decay", [0.5, 0.998])
def test_average_agrees_with_the_formula(decay: float) -> None:
    torch.manual_seed(0)
    net = Net()
    ema = started(net, decay)
    expected = None
    for number in range(1, 30):
        step(ema, net, number)
        weight = net.weight.detach().clone()
        d = decay_at(number, decay)
        expected = weight if expected is None else d * expected + (1 - d) * weight
        torch.testing.assert_close(ema._average_model.module.weight.detach(), expected)
    # Running statistics are averaged, integer buffers are copied.
    assert torch.equal(ema._average_model.module.index, torch.arange(100))
    assert ema._average_model.module.norm.num_batches_tracked == 29
    assert 0 < ema._average_model.module.norm.running_mean[0] < net.norm.running_mean[0]


def test_accumulated_batches_do_not_update_the_average() -> None:
    net = Net()
    ema = started(net, 0.9)
    step(ema, net, 1)
    average = ema._average_model.module.weight.detach().clone()
    step(ema, net, 1)  # the same optimiser step
    assert torch.equal(ema._average_model.module.weight, average)


def test_average_is_on_the_device_of_the_network() -> None:
    """Lightning calls setup() before it moves the network; ``meta`` replaces an accelerator."""
    net = Net()
    ema = EMACallback(0.9)
    ema.setup(SimpleNamespace(), net, "fit")
    net.to("meta")
    ema.on_fit_start(SimpleNamespace(), net)
    with RecordMetaOps() as ops:
        for number in (1, 2, 3):
            ema.on_train_batch_end(SimpleNamespace(global_step=number), net, None, None, 0)
    # Neither copied to the CPU nor read: both would wait for the accelerator.
    assert "aten::_foreach_lerp_" in ops.names
    assert not ops.names & {"aten::_to_copy", "aten::_local_scalar_dense"}
    tensors = [*ema._average_model.module.parameters(), *ema._average_model.module.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert ema._average_model.n_averaged == 3  # counted on the CPU


def test_average_does_not_lower_early_scores(tiny: Tiny, tmp_path: Path) -> None:
    """With a decay of 0.999, the random initial weights must not dominate the first epochs."""
    losses = {}
    for ema in ("0.999", "null"):
        cfg = tiny(f"trainer.ema_decay={ema}", "data.n=300", "optim.lr=0.01")
        (tmp_path / ema).mkdir()
        rows = fit(cfg, tmp_path / ema).history.rows
        losses[ema] = [row["val/loss"] for row in rows]
    assert losses["null"][1] < 1.9  # random weights have a loss of log(7) = 1.946
    assert losses["0.999"][1] < losses["null"][1] + 0.03
