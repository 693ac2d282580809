"""Averaged weights: the formula, early scores, resume, and where the average lives."""

from __future__ import annotations

from collections.abc import Callable
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


class Net(L.LightningModule):
    """A weight, running statistics, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("index", torch.arange(100))


class Ops(TorchDispatchMode):
    """Notes the operations on tensors that are not on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        devices = {str((kwargs or {}).get("device") or "")} | {t.device.type for t in tensors}
        if any(device.startswith("meta") for device in devices):
            self.names.add(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def begun(net: Any, decay: float) -> EMACallback:
    one = EMACallback(decay)
    one.setup(SimpleNamespace(), net, "fit")
    one.on_fit_start(SimpleNamespace(), net)
    return one


def step(one: EMACallback, net: Any, number: int) -> None:
    with torch.no_grad():
        net.weight.add_(torch.randn(3).to(net.device))
        net.norm.running_mean.add_(1)
        net.norm.num_batches_tracked.add_(1)
    one.on_train_batch_end(SimpleNamespace(global_step=number), net, None, None, 0)


def test_the_first_averages_are_short() -> None:
    assert decay_at(1, 0.998) == 2 / 11
    assert decay_at(90, 0.998) == 0.91
    assert decay_at(90, 0.5) == 0.5
    assert decay_at(10**6, 0.998) == 0.998
    # After 500 steps little is left of the first: a plain average would still hold 37 %.
    left = 1.0
    for number in range(2, 501):
        left *= decay_at(number, 0.998)
    assert left < 1e-6 < 0.3 < 0.998**499


@pytest.mark.parametrize("decay", [0.5, 0.998])
def test_the_average_is_the_formula(decay: float) -> None:
    torch.manual_seed(0)
    net = Net()
    one = begun(net, decay)
    expected = None
    for number in range(1, 30):
        step(one, net, number)
        now = net.weight.detach().clone()
        d = decay_at(number, decay)
        expected = now if expected is None else d * expected + (1 - d) * now
        torch.testing.assert_close(one._average_model.module.weight.detach(), expected)
    # Running statistics are averaged too; places in a table stay what they are.
    assert torch.equal(one._average_model.module.index, torch.arange(100))
    assert one._average_model.module.norm.num_batches_tracked == 29
    assert 0 < one._average_model.module.norm.running_mean[0] < net.norm.running_mean[0]


def test_a_batch_without_a_step_is_not_averaged() -> None:
    net = Net()
    one = begun(net, 0.9)
    step(one, net, 1)
    before = one._average_model.module.weight.detach().clone()
    step(one, net, 1)  # gradients are accumulated: the weights of this step come later
    assert torch.equal(one._average_model.module.weight, before)


def test_the_average_goes_where_the_network_goes() -> None:
    """Lightning calls setup() before it moves the network; "meta" stands for an accelerator."""
    net = Net()
    one = EMACallback(0.9)
    one.setup(SimpleNamespace(), net, "fit")
    net.to("meta")
    one.on_fit_start(SimpleNamespace(), net)
    with Ops() as seen:
        for number in (1, 2, 3):
            one.on_train_batch_end(SimpleNamespace(global_step=number), net, None, None, 0)
    # Neither brought over nor asked for: both would mean to wait.
    assert "aten::_foreach_lerp_" in seen.names
    assert not seen.names & {"aten::_to_copy", "aten::_local_scalar_dense"}
    held = [*one._average_model.module.parameters(), *one._average_model.module.buffers()]
    assert {tensor.device.type for tensor in held} == {"meta"}
    assert one._average_model.n_averaged == 3  # asking an accelerator would mean to wait for it


def test_the_first_epoch_is_scored_fairly(
    tiny: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The average of a thousand steps must not hold on to the random weights of the first."""
    from emotion_lab.training.fit import fit

    losses = {}
    for ema in ("0.999", "null"):
        cfg = tiny(f"trainer.ema_decay={ema}", "data.n=300", "optim.lr=0.01", "trainer.max_epochs=2")
        (tmp_path / ema).mkdir()
        rows = fit(cfg, tmp_path / ema).history.rows
        losses[ema] = [row["val/loss"] for row in rows]
    assert losses["null"][1] < 1.9  # random weights have log(7), 1.946
    assert losses["0.999"][1] < losses["null"][1] + 0.03
