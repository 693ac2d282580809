"""Networks of the deployment benchmark: checkpoints, or architectures with random weights."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emotion_lab.config import compose
from emotion_lab.core.io import file_hash
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.inference.base import ModelSource
from emotion_lab.models.base import EmotionNet, build_model
from emotion_lab.models.load import restore
from emotion_lab.models.network import Network
from emotion_lab.models.quantities_head import join


@dataclass(frozen=True)
class InMemoryModel(ModelSource):
    """Model source backed by an in-memory network; converted files go to a temporary directory."""

    network: Network | None = None

    def restore(self) -> tuple[Network, dict[str, Any]]:
        """Return a copy, because converters change its memory format, and the card."""
        return join(copy.deepcopy(self.original())), self.card

    def original(self) -> Network:
        """Return the network itself, which must not be changed."""
        assert self.network is not None
        return self.network


@dataclass(frozen=True)
class BenchmarkCandidate:
    """A network to benchmark.

    Attributes:
        name: Name in tables and figures.
        accuracy: Val accuracy of its training run; None if unknown.
        card: Metadata of the checkpoint; None for random weights.
        sha256: Hash of the checkpoint file; empty for random weights.
    """

    name: str
    source: InMemoryModel
    accuracy: float | None = None
    card: dict[str, Any] | None = None
    sha256: str = ""


def calibrate_batchnorm(net: EmotionNet) -> None:
    """Set BatchNorm statistics from random images, so that activations keep their scale.

    With random weights and default statistics, activations shrink layer by layer to denormal
    numbers, which are slow on CPUs.
    """
    spec, generator = net.spec, torch.Generator().manual_seed(0)
    shape = (8, spec.channels, spec.image_size, spec.image_size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(images)
    net.eval()


def random_candidates(names: Sequence[str], folder: Path) -> list[BenchmarkCandidate]:
    """Build networks of the model registry with random weights; ``folder`` is for conversions."""
    candidates = []
    for i, name in enumerate(names):
        torch.manual_seed(0)
        net, spec = build_model(compose.defaults("model", name), len(EMOTIONS))
        calibrate_batchnorm(net)
        card = {
            "classes": list(EMOTIONS),
            "temperature": 1.0,
            "input": {**asdict(spec), "crop_margin": 0.0},
            "config": {"model": {"name": name}, "data": {"name": "none"}},
        }
        source = InMemoryModel(folder / f"{i}.ckpt", uuid.uuid4().hex, spec, 1.0, card, net)
        candidates.append(BenchmarkCandidate(name, source))
    return candidates


def _val_accuracy(checkpoint: Path) -> float | None:
    """Return the val accuracy in ``metrics.json`` of a checkpoint's run, None if missing."""
    in_run = checkpoint.parent.name == "checkpoints"
    run_dir = checkpoint.parent.parent if in_run else checkpoint.parent
    try:
        metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
        return float(metrics["val"]["accuracy"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_candidates(paths: Sequence[str], folder: Path) -> list[BenchmarkCandidate]:
    """Load checkpoints or runs. Equal architectures are named with their run directory."""
    files = [find_checkpoint(path) for path in paths]
    restored = [restore(file) for file in files]
    models = [
        "ensemble" if "members" in card else str(card["config"]["model"]["name"])
        for _, card in restored
    ]
    candidates = []
    for i, (file, (net, card), model) in enumerate(zip(files, restored, models, strict=True)):
        run = file.parent.parent if file.parent.name == "checkpoints" else file
        name = model if models.count(model) == 1 else f"{model} ({run.name})"
        path, temperature = folder / f"{i}.ckpt", float(card["temperature"])
        source = InMemoryModel(path, uuid.uuid4().hex, net.spec, temperature, card, net)
        accuracy = _val_accuracy(file)
        candidates.append(BenchmarkCandidate(name, source, accuracy, card, file_hash(file)))
    return candidates
