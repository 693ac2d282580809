"""Explanation maps: all registered networks, and correct locations."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.evaluation.explain import explain, method_name, overlay
from emotion_lab.evaluation.predict import predict
from emotion_lab.models.base import Backbone, EmotionNet, InputSpec
from tests.models.test_models import NAMES, build


def pictures(net: EmotionNet, count: int = 2) -> np.ndarray:
    """Return images with a bright and a dark patch on noise, uint8 (B, S, S, C)."""
    generator = np.random.default_rng(0)
    size = net.spec.image_size
    shape = (count, size, size, net.spec.channels)
    result = generator.integers(90, 166, shape, dtype=np.uint8)
    result[:, : size // 4, : size // 4] = 250
    result[:, -size // 4 :, -size // 4 :] = 5
    return result


def hooks(net: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in net.modules()
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_network(name: str) -> None:
    """Includes frozen parameters, training mode and a network used by ``predict`` before."""
    net = build(name)
    net.backbone.net.get_submodule(net.backbone.stages[0][0]).requires_grad_(False)
    images = pictures(net)
    flags = [p.requires_grad for p in net.parameters()]
    assert len(set(flags)) == 2
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2))
    predict(net, [type("Batch", (), {"images": batch, "labels": batch, "positions": batch})], "cpu")
    net.train()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    maps = explain(net, images, np.array([0, 1]), "cpu")
    size = net.spec.image_size
    assert maps.shape == (2, size, size) and maps.dtype == np.float32
    assert np.isfinite(maps).all() and maps.min() >= 0
    assert [float(m.max()) for m in maps] in ([1, 1], [1, 0], [0, 1])
    # The layout in memory differs, and with it the last digits on some CPUs.
    np.testing.assert_allclose(explain(net, batch, [0, 1], "cpu"), maps, rtol=0, atol=1e-5)
    assert np.abs(explain(net, images, [2, 3], "cpu") - maps).max() > 0.05
    assert not net.training and hooks(net) == 0
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert method_name(net).startswith("integrated" if name == "vit" else "Grad-CAM")


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("senet", {}, "stage 4 of 5, 6x6 map"),
        ("cnn", {}, "stage 3 of 4, 6x6 map"),
        ("cnn", {"image_size": 64}, "stage 3 of 4, 8x8 map"),
        ("cnn", {"image_size": 96}, "last stage, 6x6 map"),
        ("cnn", {"image_size": 32, "widths": [8]}, "last stage, 16x16 map"),
        ("timm", {"image_size": 160}, "last stage, 5x5 map"),
        ("timm", {"image_size": 32}, "stage 2 of 5, 8x8 map"),
        ("googlenet", {}, "stage 5 of 12, 6x6 map"),
        ("timm", {"backbone": "levit_128s", "image_size": 224}, "integrated gradients"),
        ("torchvision", {"backbone": "swin_t", "image_size": 64}, "integrated gradients"),
    ],
)
def test_the_stage(name: str, overrides: dict[str, Any], words: str) -> None:
    """The last stage with a map of at least 5x5; None for a network that returns tokens."""
    assert words in method_name(build(name, **overrides))


def test_last_stage_equals_captums_grad_cam() -> None:
    net = build("cnn", image_size=96).eval()
    images = pictures(net, 3)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).float()
    layer = net.backbone.net.stages[3]
    heat = LayerGradCam(net, layer).attribute(x, torch.tensor([4, 5, 6]), relu_attributions=True)
    heat = F.interpolate(heat, (96, 96), mode="bilinear")[:, 0].detach().numpy()
    top = heat.max((1, 2), keepdims=True)
    assert (top > 0).any()
    expected = np.where(top > 0, heat / np.where(top > 0, top, 1), 0)
    np.testing.assert_allclose(explain(net, images, [4, 5, 6], "cpu"), expected, atol=1e-5)


def test_integrated_gradients_add_up_to_the_logit() -> None:
    """Checks the sum of the attributions, and the blurred map."""
    net = build("vit").eval()
    images = pictures(net, 1)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).float()
    grey = torch.full_like(x, 127.5)
    parts = IntegratedGradients(net).attribute(x, grey, 3, n_steps=8).detach()
    with torch.no_grad():
        change = float(net(x)[0, 3] - net(grey)[0, 3])
    assert float(parts.sum()) == pytest.approx(change, abs=0.1 * abs(change))
    blurred = cv2.GaussianBlur(parts.sum(1)[0].numpy().astype(np.float32), (0, 0), 4).clip(0)
    heat = explain(net, images, [3], "cpu")[0]
    np.testing.assert_allclose(heat, blurred / blurred.max(), atol=1e-3)


class Corners(nn.Module):
    """Uses brightness only: logit 0 in the top left, logit 1 in the bottom right corner."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 8, 8)
        nn.init.constant_(self.stem.weight, 1 / 64)
        nn.init.zeros_(self.stem.bias)
        self.head = nn.Linear(72, 2, bias=False)
        weight = torch.zeros(2, 2, 6, 6)
        weight[0, :, :2, :2] = weight[1, :, -2:, -2:] = 1
        self.head.weight = nn.Parameter(weight.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).flatten(1))


