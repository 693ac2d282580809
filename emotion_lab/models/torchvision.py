"""Classification networks of torchvision, by their torchvision name."""

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
    check_patches,
    image_size_error,
    register_default_input,
)
from emotion_lab.models.pretrained import first_conv
from emotion_lab.models.stages import named_stages

#: Ported from TensorFlow and trained on x/127.5 - 1 (``transform_input`` in torchvision).
TENSORFLOW_PORTS = ("googlenet", "inception_v3")


def unknown_backbone_error(
    name: object, names: Sequence[str], list_command: str, fallback: Iterable[str]
) -> UserError:
    """Return the error for a backbone name; it lists similar names only, else ``fallback``.

    ``list_command`` is a shell command that prints all ``names``.
    """
    similar = difflib.get_close_matches(str(name), names, n=6, cutoff=0.5) or list(fallback)
    hint = f"Set it with model.backbone=<name>; all {len(names)}: {list_command}"
    return unknown("backbone", name, similar, hint)


def replace_first_conv(net: nn.Module, channels: int) -> None:
    """Replace the first convolution by one with ``channels`` input channels.

    The weights are summed over the input channels: a grey image gives the same output as its RGB
    copy in the original network, for any initialisation.
    """
    name = first_conv(net)
    old = net.get_submodule(name) if name else None
    if name is None or not isinstance(old, nn.Conv2d) or old.groups != 1:
        raise UserError("This backbone cannot take grey images. Set model.channels=3.")
    if old.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type] # torch annotates it as tuple[int, ...]
        old.stride,  # type: ignore[arg-type] # likewise
        old.padding,  # type: ignore[arg-type] # likewise
        old.dilation,  # type: ignore[arg-type] # likewise
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.sum(1, keepdim=True).expand_as(new.weight) / channels)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, new)


def _head_modules(arch: str, kwargs: dict[str, Any]) -> list[str]:
    """Return the classifier heads: the modules whose shape depends on the number of classes.

    The network is built twice on the meta device, so no rule per architecture is needed.
    """

    def shapes(num_classes: int) -> dict[str, torch.Size]:
        net = tv.get_model(arch, weights=None, num_classes=num_classes, **kwargs)
        return {name: tensor.shape for name, tensor in net.state_dict().items()}

    try:
        with torch.device("meta"):
            a, b = shapes(11), shapes(13)
    except NotImplementedError:
        # RegNet computes its widths from tensor values, which meta tensors do not have. The
        # random state is restored, so that a seed gives the same weights either way.
        with torch.random.fork_rng(devices=[]):
            a, b = shapes(11), shapes(13)
    names = [name for name in a if a[name] != b[name]]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def weights_url(arch: str) -> str | None:
    """Return the URL of the ImageNet weights; V1, the recipe of the papers, if it exists."""
    weights = tv.get_model_weights(arch)
    entry = getattr(weights, "IMAGENET1K_V1", None) or getattr(weights, "DEFAULT", None)
    return entry.url if entry else None


def torchvision_backbone(
    arch: str, cfg: dict[str, Any], num_classes: int, **kwargs: Any
) -> Backbone:
    """Build a torchvision network with named stages and heads.

    Args:
        arch: Name in torchvision.
        cfg: Model config with ``channels``, ``image_size`` and optionally ``dropout`` (null keeps
            the default of the architecture).
        num_classes: Number of logits.
        kwargs: Passed to the builder of torchvision.
    """
    if cfg.get("dropout") is not None:
        kwargs["dropout"] = cfg["dropout"]
    if arch.startswith("vit_"):
        check_patches(cfg["image_size"], int(arch.rpartition("_")[2]))
        kwargs["image_size"] = cfg["image_size"]
    if arch.startswith("maxvit"):
        kwargs["input_size"] = (cfg["image_size"], cfg["image_size"])
    if arch in TENSORFLOW_PORTS:
        kwargs.update(init_weights=True, transform_input=False, aux_logits=True)
    try:
        heads = _head_modules(arch, kwargs)
    except TypeError as error:
        if "dropout" not in kwargs:
            raise
        raise UserError(f"{arch} takes no dropout. Set model.dropout=null.") from error
    except ValueError as error:
        raise image_size_error(arch, cfg["image_size"], error) from error
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
    """Return RGB input of ``image_size`` pixels with ImageNet mean and std."""
    return InputSpec(image_size, 3, IMAGENET_MEAN, IMAGENET_STD)


def _check_arch(cfg: dict[str, Any]) -> str:
    names = tv.list_models(module=torchvision.models)
    if cfg["backbone"] not in names:
        raise unknown_backbone_error(
            cfg["backbone"],
            names,
            'python -c "import torchvision as t; print(t.models.list_models(module=t.models))"',
            ("mobilenet_v2", "resnet18", "convnext_tiny"),
        )
    return cfg["backbone"]


@register_default_input("torchvision")
def default_input(cfg: dict[str, Any]) -> InputSpec:
    """Return 224 pixels, RGB, ImageNet mean and std; 0.5 for the ports from TensorFlow."""
    if _check_arch(cfg) in TENSORFLOW_PORTS:
        return InputSpec(224, 3, (0.5,) * 3, (0.5,) * 3)
    return imagenet_input(224)


@MODELS.register("torchvision")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build ``cfg["backbone"]``, a classification network of torchvision."""
    return torchvision_backbone(_check_arch(cfg), cfg, num_classes)
