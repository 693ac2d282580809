"""Image networks of timm, by their timm name."""

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

from torch import nn

from emotion_lab.core.errors import UserError
from emotion_lab.models.base import (
    MODELS,
    Backbone,
    InputSpec,
    check_patches,
    image_size_error,
    register_default_input,
)
from emotion_lab.models.pretrained import check_reachable, unreachable_error
from emotion_lab.models.stages import NORMS, named_stages
from emotion_lab.models.torchvision import unknown_backbone_error


def _timm() -> ModuleType:
    # A lazy import: the registry imports this module at every start, and timm takes one to two
    # seconds to import.
    import timm

    return timm


def resolve_name(name: str) -> str:
    """Return today's timm name of a network, with or without a tag (``resnet18.a1_in1k``).

    timm's older names, for instance ``tf_efficientnet_b0_ns``, have no pretrained configuration.
    """
    from timm.models import get_deprecated_models

    name = str(name)
    deprecated = get_deprecated_models()
    if name in deprecated and deprecated[name] is None:
        raise UserError(
            f"timm has removed {name} without a replacement. Set model.backbone=<name>."
        )
    name = deprecated.get(name) or name
    base, dot, _ = name.partition(".")
    is_model = _timm().is_model(base)
    tags = _timm().list_pretrained(f"{base}.*") if dot and is_model else []
    if not is_model or (dot and name not in tags):
        names = [base, *tags] if is_model else _timm().list_models()
        raise unknown_backbone_error(
            name,
            names,
            'python -c "import timm; print(timm.list_models())"',
            tags or ("resnet18", "mobilenetv3_small_100", "convnext_atto"),
        )
    return name


def timm_heads(net: nn.Module) -> list[str]:
    """Return the names of the classifier layers."""
    classifier = cast("Any", net).get_classifier()
    layers = set(classifier) if isinstance(classifier, (tuple, list)) else {classifier}
    return [name for name, module in net.named_modules() if module in layers]


def _init_heads(net: nn.Module, heads: list[str]) -> None:
    """Draw the weights of linear classifiers anew, with torch's default for their inputs.

    timm's EfficientNets and MobileNets draw them from +-1/sqrt(classes), which is meant for 1000
    classes: with seven, the first loss is above 10.
    """
    for name in heads:
        head = net.get_submodule(name)
        if isinstance(head, nn.Linear):
            head.reset_parameters()


def timm_stages(net: nn.Module, heads: list[str]) -> list[list[str]]:
    """Divide a network into the stages that timm uses for layer-wise learning rate decay.

    Each stage is described by the largest modules that are completely inside it.
    """
    if not hasattr(net, "group_matcher"):
        return named_stages(net, heads)
    from timm.models import group_parameters

    groups = {
        name: index
        for index, names in group_parameters(
            net, cast("Any", net).group_matcher(coarse=True)
        ).items()
        for name in names
        if not name.startswith(tuple(f"{head}." for head in heads))
    }
    stages: dict[int, list[str]] = {}

    def walk(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            indices = {groups.get(f"{path}.{n}") for n, _ in child.named_parameters()}
            index = indices.pop() if len(indices) == 1 else None
            if index is not None:
                stages.setdefault(index, []).append(path)
            else:
                walk(f"{path}.", child)

    walk("", net)
    merged: list[list[str]] = []
    for _, names in sorted(stages.items()):
        # A final norm layer is not a stage: unfreezing the last stage must include a block.
        if merged and all(isinstance(net.get_submodule(name), NORMS) for name in names):
            merged[-1] += names
        else:
            merged.append(names)
    return merged or named_stages(net, heads)


def _cached_weights_file(cfg: Any) -> str | None:
    """Return the weights file of a hub model if it has been downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(cfg.hf_hub_id, cfg.hf_hub_filename or name)
        if isinstance(path, str):
            return path
    return None


def pretrained_kwargs(name: str) -> dict[str, Any]:
    """Return the arguments of ``timm.create_model`` that load the published weights of ``name``.

    The hub client retries for minutes without a network, so the host is contacted first.
    """
    cfg = _timm().get_pretrained_cfg(name)
    if not cfg or not cfg.has_weights:
        raise UserError(f"timm has no weights of {name}. Set model.pretrained=false.")
    if cfg.hf_hub_id:
        if path := _cached_weights_file(cfg):
            return {"pretrained": True, "pretrained_cfg_overlay": {"file": path}}
        from huggingface_hub.constants import ENDPOINT

        url = f"{ENDPOINT}/{cfg.hf_hub_id}/resolve/main/model.safetensors"
    else:
        url = cfg.url
    check_reachable(url, name)
    return {"pretrained": True}


def timm_backbone(
    name: str, cfg: dict[str, Any], num_classes: int, *, conv: bool = True, **kwargs: Any
) -> Backbone:
    """Build a timm network with named stages and heads.

    Published weights are loaded by timm, which adapts them to channels and image size. If
    ``model.weights`` is set, ``model.pretrained`` downloads nothing. ``kwargs`` are passed to
    ``timm.create_model``.
    """
    source = _timm().get_pretrained_cfg(name)
    if source is not None and source.fixed_input_size:
        kwargs["img_size"] = cfg["image_size"]
    if cfg.get("dropout") is not None:
        kwargs["drop_rate"] = cfg["dropout"]
    report = None
    if cfg.get("pretrained") and not cfg.get("weights"):
        kwargs.update(pretrained_kwargs(name))
        report = f"published timm weights of {name}; new: head for {num_classes} classes"
    try:
        net = _timm().create_model(
            name, num_classes=num_classes, in_chans=cfg["channels"], **kwargs
        )
    except OSError as error:  # the connection failed after the first contact
        if report is None:
            raise
        raise unreachable_error(f"https://huggingface.co/{source.hf_hub_id}", name) from error
    except (AssertionError, ValueError) as error:  # window attention supports few sizes
        raise image_size_error(name, cfg["image_size"], error) from error
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if "img_size" in kwargs and patch:
        # timm would silently drop the pixels of incomplete patches.
        check_patches(cfg["image_size"], patch[0])
    heads = timm_heads(net)
    if source is None or num_classes != source.num_classes:
        _init_heads(net, heads)
    return Backbone(net, heads, timm_stages(net, heads), conv=conv, pretrained_report=report)


@register_default_input("timm")
def default_input(cfg: dict[str, Any]) -> InputSpec:
    """Return the input that the published weights of the network were trained on."""
    source = _timm().get_pretrained_cfg(resolve_name(cfg["backbone"]))
    if source is None:
        return InputSpec(224, 3, (0.5,) * 3, (0.5,) * 3)
    return InputSpec(source.input_size[-1], 3, tuple(source.mean), tuple(source.std))


@MODELS.register("timm")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build ``cfg["backbone"]``, an image network of timm."""
    backbone = timm_backbone(resolve_name(cfg["backbone"]), cfg, num_classes)
    # The only convolution of a transformer is the patch embedding, with kernel equal to stride.
    convs = [m for m in backbone.net.modules() if isinstance(m, nn.Conv2d)]
    backbone.conv = any(conv.kernel_size != conv.stride for conv in convs)
    return backbone
