"""Any classification network of torchvision, by its name there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision import models as tv

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.models.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MODELS,
    Backbone,
    InputSpec,
    check_dropout,
    check_patches,
    input_defaults,
)
from emotion_lab.models.pretrained import first_conv

#: Sequences whose children are the blocks; any other child of a network is one stage.
CONTAINERS = ("features", "encoder", "encoder.layers", "layers", "blocks", "trunk_output")
#: Ported from TensorFlow, trained on x/127.5 - 1 (torchvision calls it transform_input).
HALF_NORMALISED = ("googlenet", "inception_v3")
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def unknown_backbone(name: object, names: Sequence[str], show: str, common: Iterable[str]):
    """Build the error for a backbone name, listing only what is close: there are very many."""
    close = difflib.get_close_matches(str(name), names, n=6, cutoff=0.5) or list(common)
    return unknown(
        "backbone", name, close, f"Set it with model.backbone=<name>; all {len(names)}: {show}"
    )


def named_stages(net: nn.Module, heads: Sequence[str]) -> list[list[str]]:
    """Split a network into stages by the names and order of its children.

    A normalisation layer belongs to the stage before it, single layers ahead of the first block
    form the stem, and what stands between the last block and the head joins the last stage.

    Args:
        net: The network.
        heads: Prefixes of the classifier heads, left out.
    """
    flat: list[tuple[str, nn.Module]] = []

    def walk(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            path = f"{prefix}.{name}" if prefix else name
            if path in heads or next(child.parameters(), None) is None:
                continue
            holds_head = any(head.startswith(path + ".") for head in heads)
            if path in CONTAINERS or holds_head:
                walk(path, child)
            else:
                flat.append((path, child))

    walk("", net)
    stages: list[list[str]] = []
    stem, after = True, {head.rpartition(".")[0] for head in heads} - {""}
    for path, module in flat:
        leaf = "." not in path and next(module.children(), None) is None
        beside_head = any(path.startswith(parent + ".") for parent in after)
        joins = isinstance(module, NORMS) or beside_head or (stem and leaf)
        if stages and joins:
            stages[-1].append(path)
        else:
            stages.append([path])
        stem = stem and leaf
    return stages


def replace_first_conv(net: nn.Module, channels: int) -> None:
    """Make the first convolution take ``channels`` channels.

    Its weights are summed over the input channels: a grey image then gives what its copy in RGB
    gave, whatever initialisation the network had chosen.
    """
    name = first_conv(net)
    old = net.get_submodule(name) if name else None
    if old is None or old.groups != 1:
        raise UserError("This backbone cannot take grey images. Set model.channels=3.")
    if old.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        old.dilation,
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.sum(1, keepdim=True).expand_as(new.weight) / channels)
        if old.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, new)


def _differing(arch: str, kwargs: dict[str, Any]) -> list[str]:
    """Return the modules whose shape follows the number of classes: the heads.

    Found by building the network twice without memory, so that no architecture needs a rule.
    """

    def shapes(num_classes: int) -> dict[str, torch.Size]:
        net = tv.get_model(arch, weights=None, num_classes=num_classes, **kwargs)
        return {name: tensor.shape for name, tensor in net.state_dict().items()}

    try:
        with torch.device("meta"):
            a, b = shapes(11), shapes(13)
    except NotImplementedError:
        # RegNet computes its widths with tensors, which meta tensors cannot do. Its random
        # numbers are given back, so that a seed gives the same weights either way.
        with torch.random.fork_rng(devices=[]):
            a, b = shapes(11), shapes(13)
    names = [name for name in a if a[name] != b[name]]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def weights_url(arch: str) -> str | None:
    """Return the address of the ImageNet weights: V1, the recipe of the papers, where it exists."""
    weights = tv.get_model_weights(arch)
    best = getattr(weights, "IMAGENET1K_V1", None) or getattr(weights, "DEFAULT", None)
    return best.url if best else None


def refused(arch: str, size: int, error: Exception) -> UserError:
    """Build the error for an image size that a network cannot take."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
    return UserError(
        f"{arch} does not take images of {size}x{size}: {reason}. Set model.image_size=<pixels>."
    )


def probe(backbone: Backbone, cfg: dict[str, Any]) -> None:
    """Run one black image through, so that a size the network cannot take fails here.

    Raises:
        UserError: If it fails.
    """
    size = cfg["image_size"]
    backbone.eval()
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, cfg["channels"], size, size))
    except Exception as error:  # every architecture complains in its own way
        raise refused(cfg["backbone"], size, error) from error
    finally:
        backbone.train()


def torchvision_backbone(
    arch: str, cfg: dict[str, Any], num_classes: int, **kwargs: Any
) -> Backbone:
    """Build a torchvision network with its stages and heads named.

    Args:
        arch: Its name in torchvision.
        cfg: Model config with ``channels``, ``image_size`` and perhaps ``dropout`` (null leaves
            the architecture's own).
        num_classes: Number of logits.
        kwargs: Passed to torchvision's builder.

    Raises:
        UserError: If the architecture takes no dropout, or no grey images.
    """
    if cfg.get("dropout") is not None:
        kwargs["dropout"] = check_dropout(cfg)
    if arch.startswith("vit_"):
        check_patches(cfg["image_size"], int(arch.rpartition("_")[2]))
        kwargs["image_size"] = cfg["image_size"]
    if arch.startswith("maxvit"):
        kwargs["input_size"] = (cfg["image_size"], cfg["image_size"])
    if arch in HALF_NORMALISED:
        kwargs.update(init_weights=True, transform_input=False, aux_logits=True)
    try:
        heads = _differing(arch, kwargs)
    except TypeError as error:
        if "dropout" not in kwargs:
            raise
        raise UserError(f"{arch} takes no dropout. Set model.dropout=null.") from error
    except ValueError as error:
        raise refused(arch, cfg["image_size"], error) from error
    net = tv.get_model(arch, weights=None, num_classes=num_classes, **kwargs)
    if cfg["channels"] != 3:
        replace_first_conv(net, cfg["channels"])
    return Backbone(
        net,
        heads,
        named_stages(net, heads),
        conv=not arch.startswith(("vit_", "swin")),
        weights_url=weights_url(arch),
    )


def imagenet_input(image_size: int) -> InputSpec:
    """Return the usual ImageNet input at ``image_size``."""
    return InputSpec(image_size, 3, IMAGENET_MEAN, IMAGENET_STD)


def _check_arch(cfg: dict[str, Any]) -> str:
    names = tv.list_models(module=torchvision.models)
    if cfg["backbone"] not in names:
        raise unknown_backbone(
            cfg["backbone"],
            names,
            'python -c "import torchvision as t; print(t.models.list_models(module=t.models))"',
            ("mobilenet_v2", "resnet18", "convnext_tiny"),
        )
    return cfg["backbone"]


@input_defaults("torchvision")
def defaults(cfg: dict[str, Any]) -> InputSpec:
    """Return 224 pixels, RGB, ImageNet mean and std; 0.5 for the two ported from TensorFlow."""
    if _check_arch(cfg) in HALF_NORMALISED:
        return InputSpec(224, 3, (0.5,) * 3, (0.5,) * 3)
    return imagenet_input(224)


@MODELS.register("torchvision")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build ``cfg["backbone"]``, any classification network of torchvision.

    Raises:
        UserError: For an unknown name, or an image size that the network cannot take.
    """
    backbone = torchvision_backbone(_check_arch(cfg), cfg, num_classes)
    probe(backbone, cfg)
    return backbone
