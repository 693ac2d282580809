"""Frozen stages and optimizer parameter groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.models import EmotionNet
from emotion_lab.models.finetune import count_parameters, freeze_at, param_groups, train_mode
from tests.models.test_models import NAMES, build, images


def trainable_stages(net: EmotionNet) -> set[int]:
    backbone = net.backbone
    return {backbone.stage_index(n) for n, p in backbone.net.named_parameters() if p.requires_grad}


def freeze(
    net: EmotionNet, policy: str, last: int | None, plan: Any = None, epoch: int = 0
) -> None:
    model = {"freeze": policy, "unfreeze_last": last, "unfreeze_at_epoch": plan}
    freeze_at(net, model, epoch)


def loss(net: EmotionNet, x: torch.Tensor) -> torch.Tensor:
    out = net(x)
    logits, aux = out if isinstance(out, tuple) else (out, [])
    target = torch.arange(len(x)) % 7
    return sum(torch.nn.functional.cross_entropy(o, target) for o in [logits, *aux])


@pytest.mark.parametrize("name", NAMES)
def test_freeze_policies(name: str) -> None:
    net = build(name)
    count = len(net.backbone.stages)
    freeze(net, "backbone", None)
    assert trainable_stages(net) == {count}
    for policy in ("none", "backbone"):
        freeze(net, policy, 1)
        assert trainable_stages(net) == {count, count - 1}
    freeze(net, "none", count)
    assert count_parameters(net)[0] == count_parameters(net)[1]
    freeze(net, "backbone", 0)
    assert trainable_stages(net) == {count}
    freeze(net, "none", None)
    assert trainable_stages(net) == set(range(count + 1))
    with pytest.raises(UserError, match=f"unfreeze_last: {count + 1} stages .* 0 to {count}"):
        freeze(net, "none", count + 1)


def test_gradual_unfreezing() -> None:
    net = build("cnn")
    count = len(net.backbone.stages)
    trained = []
    for epoch in range(5):
        freeze(net, "backbone", None, [[1, 1], [3, count]], epoch)
        trained.append(len(trainable_stages(net)) - 1)
    assert trained == [0, 1, 1, count, count]
    freeze(net, "backbone", None, 2, 2)
    assert len(trainable_stages(net)) - 1 == count
    with pytest.raises(UserError, match=f"unfreeze_at_epoch: {count + 1} stages"):
        freeze(net, "backbone", None, [[3, count + 1]])


@pytest.mark.parametrize("name", NAMES)
def test_frozen_backbone_has_fixed_features(name: str) -> None:
    """Only the classifier is in train mode: no dropout before it, no running statistics."""
    net = build(name)
    freeze(net, "backbone", None)
    train_mode(net)
    if len(net.backbone.head_names) > 1:
        return
    x = images(net, 2)
    first, second = net.forward_features(x), net.forward_features(x)
    assert torch.equal(first, second)
    assert net.backbone.head.training and first.shape[0] == 2
    logits = net.backbone.head(first)
    assert torch.allclose(logits, net.eval()(x), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_training_a_frozen_network(name: str) -> None:
    net = build(name)
    freeze(net, "none", 1)
    train_mode(net)
    state = net.backbone.net.state_dict()
    original = {key: value.clone() for key, value in state.items()}
    optimizer = torch.optim.SGD(param_groups(net, 0.1, 0.01, 0.5, False))
    total = loss(net, images(net, 4))
    total.backward()
    # ReLU and zero-initialised gains may give a zero gradient, but never None.
    for parameter_name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
    optimizer.step()
    first = len(net.backbone.stages) - 1
    changed = {key for key, value in state.items() if not torch.equal(value, original[key])}
    assert changed
    assert all(net.backbone.stage_index(key) >= first for key in changed)
    if any(isinstance(m, torch.nn.BatchNorm2d) and m.training for m in net.modules()):
        assert any("running_mean" in key for key in changed)
    freeze(net, "none", None)
    net.train()
    loss(net, images(net, 4)).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("name", NAMES)
def test_parameter_groups(name: str, layer_decay: float) -> None:
    net = build(name)
    freeze(net, "backbone", None)
    groups = param_groups(net, 0.1, 0.01, layer_decay, False)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())
    assert len({group["name"] for group in groups}) == len(groups)
    if layer_decay == 1.0:
        assert [g["name"] for g in groups] == ["all_no_decay", "all"]
    for group in groups:
        assert set(group) == {"params", "lr", "weight_decay", "name"}
        assert group["weight_decay"] == (0.0 if group["name"].endswith("_no_decay") else 0.01)
        assert not group["weight_decay"] or all(p.ndim > 1 for p in group["params"])
    assert len(param_groups(net, 0.1, 0.01, 1.0, True)) == 1
    # The learning rate decreases from the head to the stem.
    backbone = net.backbone
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for parameter_name, parameter in backbone.net.named_parameters():
        distance = len(backbone.stages) - backbone.stage_index(parameter_name)
        assert rates[id(parameter)] == pytest.approx(0.1 * layer_decay**distance)


def test_vit_embeddings_do_not_decay() -> None:
    net = build("vit")
    groups = param_groups(net, 0.1, 0.01, 1.0, False)
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert id(net.backbone.net.pos_embed) not in decayed
    assert id(net.backbone.net.blocks[0].attn.qkv.weight) in decayed
