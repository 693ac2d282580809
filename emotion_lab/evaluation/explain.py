"""Where a network looked: heat maps over images, drawn by captum.

Convolutional networks get Grad-CAM (Selvaraju et al. 2017), and not always of the last stage: at
48 pixels most networks end in 3x3 or 2x2 maps, which show next to nothing. The last stage whose
map is at least 5x5 is taken. The gradient is multiplied element by element and not averaged over
the map first (HiResCAM, Draelos and Carin 2020): after the last stage of a network that ends in
global average pooling this is the same, before it only this shows the places that were used. On
a senet trained on FER2013 (6x6 map, 224 images of val) covering the hottest tenth of the pixels
took 0.30 off the class's probability, against 0.26 with averaging and 0.05 for random places.

Other networks, vision transformers above all, get integrated gradients (Sundararajan et al. 2017)
from a grey image: what each pixel adds to the logit, blurred, of which the part that speaks for
the class is shown. In a small transformer taught to find a patch, plain and smoothed gradients
did not find it; these did in 99 of 100 images.

A map shows what moved this network's logit. It is no proof of why a person looks sad.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.core.progress import track
from emotion_lab.models.base import EmotionNet

#: Height and width that the map of a stage needs to be worth showing.
MIN_MAP = 5
#: Pixels of a batch, two images of 224x224: gradients need all of a network's maps in memory.
BATCH_PIXELS = 2 * 224**2
#: Steps of integrated gradients; on small transformers 8 gave the maps that 64 did.
STEPS = 8
#: Blur of integrated gradients, as a share of the side: single pixels say little to the eye.
BLUR = 1 / 16
#: An overlay is enlarged to at least this many pixels.
OVERLAY_SIDE = 144


def _stage(net: EmotionNet) -> tuple[int, str, int] | None:
    """Find the stage to draw from: the last whose map is at least 5x5.

    Where there is no such stage, the last of those with the largest map.

    Returns:
        Its number, the name of its last module in the backbone and the side of its map; None
        where the last stage gives no map (B, C, h, w) but tokens.
    """
    if not net.backbone.conv:
        return None
    found: list[tuple[int, str, int]] = []
    hooks = []
    for number, names in enumerate(net.backbone.stages):
        for name in names:

            def look(_: nn.Module, __: object, out: object, number=number, name=name) -> None:
                # Square images make square maps; a last axis of another length is the channels.
                if isinstance(out, Tensor) and out.ndim == 4 and out.shape[2] == out.shape[3]:
                    found.append((number, name, out.shape[3]))

            hooks.append(net.backbone.net.get_submodule(name).register_forward_hook(look))
    size = net.spec.image_size
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, net.spec.channels, size, size, device=net.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    largest = max((side for *_, side in found), default=0)
    if largest < 2 or found[-1][0] != len(net.backbone.stages) - 1:
        return None
    enough = min(MIN_MAP, largest)
    return [entry for entry in found if entry[2] >= enough][-1]


def method_name(net: EmotionNet) -> str:
    """Return how :func:`explain` draws the maps of ``net``, for a caption.

    ``net`` is left in eval mode.
    """
    stage = _stage(net)
    if stage is None:
        return f"integrated gradients, {STEPS} steps, smoothed"
    number, _, side = stage
    count = len(net.backbone.stages)
    place = "last stage" if number == count - 1 else f"stage {number + 1} of {count}"
    return f"Grad-CAM, element by element, {place}, {side}x{side} map"


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
    """Draw what speaks for a class in each image; the method is :func:`method_name`.

    Args:
        net: Left as it is, but in eval mode; the work is done on a copy.
        images: uint8 (B, S, S, C) as an array, or uint8 or float (B, C, S, S) as a tensor, values
            0..255.
        targets: int64 (B,), the class to explain in each image.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        float32 (B, S, S), 0..1, each map scaled to its own maximum; all zero where nothing in the
        image speaks for the class.

    Raises:
        ValueError: If there is not one target for each image.
    """
    net.eval()
    x_all, wanted = _as_tensor(images), torch.as_tensor(np.asarray(targets), dtype=torch.int64)
    if len(x_all) != len(wanted):
        raise ValueError(f"expected {len(x_all)} targets, got {len(wanted)}")
    size = x_all.shape[3]
    if not len(x_all):
        return np.zeros((0, size, size), np.float32)
    stage = _stage(net)
    # A copy: no hook, flag or gradient can be left behind in the caller's network. And a network
    # that went through predict() holds inference tensors, which autograd refuses; copies are none.
    work = copy.deepcopy(net).to(device).requires_grad_(False)
    result = np.empty((len(x_all), size, size), np.float32)
    batch = max(1, BATCH_PIXELS // size**2)
    parts = [slice(start, start + batch) for start in range(0, len(x_all), batch)]
    for part in track(parts, "explanations "):
        x, y = x_all[part].to(device).requires_grad_(), wanted[part].to(device)
        if stage is None:
            heat = _integrated_gradients(work, x, y)
        else:
            heat = _grad_cam(work, work.backbone.net.get_submodule(stage[1]), x, y)
        result[part] = heat.detach().float().cpu().numpy()
    top = result.max(axis=(1, 2), keepdims=True)
    # Interpolation of zeros can leave a rounding error, which must not be blown up to 1.
    return np.divide(result, top, out=np.zeros_like(result), where=top > np.finfo(np.float32).tiny)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map over an image, the hotter the less of the image is seen through it.

    The colours are matplotlib's inferno, perceptually uniform and told apart by brightness alone,
    from violet to orange: its pale end would be lost on white. The image below is grey, so that
    every colour is the map's.

    Args:
        image: uint8 (S, S, C), C = 1 (grey) or 3 (RGB).
        heat: float32 (S, S), 0..1.

    Returns:
        uint8 RGB (S', S', 3), S' the smallest multiple of S that is at least 144.
    """
    size = image.shape[0]
    side = size * -(-OVERLAY_SIDE // size)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[:, :, 0]
    below = cv2.resize(grey, (side, side), interpolation=cv2.INTER_CUBIC)[:, :, None]
    warm = np.clip(cv2.resize(heat, (side, side), interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = matplotlib.colormaps["inferno"](0.25 + 0.6 * warm)[:, :, :3] * 255
    weight = 0.65 * warm[:, :, None]
    return np.rint(below * (1 - weight) + colours * weight).astype(np.uint8)