@pytest.mark.parametrize("conv", [True, False])
def test_maps_highlight_the_used_pixels(conv: bool) -> None:
    backbone = Backbone(Corners(), ["head"], [["stem"]], conv=conv)
    net = EmotionNet(backbone, InputSpec(48, 1, (0.0,), (1.0,))).eval()
    image = np.random.default_rng(0).integers(100, 156, (1, 48, 48, 1), dtype=np.uint8)
    first, second = explain(net, np.repeat(image, 2, axis=0), [0, 1], "cpu")
    # The map is 6x6, or blurred by 3 pixels: some heat lies just outside the 16 pixels.
    assert first[:20, :20].sum() > 0.9 * first.sum() > 0
    assert second[-20:, -20:].sum() > 0.9 * second.sum() > 0
    assert first[:16, :16].mean() > 0.5 and first[24:, 24:].max() < 0.01


def test_trained_transformer_highlights_the_patch() -> None:
    """The maximum of the map lies on a bright or dark patch on noise."""
    torch.manual_seed(0)
    net = build("vit", 2, depth=1, patch_size=8, image_size=32, embed_dim=32, heads=2).train()
    generator = np.random.default_rng(0)

    def draw(count: int) -> tuple[Tensor, Tensor, np.ndarray]:
        x = generator.integers(90, 166, (count, 32, 32, 3)).astype(np.float32)
        labels, places = generator.integers(0, 2, count), generator.integers(0, 24, (count, 2))
        for image, label, (top, left) in zip(x, labels, places, strict=True):
            image[top : top + 8, left : left + 8] = 255 * label
        return torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(labels), places

    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(80):
        x, labels, _ = draw(32)
        loss = F.cross_entropy(net(x), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    x, labels, places = draw(40)
    with torch.no_grad():
        assert (net.eval()(x).argmax(1) == labels).float().mean() > 0.95
    hits = 0
    for heat, (top, left) in zip(explain(net, x, labels, "cpu"), places, strict=True):
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        hits += top <= row < top + 8 and left <= column < left + 8
    assert hits >= 36


def test_zero_map_stays_zero() -> None:
    net = build("cnn")
    nn.init.zeros_(net.backbone.net.classifier.weight)
    assert not explain(net, pictures(net), [0, 1], "cpu").any()


def test_no_images_and_wrong_targets() -> None:
    net = build("cnn")
    assert explain(net, pictures(net)[:0], [], "cpu").shape == (0, 48, 48)
    with pytest.raises(ValueError, match="expected 2 targets, got 1"):
        explain(net, pictures(net), [0], "cpu")


def test_batch_size_has_no_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build("senet")
    images = pictures(net, 5)
    images[:, 10:20, 30:40] = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    expected = explain(net, images, np.arange(5), "cpu")
    monkeypatch.setattr("emotion_lab.evaluation.explain.BATCH_PIXELS", 2 * 48**2)
    np.testing.assert_allclose(explain(net, images, np.arange(5), "cpu"), expected, atol=5e-5)


@pytest.mark.parametrize(("size", "side"), [(48, 144), (64, 192), (144, 144), (224, 224)])
@pytest.mark.parametrize("channels", [1, 3])
def test_overlay(size: int, side: int, channels: int) -> None:
    image = np.full((size, size, channels), 200, np.uint8)
    heat = np.zeros((size, size), np.float32)
    assert np.all(overlay(image, heat) == 200)
    heat[: size // 2] = 1
    before = (image.copy(), heat.copy())
    result = overlay(image, heat)
    assert result.shape == (side, side, 3) and result.dtype == np.uint8
    assert np.all(result[-side // 4 :] == 200)
    hot = result[: side // 4].reshape(-1, 3).astype(int)
    assert np.all(hot == hot[0]) and hot[0, 0] > hot[0, 1] + 30 > hot[0, 2] + 60
    np.testing.assert_array_equal(before[0], image)
    np.testing.assert_array_equal(before[1], heat)


def test_full_size_names() -> None:
    """Method names at the image sizes of conf/."""
    assert "stage 4 of 5, 6x6 map" in method_name(build("senet"))
