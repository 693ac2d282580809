"""Every registered network: input, output, stages and heads."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import pytest
import torch
import torchvision

from emotion_lab.config.compose import CONF, defaults
from emotion_lab.core.errors import UserError
from emotion_lab.models import MODELS, Backbone, EmotionNet, InputSpec, build_model, input_spec
from emotion_lab.models.cnn import CNN
from emotion_lab.models.senet import SqueezeExcite
from emotion_lab.models.timm import resolve_name
from tests.conftest import error_message

SMALL: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 64, "depth": 2, "embed_dim": 64, "heads": 2},
    "senet": {"stem": 8, "widths": [8, 16, 16, 32]},
    "cnn": {"widths": [8, 16, 16, 32]},
}
NAMES = MODELS.names()


def small(name: str, **overrides: Any) -> dict[str, Any]:
    """Return the config of a small network for tests."""
    return {**defaults("model", name), "image_size": 48, **SMALL.get(name, {}), **overrides}


@cache
def _prototype(name: str, num_classes: int, overrides: str) -> EmotionNet:
    torch.manual_seed(0)
    return build_model(small(name, **json.loads(overrides)), num_classes)[0]


def build(name: str, num_classes: int = 7, **overrides: Any) -> EmotionNet:
    """Return a small network with fixed weights; copying is faster than building."""
    return copy.deepcopy(_prototype(name, num_classes, json.dumps(overrides)))


def images(net: EmotionNet, batch: int = 2) -> torch.Tensor:
    shape = (batch, net.spec.channels, net.spec.image_size, net.spec.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_first_loss_of_a_timm_network_is_that_of_chance() -> None:
    """timm draws the classifier of an EfficientNet from +-1/sqrt(classes): a loss of 10."""
    net = build("timm", backbone="tf_efficientnet_lite0")
    assert float(net.backbone.net.classifier.weight.abs().max()) <= 1280**-0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_forward(name: str, channels: int) -> None:
    one_value = len(small(name).get("mean") or []) == 1
    grey = {"mean": [0.5], "std": [0.25]} if one_value else {}
    net = build(name, channels=channels, **grey)
    x = images(net)
    assert isinstance(net.train()(x), tuple) == (name == "googlenet")
    with torch.no_grad():
        logits = net.eval()(x)
        assert logits.shape == (2, 7)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(net(x.float()), logits)
    with pytest.raises(ValueError, match=rf"expected images \(B, {channels}, S, S\)"):
        net(x.repeat(1, 2, 1, 1))


def test_googlenet_returns_both_auxiliary_heads() -> None:
    net = build("googlenet").train()
    logits, aux = net(images(net))
    assert [tuple(a.shape) for a in (logits, *aux)] == [(2, 7)] * 3


@pytest.mark.parametrize("name", NAMES)
def test_stages_and_heads_are_disjoint(name: str) -> None:
    backbone = build(name).backbone
    prefixes = [prefix for stage in backbone.stages for prefix in stage] + [*backbone.head_names]
    assert backbone.stages and all(backbone.stages)
    assert len(set(prefixes)) == len(prefixes)
    for prefix in prefixes:
        assert next(backbone.net.get_submodule(prefix).parameters(), None) is not None
    starts = tuple(f"{prefix}." for prefix in prefixes)
    names = [name for name, _ in backbone.net.named_parameters()]
    unassigned = {name for name in names if not name.startswith(starts)}
    assert unassigned <= {"cls_token", "pos_embed"}
    indices = {backbone.stage_index(n) for n, _ in backbone.net.named_parameters()}
    assert len(backbone.stages) in indices
    # Stages are in the order of the forward pass.
    order = []
    hooks = [
        backbone.net.get_submodule(stage[-1]).register_forward_hook(
            lambda *_, index=index: order.append(index)
        )
        for index, stage in enumerate(backbone.stages)
    ]
    size = small(name)["image_size"]
    net_channels = next(p for p in backbone.parameters() if p.ndim == 4).shape[1]
    with torch.no_grad():
        backbone.eval()(torch.zeros(1, net_channels, size, size))
    for hook in hooks:
        hook.remove()
    assert order == sorted(order) and set(order) == set(range(len(backbone.stages)))


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_and_config(name: str) -> None:
    net = build(name)
    assert all(key.startswith("backbone.net.") for key in net.state_dict())
    assert (CONF / "model" / f"{name}.yaml").read_text().startswith("# ")
    assert defaults("model", name)["name"] == name
    assert net.backbone.conv == (name != "vit")


def test_network_normalises_its_input() -> None:
    net = build("cnn", mean=[0.4], std=[0.2]).eval()
    x = images(net)
    with torch.no_grad():
        expected = net.backbone((x / 255 - 0.4) / 0.2)
        torch.testing.assert_close(net(x), expected)


def test_initial_weights_match_torchvision() -> None:
    for backbone in ("mobilenet_v2", "regnet_y_400mf"):
        torch.manual_seed(0)
        cfg = small("torchvision", backbone=backbone)
        weights = build_model(cfg, 7)[0].backbone.net.state_dict()
        torch.manual_seed(0)
        reference = torchvision.models.get_model(backbone, weights=None, num_classes=7).state_dict()
        assert all(torch.equal(weights[key], reference[key]) for key in reference)


def test_default_inputs() -> None:
    def spec(name: str, **overrides: Any) -> InputSpec:
        return input_spec({**defaults("model", name), **overrides})

    grey = spec("torchvision", channels=1)
    assert (grey.image_size, grey.channels) == (224, 1)
    assert grey.mean == pytest.approx((0.449,), abs=1e-6)
    assert spec("googlenet").mean == (0.5, 0.5, 0.5)
    assert spec("timm", backbone="inception_v3").image_size == 299
    assert spec("mobilenetv3", mean=[0.3]).mean == (0.3, 0.3, 0.3)
    assert spec("cnn").image_size == 48
    nulls = dict.fromkeys(("image_size", "mean", "std"))
    assert spec("cnn", **nulls, channels=3) == InputSpec(48, 3, (0.5,) * 3, (0.25,) * 3)


def test_googlenet_normalisation_matches_torchvision() -> None:
    from torchvision.models import googlenet

    x = torch.rand(2, 3, 48, 48)
    reference = googlenet(weights=None, aux_logits=True, transform_input=True, init_weights=False)
    imagenet = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).reshape(2, 1, 3, 1, 1)
    expected = reference._transform_input((x - imagenet[0]) / imagenet[1])
    torch.testing.assert_close((x - 0.5) / 0.5, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("cnn", {"image_size": 31}, "expected a whole number of 32 or more"),
        ("cnn", {"channels": 2}, "model.channels=2 is not valid: expected 1 (grey) or 3 (RGB)"),
        ("cnn", {"mean": [0.5, 0.5]}, "model.mean has 2 values but model.channels is 1"),
        ("cnn", {"std": [0.0]}, "model.std=[0.0] is not valid: expected a number above 0"),
        ("cnn", {"std": "x"}, "model.std=x is not valid: expected a number above 0, or a list"),
        ("cnn", {"dropout": 1.0}, "model.dropout"),
        ("cnn", {"widths": [8] * 6}, "6 stages"),
        ("cnn", {"widths": []}, "model.widths=[] is not valid: expected a list of whole numbers"),
        ("senet", {"blocks": [1]}, "one value for each stage"),
        ("senet", {"reduction": 0}, "model.reduction"),
        ("vit", {"image_size": 70}, "Set model.image_size=64 or 80."),
        ("vit", {"image_size": 33, "patch_size": 32}, "Set model.image_size=32 or 64."),
        ("vit", {"heads": 3}, "not a multiple of model.heads=3"),
        ("vit", {"pretrained": True}, "ImageNet weights for model.depth=12"),
        ("cnn", {"pretrained": True}, "no ImageNet weights of model 'cnn'"),
        ("timm", {"backbone": "resnet18."}, "Did you mean 'resnet18'?"),
        ("timm", {"backbone": "resnt18"}, "Did you mean 'resnet18'?"),
        ("timm", {"backbone": "vit_tiny_patch16_224", "image_size": 50}, "48 or 64"),
        ("torchvision", {"backbone": "mobilenetv2"}, "Did you mean 'mobilenet_v2'?"),
        ("torchvision", {"backbone": "vit_b_32", "image_size": 50}, "32 or 64"),
        ("torchvision", {"backbone": "resnet18", "dropout": 0.1}, "takes no dropout"),
        ("torchvision", {"backbone": "alexnet"}, "does not take images of 48x48"),
    ],
)
def test_user_errors(name: str, overrides: dict[str, Any], message: str) -> None:
    text = error_message(build_model, small(name, **overrides), 7)
    assert message in text and len(text) < 400


@pytest.mark.parametrize(
    ("older", "current"),
    [
        ("tf_efficientnet_b0_ns", "tf_efficientnet_b0.ns_jft_in1k"),
        ("convnext_tiny_in22k", "convnext_tiny.fb_in22k"),
        ("swsl_resnet18", "resnet18.fb_swsl_ig1b_ft_in1k"),
    ],
)
def test_older_names_of_timm(older: str, current: str) -> None:
    assert resolve_name(older) == current
    specs = [input_spec({**defaults("model", "timm"), "backbone": n}) for n in (older, current)]
    assert specs[0] == specs[1] and specs[0].mean != (0.5, 0.5, 0.5)


def test_unknown_model() -> None:
    with pytest.raises(UserError, match="Did you mean 'senet'"):
        build_model({**small("cnn"), "name": "snet"}, 7)


def test_squeeze_excite_matches_convolutions() -> None:
    se = SqueezeExcite(32, 4)
    x = torch.randn(2, 32, 5, 5)
    conv = torch.nn.functional.conv2d
    hidden = conv(x.mean((2, 3), keepdim=True), se.squeeze.weight[..., None, None], se.squeeze.bias)
    gate = conv(hidden.relu(), se.excite.weight[..., None, None], se.excite.bias)
    torch.testing.assert_close(se(x), x * gate.sigmoid())


def test_senet_residual_branches_are_not_zero() -> None:
    """With one block per stage, a residual branch that starts at zero prevents training."""
    net = build("senet", blocks=[2, 1, 1, 1]).eval()
    block = net.backbone.net.stages[0][1]
    x = torch.rand(2, 8, 6, 6)
    assert not torch.allclose(block(x), x)


def test_cnn_default_size() -> None:
    net = CNN(1, [64, 128, 256, 512], 0.4, 7)
    assert sum(p.numel() for p in net.parameters()) == 4_689_735


def test_any_module_can_be_a_backbone() -> None:
    """A builder may return a plain module; the last layer is its head."""
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(7)
    )
    layers(torch.zeros(1, 1, 8, 8))
    backbone = Backbone.wrap(layers)
    assert backbone.head_names == ("3",) and backbone.stages == [["0"]] and backbone.conv
    assert backbone(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
