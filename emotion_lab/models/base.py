"""What a network is here: a backbone that knows its parts, inside a net that takes raw images."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from emotion_lab.core.errors import UserError
from emotion_lab.core.registry import Registry
from emotion_lab.models.pretrained import fetch, load_local

log = logging.getLogger(__name__)

MODELS: Registry[Callable[[dict[str, Any], int], Backbone]] = Registry(
    "model", "emotion_lab.models"
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_IMAGE_SIZE = 32


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to see.

    Attributes:
        image_size: Height and width in pixels.
        channels: 1 (grey) or 3 (RGB).
        mean: Subtracted from each channel of an image scaled to 0..1.
        std: Each channel is divided by it afterwards.
    """

    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


#: Family name -> function that gives the family's own input for the keys left null.
_DEFAULTS: dict[str, Callable[[dict[str, Any]], InputSpec]] = {}


def input_defaults(
    name: str,
) -> Callable[[Callable[[dict[str, Any]], InputSpec]], Callable[[dict[str, Any]], InputSpec]]:
    """Return a decorator that files the function resolving null input keys of family ``name``."""

    def decorate(function: Callable[[dict[str, Any]], InputSpec]):
        _DEFAULTS[name] = function
        return function

    return decorate


class Backbone(nn.Module):
    """Any network from normalised images to logits, with its parts named.

    Args:
        net: The network itself.
        head_names: Dotted module prefixes inside ``net`` of the classifier head(s), auxiliary
            heads included.
        stages: Dotted prefixes inside ``net`` of each stage, from the stem to the last block.
            Whatever stands in neither a stage nor a head counts to stage 0.
        conv: Whether the channels_last memory format suits the network.
        weights_url: Where its ImageNet weights lie, None where there are none to fetch.
        pretrained_report: One line where the builder itself has already loaded weights.
    """

    def __init__(
        self,
        net: nn.Module,
        head_names: Sequence[str],
        stages: Sequence[Sequence[str]],
        *,
        conv: bool = True,
        weights_url: str | None = None,
        pretrained_report: str | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.head_names = tuple(head_names)
        self.stages = [list(stage) for stage in stages]
        self.conv = conv
        self.weights_url = weights_url
        self.pretrained_report = pretrained_report
        # Some networks keep constants as parameters (fixed position embeddings); unfreezing must
        # not begin to train those.
        self.constants = frozenset(n for n, p in net.named_parameters() if not p.requires_grad)

    def stage_of(self, name: str) -> int:
        """Return the stage of the parameter or module ``name`` (as in ``net``).

        ``len(stages)`` stands for the head. The longest matching prefix decides.
        """
        parts = [(prefix, len(self.stages)) for prefix in self.head_names]
        parts += [(prefix, i) for i, stage in enumerate(self.stages) for prefix in stage]
        hits = [(len(p), i) for p, i in parts if name == p or name.startswith(p + ".")]
        return max(hits)[1] if hits else 0

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classify normalised images.

        Args:
            x: float (B, C, S, S).

        Returns:
            Logits (B, K). A network with auxiliary heads returns, in training mode only, the
            logits and a list of auxiliary logits (B, K).
        """
        out = self.net(x)
        if isinstance(out, tuple):
            logits, *aux = out
            return logits, [a for a in aux if a is not None]
        return out


class EmotionNet(nn.Module):
    """What is trained, saved and exported: normalisation and backbone in one.

    Normalising inside keeps every caller (training, export, webcam) from doing it differently.

    Args:
        backbone: The network.
        spec: Its input.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, spec: InputSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = spec
        #: One line saying where the weights came from.
        self.weights_report = "random weights"
        # Not persistent: the values are part of the configuration, and state_dict keys all start
        # with "backbone.".
        shape = (1, spec.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).reshape(shape), persistent=False)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classify images.

        Args:
            images: uint8 or float (B, C, S, S), values 0..255, RGB or grey as in the spec.

        Returns:
            What :meth:`Backbone.forward` returns.

        Raises:
            ValueError: If the shape is not (B, spec.channels, S, S).
        """
        if images.ndim != 4 or images.shape[1] != self.spec.channels:
            raise ValueError(
                f"expected images (B, {self.spec.channels}, S, S), got {tuple(images.shape)}"
            )
        x = images.to(self.mean.dtype) / 255.0
        return self.backbone((x - self.mean) / self.std)


def _floats(key: str, value: Any, channels: int) -> tuple[float, ...]:
    """Check a mean or std; one value serves all channels."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise UserError(f"model.{key} must be a list of numbers, got {value}.")
    if len(values) == 1:
        values = values * channels
    if len(values) != channels:
        raise UserError(
            f"model.{key} has {len(values)} values but model.channels is {channels}. "
            f"Give {channels}, or one for all: model.{key}=[0.5]."
        )
    if not all(math.isfinite(v) for v in values):
        raise UserError(f"model.{key} must hold finite numbers, got {value}.")
    if key == "std" and min(values) <= 0:
        raise UserError(f"model.std must be above 0, got {value}. Example: model.std=[0.25].")
    return tuple(float(v) for v in values)


