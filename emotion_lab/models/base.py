"""Network interface: a backbone with named stages and heads inside a net that takes raw images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from emotion_lab.config import schema
from emotion_lab.core import plugins
from emotion_lab.core.errors import UserError
from emotion_lab.core.input_spec import InputSpec as InputSpec
from emotion_lab.core.registry import Registry, source
from emotion_lab.models.pretrained import fetch, load_local
from emotion_lab.models.stages import last_layer, named_stages

log = logging.getLogger(__name__)

#: ``build(cfg, num_classes)`` returns a :class:`Backbone`, or any module from normalised images
#: (B, C, S, S) to logits (B, K).
MODELS: Registry[Callable[[dict[str, Any], int], nn.Module]] = Registry(
    "model", "emotion_lab.models"
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_IMAGE_SIZE = 32


#: Input of a model that registers none: the images of FER2013.
DEFAULT_INPUT = InputSpec(48, 1, (0.5,), (0.25,))

#: Function that returns the default input of a model config.
DefaultInput = Callable[[dict[str, Any]], InputSpec]

_DEFAULT_INPUTS: dict[str, DefaultInput] = {}


def register_default_input(name: str) -> Callable[[DefaultInput], DefaultInput]:
    """Return a decorator that registers the values for input keys that are null in model ``name``.

    A model without registered values takes :data:`DEFAULT_INPUT`.
    """

    def decorate(function: DefaultInput) -> DefaultInput:
        _DEFAULT_INPUTS[name] = function
        return function

    return decorate


class Backbone(nn.Module):
    """A network from normalised images to logits, with named stages and heads.

    Args:
        net: The network.
        head_names: Module prefixes in ``net`` of the classifier heads, including auxiliary heads.
        stages: Module prefixes in ``net`` of each stage, from the stem to the last block. Other
            modules belong to stage 0.
        conv: Whether the network is convolutional and runs in the channels_last memory format.
        weights_url: URL of the ImageNet weights, or None.
        pretrained_report: One line about the weights if the builder has already loaded them.
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
        # Constants that are stored as parameters, such as fixed position embeddings; unfreezing
        # must not train them.
        self.fixed_parameters = frozenset(
            n for n, p in net.named_parameters() if not p.requires_grad
        )

    @classmethod
    def wrap(cls, net: nn.Module) -> Backbone:
        """Return a backbone for any module: the last layer is the head, its children the stages."""
        heads = [last_layer(net)]
        conv = any(isinstance(module, nn.Conv2d) for module in net.modules())
        return cls(net, heads, named_stages(net, heads), conv=conv)

    @property
    def head(self) -> nn.Module:
        """The classifier; of several heads, the one that is used after training."""
        return self.net.get_submodule(self.head_names[0])

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the input of :attr:`head` for normalised images, float (B, C, S, S)."""
        captured: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
        try:
            self.net(x)
        finally:
            hook.remove()
        return captured[0]

    def stage_index(self, name: str) -> int:
        """Return the stage of a parameter or module of ``net``; ``len(stages)`` for the heads.

        The longest matching prefix is used.
        """
        prefixes = [(prefix, len(self.stages)) for prefix in self.head_names]
        prefixes += [(prefix, i) for i, stage in enumerate(self.stages) for prefix in stage]
        matches = [(len(p), i) for p, i in prefixes if name == p or name.startswith(p + ".")]
        return max(matches)[1] if matches else 0

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Return logits (B, K) of normalised images, float (B, C, S, S).

        In training mode, a network with auxiliary heads returns the logits and a list of auxiliary
        logits (B, K).
        """
        out = self.net(x)
        if isinstance(out, tuple):
            logits, *aux = out
            return logits, [a for a in aux if a is not None]
        return out


@dataclass(frozen=True)
class QuantityWeights:
    """Weights of a trained head for valence, arousal and intensity.

    Attributes:
        names: Q quantities, in the order of the rows.
        weight: float32 (Q, F) for the F inputs of the classifier.
        bias: float32 (Q,).
    """

    names: list[str]
    weight: Tensor
    bias: Tensor


