"""Explanation maps: which pixels raise the logit of a class, computed with captum.

Convolutional networks use Grad-CAM (Selvaraju et al. 2017). At 48 pixels, most networks end in 3x3
or 2x2 maps, which are too coarse: the last stage with a map of at least 5x5 is used instead.
Gradients are multiplied element by element, not averaged over the map first (HiResCAM, Draelos and
Carin 2020). After the last stage of a network with global average pooling both are equal; before
it, only this one shows the locations that were used. Measured on a senet trained on FER2013 (6x6
map, 224 val images): covering the top 10 % of the pixels lowers the class probability by 0.30,
against 0.26 with averaging and 0.05 for random pixels.

Other networks, such as vision transformers, use integrated gradients (Sundararajan et al. 2017)
from a grey image. The attributions are blurred and negative values are set to 0. In a small
transformer trained to find a patch, plain and smoothed gradients did not locate the patch;
integrated gradients did in 99 of 100 images.

A map explains the logit of this network. It does not explain why a person looks sad.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.core.progress import track
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.network import Network

#: Minimum height and width of the feature map that Grad-CAM uses.
MIN_MAP = 5
#: Pixels of a batch, two images of 224x224: gradients keep all feature maps in memory.
BATCH_PIXELS = 2 * 224**2
#: Steps of integrated gradients; on small transformers 8 and 64 steps give the same maps.
STEPS = 8
#: Standard deviation of the blur of integrated gradients, as a fraction of the image side.
BLUR = 1 / 16
#: Minimum side of an overlay in pixels; smaller images are enlarged.
OVERLAY_SIDE = 144


def _stage(net: EmotionNet) -> tuple[int, str, int] | None:
    """Find the last stage with a feature map of at least 5x5, else the last of the largest map.

    Returns:
        (index of the stage, name of its last module in the backbone, side of its map); None if
        the last stage returns tokens instead of a map (B, C, h, w).
    """
    if not net.backbone.conv:
        return None
    maps: list[tuple[int, str, int]] = []
    hooks = []
    for number, names in enumerate(net.backbone.stages):
        for name in names:

            def hook(_: nn.Module, __: object, out: object, number=number, name=name) -> None:
                # Maps of square images are square; otherwise the last axis is the channels.
                if isinstance(out, Tensor) and out.ndim == 4 and out.shape[2] == out.shape[3]:
                    maps.append((number, name, out.shape[3]))

            hooks.append(net.backbone.net.get_submodule(name).register_forward_hook(hook))
    size = net.spec.image_size
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, net.spec.channels, size, size, device=net.mean.device))
    finally:
        for handle in hooks:
            handle.remove()
    largest = max((side for *_, side in maps), default=0)
    if largest < 2 or maps[-1][0] != len(net.backbone.stages) - 1:
        return None
    enough = min(MIN_MAP, largest)
    return [entry for entry in maps if entry[2] >= enough][-1]


def method_name(net: EmotionNet) -> str:
    """Return the method that :func:`explain` uses for ``net``; switches ``net`` to eval mode."""
    stage = _stage(net)
    if stage is None:
        return f"integrated gradients, {STEPS} steps, smoothed"
    number, _, side = stage
    count = len(net.backbone.stages)
    position = "last stage" if number == count - 1 else f"stage {number + 1} of {count}"
    return f"Grad-CAM, element by element, {position}, {side}x{side} map"


def _as_tensor(images: np.ndarray | Tensor) -> Tensor:
    """Return images as float32 (B, C, S, S), values 0..255."""
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return images.detach().float()


def _grad_cam(net: EmotionNet, layer: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    from captum.attr import LayerGradientXActivation

    heat = LayerGradientXActivation(net, layer).attribute(x, targets)
    heat = heat.sum(1, keepdim=True).clamp_min(0)
    return F.interpolate(heat, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _integrated_gradients(net: EmotionNet, x: Tensor, targets: Tensor) -> Tensor:
    from captum.attr import IntegratedGradients

    grey = (net.mean * 255.0).expand_as(x)
    heat = IntegratedGradients(net).attribute(
        x, grey, targets, n_steps=STEPS, internal_batch_size=max(len(x), 1)
    )
    sigma = x.shape[3] * BLUR
    maps = heat.detach().sum(1).float().cpu().numpy()
    blurred = np.stack([cv2.GaussianBlur(values, (0, 0), sigma) for values in maps])
    return torch.from_numpy(blurred).clamp_min(0)


def explain(
    net: EmotionNet, images: np.ndarray | Tensor, targets: np.ndarray | Sequence[int], device: str
) -> np.ndarray:
    """Compute the explanation map of a class for each image; see :func:`method_name`.

    Args:
        net: Switched to eval mode, otherwise unchanged.
        images: uint8 (B, S, S, C) as an array, or uint8 or float (B, C, S, S) as a tensor, values
            0..255.
        targets: int64 (B,), the class to explain in each image.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        float32 (B, S, S), 0..1, each map scaled to its own maximum; all zero if no pixel raises
        the logit of the class.
    """
    net.eval()
    x_all, y_all = _as_tensor(images), torch.as_tensor(np.asarray(targets), dtype=torch.int64)
    if len(x_all) != len(y_all):
        raise ValueError(f"expected {len(x_all)} targets, got {len(y_all)}")
    size = x_all.shape[3]
    if not len(x_all):
        return np.zeros((0, size, size), np.float32)
    stage = _stage(net)
    # A copy, so that no hook, flag or gradient stays in the network of the caller. After predict()
    # a network holds inference tensors, which autograd refuses; a deep copy does not.
    work = copy.deepcopy(net).to(device).requires_grad_(False)
    result = np.empty((len(x_all), size, size), np.float32)
    batch = max(1, BATCH_PIXELS // size**2)
    parts = [slice(start, start + batch) for start in range(0, len(x_all), batch)]
    for part in track(parts, "explanations "):
        x, y = x_all[part].to(device).requires_grad_(), y_all[part].to(device)
        if stage is None:
            heat = _integrated_gradients(work, x, y)
        else:
            heat = _grad_cam(work, work.backbone.net.get_submodule(stage[1]), x, y)
        result[part] = heat.detach().float().cpu().numpy()
    maximum = result.max(axis=(1, 2), keepdims=True)
    # Interpolated zeros can have a rounding error, which must not be scaled up to 1.
    nonzero = maximum > np.finfo(np.float32).tiny
    return np.divide(result, maximum, out=np.zeros_like(result), where=nonzero)


def explain_network(
    net: Network, images: np.ndarray, targets: np.ndarray, device: str
) -> tuple[np.ndarray, str]:
    """Compute explanation maps of a single network, or the weighted mean over an ensemble.

    Args:
        net: Switched to eval mode, otherwise unchanged.
        images: uint8 (B, S, S, C).
        targets: int64 (B,), the class to explain in each image.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        The maps, float32 (B, S, S), and the name of the method.
    """
    if isinstance(net, EmotionNet):
        return explain(net, images, targets, device), method_name(net)
    assert isinstance(net, Ensemble)
    members = [member for member in net.members if isinstance(member, EmotionNet)]
    maps = [
        explain(member, images, np.asarray(order)[targets], device)
        for member, order in zip(members, net.class_orders, strict=True)
    ]
    mean = np.average(maps, axis=0, weights=net.weights.tolist())
    return mean, f"{method_name(members[0])}, mean of the members by their weight"


#: Violet to orange part of inferno: perceptually uniform, and without its pale end, which is
#: invisible on white.
COLOUR_MAP = ListedColormap(matplotlib.colormaps["inferno"](np.linspace(0.25, 0.85, 256)))


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend a heat map over an image; high values cover more of the image.

    The image is converted to grey.

    Args:
        image: uint8 (S, S, C), C = 1 (grey) or 3 (RGB).
        heat: float32 (S, S), 0..1.

    Returns:
        uint8 RGB (S', S', 3), S' the smallest multiple of S that is at least 144.
    """
    size = image.shape[0]
    side = size * -(-OVERLAY_SIDE // size)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[:, :, 0]
    background = cv2.resize(grey, (side, side), interpolation=cv2.INTER_CUBIC)[:, :, None]
    enlarged = np.clip(cv2.resize(heat, (side, side), interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = COLOUR_MAP(enlarged)[:, :, :3] * 255
    weight = 0.65 * enlarged[:, :, None]
    return np.rint(background * (1 - weight) + colours * weight).astype(np.uint8)
