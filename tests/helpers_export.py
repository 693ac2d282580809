"""Networks, images and reference predictions for the tests of inference and export."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.data.datamodule import EmotionData
from emotion_lab.exporters.verify import ReferencePredictions, eager, predict_all
from emotion_lab.inference.classifier import Classifier, load_classifier
from emotion_lab.inference.conversion.graph import Preprocess
from emotion_lab.models.base import QuantityWeights, build_model
from emotion_lab.training.fit import make_card
from tests.conftest import TINY, composed
from tests.models.test_models import small

NAMES = ["neutral", "zest", "fear", "angry", "happy"]
#: Input size of :func:`write_checkpoint`.
SIZE = 32


def skip_without(*packages: str) -> None:
    """Skip if a package is missing. importorskip would import OpenVINO with its telemetry."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed", allow_module_level=True)


def random_faces(*sizes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Return blurred noise, RGB, with different brightness per channel."""
    generator = np.random.default_rng(seed)
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    return [cv2.blur(image, (5, 5)) // np.uint8([1, 2, 4]) for image in images]


def varied_network(
    name: str, seed: int = 0, quantities: Sequence[str] = (), **overrides: Any
) -> Any:
    """Return a small network, not trained, whose predictions vary by image.

    The values of its head for ``quantities`` vary about 0.3.
    """
    torch.manual_seed(seed)
    net, _ = build_model(small(name, **overrides), len(NAMES))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.normal_(module.weight, 1, 0.3)
    # As after training: BatchNorm statistics of such images, logits of mean 0 and deviation 1.
    images = np.stack(random_faces(*[(48, 48)] * 12, seed=1))
    images = Preprocess(net.spec)(torch.from_numpy(images))
    with torch.no_grad():
        net.train()(images)
        logits = net.eval()(images)
        last = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight /= logits.std(0).mean()
        last.bias -= logits.mean(0)
        last.bias /= logits.std(0).mean()
    if quantities:
        q = len(quantities)
        weight, bias = (x.detach()[:q].clone() / 3 for x in (last.weight, last.bias))
        net.quantities = QuantityWeights(list(quantities), weight, bias + 0.3)
    return net


def card_of(net: Any, name: str = "senet", **changes: Any) -> dict[str, Any]:
    """Return the entries of a card that an export needs."""
    spec = net.spec
    size = {"image_size": spec.image_size, "channels": spec.channels, "crop_margin": 0.1}
    return {
        "classes": NAMES,
        "temperature": 1.7,
        "input": {**size, "mean": list(spec.mean), "std": list(spec.std)},
        "config": {"model": {"name": name}, "data": {"name": "synthetic"}},
        **changes,
    }


def reference_of(net: Any, card: dict[str, Any], images: list[np.ndarray]) -> ReferencePredictions:
    """Return the predictions of PyTorch, which are the labels as well."""
    learned, k = card.get("quantities", []), len(card["classes"])
    outputs = predict_all(eager(net, card["temperature"], len(learned)), images)
    probabilities, names = outputs[:, :k], [f"face {i}" for i in range(len(images))]
    quantities = dict(zip(learned, outputs[:, k:].T, strict=True))
    labels = probabilities.argmax(1)
    return ReferencePredictions(images, labels, names, card["classes"], probabilities, quantities)


def random_reference(n: int = 2000) -> ReferencePredictions:
    """Return random predictions for n images; about 75 % are correct."""
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(5) * 0.3, n)
    labels = np.where(
        generator.random(n) < 0.7, probabilities.argmax(1), generator.integers(0, 5, n)
    )
    names = [f"row {i}" for i in range(n)]
    images = [np.zeros((4, 4, 3), np.uint8)] * n
    return ReferencePredictions(images, labels, names, NAMES, probabilities)


def write_checkpoint(path: Path, channels: int, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint of a network that is not trained and whose predictions vary by image."""
    options = (f"model.image_size={SIZE}", f"model.channels={channels}", "data.crop_margin=0.25")
    cfg = composed(*TINY, *options)
    torch.manual_seed(seed)
    net, spec = build_model(cfg["model"], len(NAMES))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.weight, 1, 0.3)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    torch.nn.init.normal_(net.backbone.net.classifier.weight, 0, 2)
    data = EmotionData(cfg["data"], ("val",))
    card = {**make_card(cfg, data, spec, {}), "classes": NAMES, **changes}
    state = {f"model.{key}": value for key, value in net.state_dict().items()}
    ckpt.write(path, {"state_dict": state, ckpt.CARD: card})
    return path


def open_classifier(path: Path, name: str, **options: Any) -> Classifier:
    """Load a checkpoint with one thread; skip if the backend is not installed."""
    if name == "onnx":
        skip_without("onnxruntime", "onnx", "onnxscript")
    if name == "openvino":
        skip_without("openvino")
        options.setdefault("precision", "fp32")  # its default depends on the CPU
    return load_classifier(path, {"name": name, **options}, threads=1)