class EmotionNet(nn.Module):
    """Normalisation and backbone: the network that is trained, saved and exported.

    Normalisation is part of the network, so it is the same in training, export and live use.

    Attributes:
        quantities: Weights of the head of a checkpoint that learned quantities; they are not part
            of the state_dict. :func:`emotion_lab.models.quantities_head.join` adds its outputs.
    """

    mean: Tensor
    std: Tensor
    quantities: QuantityWeights | None = None

    def __init__(self, backbone: Backbone, spec: InputSpec) -> None:
        super().__init__()
        self.backbone = backbone
        self.spec = spec
        #: One line about the source of the weights.
        self.weights_report = "random weights"
        # Not persistent: the values are part of the config, and all keys of the state_dict start
        # with "backbone.".
        shape = (1, spec.channels, 1, 1)
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).reshape(shape), persistent=False)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classify images, uint8 or float (B, C, S, S), values 0..255, RGB or grey as in the spec.

        Returns:
            As :meth:`Backbone.forward`.

        Raises:
            ValueError: If the shape is not (B, spec.channels, S, S).
        """
        return self.backbone(self._normalize(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the input of the classifier; the arguments are those of :meth:`forward`."""
        return self.backbone.forward_features(self._normalize(images))

    def _normalize(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != self.spec.channels:
            raise ValueError(
                f"expected images (B, {self.spec.channels}, S, S), got {tuple(images.shape)}"
            )
        x = images.to(self.mean.dtype) / 255.0
        return (x - self.mean) / self.std


def _per_channel(key: str, value: Any, channels: int) -> tuple[float, ...]:
    """Return a mean or std with one value for each channel; a single value is repeated."""
    values = list(value) if isinstance(value, Sequence) else [value]
    if len(values) == 1:
        values = values * channels
    if len(values) != channels:
        raise UserError(
            f"model.{key} has {len(values)} values but model.channels is {channels}. "
            f"Give {channels}, or one for all: model.{key}=[0.5]."
        )
    return tuple(float(v) for v in values)


def input_spec(cfg: dict[str, Any]) -> InputSpec:
    """Return the input of a model config without building the model.

    Keys that are null get the default of the family: for timm the pretrained configuration of
    the backbone, for torchvision 224 pixels, RGB, ImageNet mean and std, for a model that
    registers none :data:`DEFAULT_INPUT`. With ``channels: 1`` the mean and std of the family are
    averaged over RGB.
    """
    MODELS.get(cfg["name"])
    schema.check_group("model", cfg)
    values: dict[str, Any] = {k: cfg.get(k) for k in ("image_size", "channels", "mean", "std")}
    if None in values.values():
        family = _DEFAULT_INPUTS.get(cfg["name"], lambda _: DEFAULT_INPUT)
        default = asdict(family(cfg))
        if values["channels"] == 1:
            for key in ("mean", "std"):
                default[key] = (sum(default[key]) / len(default[key]),)
        values = {k: default[k] if value is None else value for k, value in values.items()}
    size, channels = int(values["image_size"]), int(values["channels"])
    mean = _per_channel("mean", values["mean"], channels)
    std = _per_channel("std", values["std"], channels)
    return InputSpec(size, channels, mean, std)


def check_patches(image_size: int, patch: int) -> None:
    """Refuse an image size that is not a multiple of the patch size, both in pixels."""
    if image_size % patch:
        below = max(image_size // patch, -(-MIN_IMAGE_SIZE // patch)) * patch
        above = (image_size // patch + 1) * patch
        near = f"{below} or {above}" if below < above else f"{above}"
        raise UserError(
            f"model.image_size={image_size} is not a multiple of the patch size {patch}. "
            f"Set model.image_size={near}."
        )


def check_output(module: Any, cfg: dict[str, Any], num_classes: int) -> None:
    """Refuse a network that does not take the image size or does not return logits (1, K)."""
    name, builder = cfg["name"], MODELS.get(cfg["name"])
    if not isinstance(module, nn.Module) or next(module.parameters(), None) is None:
        raise UserError(
            f"{source(builder)}: model '{name}' returns {type(module).__name__}, expected a "
            "torch.nn.Module with parameters."
        )
    size, channels = cfg["image_size"], cfg["channels"]
    module.eval()
    try:
        with torch.no_grad():
            logits = module(torch.zeros(1, channels, size, size))
    except Exception as error:  # networks raise arbitrary exceptions
        place = plugins.place(error, builder.__module__)
        raise image_size_error(cfg.get("backbone", name), size, error, place) from error
    finally:
        module.train()
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (1, num_classes):
        raise UserError(
            f"{source(builder)}: model '{name}' returns {shape} for images "
            f"(1, {channels}, {size}, {size}), expected logits (1, {num_classes})."
        )


def image_size_error(name: str, size: int, error: Exception, place: str | None = None) -> UserError:
    """Return the error for an image size that a network does not accept; ``place`` is file:line."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
    where = f" ({place})" if place else ""
    return UserError(
        f"{name} does not take images of {size}x{size}: {reason}{where}. "
        "Set model.image_size=<pixels>."
    )


def build_model(
    cfg: dict[str, Any], num_classes: int, classes: Sequence[str] | None = None
) -> tuple[EmotionNet, InputSpec]:
    """Build a network and load its weights.

    ``model.weights`` (a file) has priority over ``model.pretrained`` (published ImageNet
    weights). The source of the weights is logged and stored in ``EmotionNet.weights_report``.
    ``classes`` are the class names, for the classifier in ``model.weights``.
    """
    spec = input_spec(cfg)
    cfg = {**cfg, **asdict(spec)}
    module = MODELS.build(cfg["name"], cfg, num_classes)
    check_output(module, cfg, num_classes)
    backbone = module if isinstance(module, Backbone) else Backbone.wrap(module)
    net = EmotionNet(backbone, spec)
    if cfg.get("weights"):
        net.weights_report = load_local(backbone, cfg["weights"], classes)
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