def input_spec(cfg: dict[str, Any]) -> InputSpec:
    """Resolve the input of a model config, without building the model.

    Keys that are null come from the family: for timm the pretrained configuration of the
    backbone, for torchvision 224 pixels, RGB, ImageNet mean and std. With ``channels: 1`` the
    family's colour mean and std are averaged.

    Raises:
        UserError: If a value is impossible, or null where the family has no default.
    """
    MODELS.get(cfg["name"])
    values = {key: cfg.get(key) for key in ("image_size", "channels", "mean", "std")}
    if None in values.values():
        if cfg["name"] not in _DEFAULTS:
            missing = next(key for key, value in values.items() if value is None)
            raise UserError(f"model.{missing} is null. Set model.{missing}=<value>.")
        default = asdict(_DEFAULTS[cfg["name"]](cfg))
        if values["channels"] == 1:
            for key in ("mean", "std"):
                default[key] = (sum(default[key]) / len(default[key]),)
        values = {k: default[k] if value is None else value for k, value in values.items()}
    size, channels = values["image_size"], values["channels"]
    if not isinstance(size, int) or isinstance(size, bool) or size < MIN_IMAGE_SIZE:
        raise UserError(
            f"model.image_size must be a whole number of at least {MIN_IMAGE_SIZE}, got {size}."
        )
    if channels not in (1, 3):
        raise UserError(f"model.channels must be 1 (grey) or 3 (RGB), got {channels}.")
    mean = _floats("mean", values["mean"], channels)
    std = _floats("std", values["std"], channels)
    return InputSpec(size, channels, mean, std)


def check_patches(image_size: int, patch: int) -> None:
    """Refuse an image size that patches of ``patch`` pixels do not tile.

    Raises:
        UserError: Naming the nearest sizes that work.
    """
    if image_size % patch:
        below = max(image_size // patch, -(-MIN_IMAGE_SIZE // patch)) * patch
        above = (image_size // patch + 1) * patch
        near = f"{below} or {above}" if below < above else f"{above}"
        raise UserError(
            f"model.image_size={image_size} is not a multiple of the patch size {patch}. "
            f"Set model.image_size={near}."
        )


def check_dropout(cfg: dict[str, Any]) -> float:
    """Return ``cfg["dropout"]``, refused outside 0..1 (1 itself would drop everything)."""
    value = cfg["dropout"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise UserError(f"model.dropout must be at least 0 and below 1, got {value}.")
    return float(value)


def build_model(cfg: dict[str, Any], num_classes: int) -> tuple[EmotionNet, InputSpec]:
    """Build a network and load its weights.

    ``model.weights`` (a file) wins over ``model.pretrained`` (the published ImageNet weights).
    Where the weights came from is logged and kept in ``EmotionNet.weights_report``.

    Args:
        cfg: conf/model/<name>.yaml as a plain dict.
        num_classes: Number of logits.

    Raises:
        UserError: For an unknown name, a bad value, or weights that cannot be had or do not fit.
    """
    spec = input_spec(cfg)
    cfg = {**cfg, **asdict(spec)}
    backbone = MODELS.get(cfg["name"])(cfg, num_classes)
    net = EmotionNet(backbone, spec)
    if cfg.get("weights"):
        net.weights_report = load_local(backbone, cfg["weights"])
    elif cfg.get("pretrained"):
        if backbone.pretrained_report:
            net.weights_report = backbone.pretrained_report
        elif backbone.weights_url:
            model = cfg.get("backbone") or cfg["name"]
            net.weights_report = load_local(backbone, fetch(backbone.weights_url, None, model))
        else:
            raise UserError(
                f"There are no ImageNet weights of model '{cfg['name']}'. "
                "Set model.pretrained=false, or model.weights=<file>."
            )
    log.info("%s: %s", cfg["name"], net.weights_report)
    return net, spec
