"""Any image network of timm, by its name there."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from emotion_lab.core.errors import UserError
from emotion_lab.models.base import (
    MODELS,
    Backbone,
    InputSpec,
    check_dropout,
    check_patches,
    input_defaults,
)
from emotion_lab.models.pretrained import check_reachable, unreachable
from emotion_lab.models.torchvision import NORMS, named_stages, probe, refused, unknown_backbone


def _timm() -> ModuleType:
    # Imported when used: timm pulls in loggers it finds installed, one to two seconds that
    # every start would pay, since all files of this folder are imported to be registered.
    import timm

    return timm


def check_name(name: str) -> str:
    """Return ``name`` if timm knows it, with or without a weights tag (``resnet18.a1_in1k``).

    Raises:
        UserError: If not, naming those that are spelt alike.
    """
    base, _, tag = str(name).partition(".")
    tags = _timm().list_pretrained(f"{base}.*") if tag else []
    if not _timm().is_model(base) or (tag and name not in tags):
        raise unknown_backbone(
            name,
            tags if _timm().is_model(base) else _timm().list_models(),
            'python -c "import timm; print(timm.list_models())"',
            tags or ("resnet18", "mobilenetv3_small_100", "convnext_atto"),
        )
    return name


def timm_heads(net: nn.Module) -> list[str]:
    """Return the names of the classifier layers."""
    found = net.get_classifier()
    layers = set(found) if isinstance(found, (tuple, list)) else {found}
    return [name for name, module in net.named_modules() if module in layers]


def timm_stages(net: nn.Module, heads: list[str]) -> list[list[str]]:
    """Split a network into stages as timm's own layer-wise decay does.

    Each stage is given by the largest modules that lie wholly in it.
    """
    if not hasattr(net, "group_matcher"):
        return named_stages(net, heads)
    from timm.models import group_parameters

    groups: dict[str, int] = {}
    matched = group_parameters(net, net.group_matcher(coarse=True))
    for index, names in matched.items():
        groups.update({name: index for name in names})
    for head in heads:
        groups = {n: i for n, i in groups.items() if not n.startswith(f"{head}.")}
    stages: dict[int, list[str]] = {}

    def walk(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            inside = {groups.get(f"{path}.{n}") for n, _ in child.named_parameters()}
            if len(inside) == 1 and None not in inside:
                stages.setdefault(inside.pop(), []).append(path)
            else:
                walk(f"{path}.", child)

    walk("", net)
    merged: list[list[str]] = []
    for _, names in sorted(stages.items()):
        # A final norm is no block of its own: unfreezing "the last stage" should mean more.
        if merged and all(isinstance(net.get_submodule(name), NORMS) for name in names):
            merged[-1] += names
        else:
            merged.append(names)
    return merged or named_stages(net, heads)


def _cached(cfg: Any) -> str | None:
    """Return the file of a hub model that is already on this machine."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(cfg.hf_hub_id, cfg.hf_hub_filename or name)
        if isinstance(path, str):
            return path
    return None


def pretrained_kwargs(name: str) -> dict[str, Any]:
    """Return what makes timm load the published weights of ``name``, or fail in seconds.

    The hub client itself retries for minutes where there is no network, hence the probe.

    Raises:
        UserError: If there are none, or they are neither cached nor to be reached.
    """
    cfg = _timm().get_pretrained_cfg(name)
    if not cfg or not cfg.has_weights:
        raise UserError(f"timm has no weights of {name}. Set model.pretrained=false.")
    if cfg.hf_hub_id:
        if path := _cached(cfg):
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
    """Build a timm network with its stages and heads named.

    timm itself loads published weights: it knows how to fit each to channels and image size.

    Args:
        name: Its name in timm.
        cfg: Model config; ``weights`` set means that ``pretrained`` fetches nothing.
        num_classes: Number of logits.
        conv: Whether channels_last suits it.
        kwargs: Passed to timm.
    """
    source = _timm().get_pretrained_cfg(name)
    if source is not None and source.fixed_input_size:
        kwargs["img_size"] = cfg["image_size"]
    if cfg.get("dropout") is not None:
        kwargs["drop_rate"] = check_dropout(cfg)
    report = None
    if cfg.get("pretrained") and not cfg.get("weights"):
        kwargs.update(pretrained_kwargs(name))
        report = f"published timm weights of {name}; new: head for {num_classes} classes"
    try:
        net = _timm().create_model(
            name, num_classes=num_classes, in_chans=cfg["channels"], **kwargs
        )
    except OSError as error:  # the network went away after the probe
        if report is None:
            raise
        raise unreachable(f"https://huggingface.co/{source.hf_hub_id}", name) from error
    except (AssertionError, ValueError) as error:  # window attention is choosy about sizes
        raise refused(name, cfg["image_size"], error) from error
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if "img_size" in kwargs and patch:
        # timm itself would silently cut off the pixels that fill no patch.
        check_patches(cfg["image_size"], patch[0])
    heads = timm_heads(net)
    return Backbone(net, heads, timm_stages(net, heads), conv=conv, pretrained_report=report)


@input_defaults("timm")
def defaults(cfg: dict[str, Any]) -> InputSpec:
    """Return the input that the network's published weights were trained on."""
    source = _timm().get_pretrained_cfg(check_name(cfg["backbone"]))
    if source is None:
        return InputSpec(224, 3, (0.5,) * 3, (0.5,) * 3)
    return InputSpec(source.input_size[-1], 3, tuple(source.mean), tuple(source.std))


@MODELS.register("timm")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build ``cfg["backbone"]``, any network of timm.

    Raises:
        UserError: For an unknown name, an image size it cannot take, or weights out of reach.
    """
    backbone = timm_backbone(check_name(cfg["backbone"]), cfg, num_classes)
    # A transformer's only convolution cuts the image into patches: kernel and stride are equal.
    convs = [m for m in backbone.net.modules() if isinstance(m, nn.Conv2d)]
    backbone.conv = any(conv.kernel_size != conv.stride for conv in convs)
    probe(backbone, cfg)
    return backbone
