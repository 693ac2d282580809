"""Accuracy on corrupted images: nine corruptions at five severities (see ``corruptions``)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from emotion_lab.core.progress import track
from emotion_lab.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.models.network import Network

#: Pixels of a batch, 128 images of 48x48; larger images use smaller batches.
BATCH_PIXELS = 128 * 48**2


def _image_seeds(result: EvaluationResult, seed: int) -> list[tuple[int, ...]]:
    """Return a random seed for each prediction, from the content of its image and ``seed``.

    The position in the split has no influence: a model with fewer classes, or another order of the
    files, is tested on the same images with the same noise.
    """
    part, seeds = result.part, []
    for position in result.predictions.positions.tolist():
        digest = part.store.digest(int(part.indices[position]))
        mixed = hashlib.blake2b(digest, digest_size=16, salt=f"{seed:x}".encode()[-16:]).digest()
        seeds.append(tuple(np.frombuffer(mixed, np.uint32).tolist()))
    return seeds


def choose(labels: np.ndarray, keys: list[tuple[int, ...]], n: int) -> np.ndarray:
    """Choose ``n`` predictions at random, stratified by class (largest remainder method).

    Args:
        labels: int64 (N,).
        keys: N random keys; the smallest of each class are chosen.
        n: Number of predictions.

    Returns:
        int64 (min(n, N),), ascending.
    """
    if n >= len(labels):
        return np.arange(len(labels))
    order = sorted(range(len(labels)), key=lambda i: keys[i])
    members = [[i for i in order if labels[i] == label] for label in np.unique(labels)]
    exact = [n * len(indices) / len(labels) for indices in members]
    counts = [int(value) for value in exact]
    # Equal remainders are ordered by key, so that the class order has no influence.
    remainders = sorted(
        range(len(members)), key=lambda c: (counts[c] - exact[c], keys[members[c][0]])
    )
    for c in remainders[: n - sum(counts)]:
        counts[c] += 1
    chosen = [i for indices, count in zip(members, counts, strict=True) for i in indices[:count]]
    return np.array(sorted(chosen), dtype=np.int64)


@torch.inference_mode()
def _count_correct(net: Network, images: list[np.ndarray], labels: np.ndarray, device: str) -> int:
    """Return the number of correct predictions for resized images (S, S, C)."""
    batch = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2)).to(device)
    memory = torch.channels_last if net.backbone.conv else torch.contiguous_format
    predicted = net(batch.contiguous(memory_format=memory)).float().argmax(1)
    return int((predicted.cpu().numpy() == labels).sum())


def robustness(
    result: EvaluationResult, n: int = 500, device: str = "cpu", seed: int = 0
) -> dict[str, Any]:
    """Score the network on corrupted copies of images of the split.

    Images are corrupted at their original size, then resized to the network input. The choice of
    images and their noise depend only on the images and ``seed``, so that models can be compared.
    There is no test-time augmentation.

    Args:
        result: Unreadable images are not part of it.
        n: Maximum number of images.
        device: ``cpu``, ``cuda`` or ``mps``.
        seed: 0 or more.

    Returns:
        ``n``; ``clean``, the accuracy on the uncorrupted images; and for each corruption its
        accuracies at severities 1 to 5. Accuracies range from 0 to 1.
    """
    if n < 1 or not len(result.labels):
        raise ValueError(f"expected at least one image, got n={n} of {len(result.labels)}")
    seeds, labels, resize = _image_seeds(result, seed), result.labels, result.resize
    chosen = choose(labels, seeds, n)
    net = result.net.to(device).eval()
    clean = 0
    correct = {name: [0] * len(SEVERITIES) for name in CORRUPTIONS}
    size = max(8, BATCH_PIXELS // resize.image_size**2)
    batches = [chosen[i : i + size] for i in range(0, len(chosen), size)]
    for batch in track(batches, "robustness "):
        raw = [result.raw(i) for i in batch]
        clean += _count_correct(net, [resize(image) for image in raw], labels[batch], device)
        for name, counts in correct.items():
            for k, severity in enumerate(SEVERITIES):
                images = [
                    resize(corrupt(image, name, severity, seeds[i]))
                    for i, image in zip(batch, raw, strict=True)
                ]
                counts[k] += _count_correct(net, images, labels[batch], device)
    total = len(chosen)
    return {
        "n": total,
        "clean": clean / total,
        **{name: [count / total for count in counts] for name, counts in correct.items()},
    }
