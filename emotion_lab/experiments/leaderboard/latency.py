"""Latency of each distinct network for one image: eager PyTorch, float32, on the CPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.progress import track
from emotion_lab.experiments.leaderboard.grouping import Configuration

FORWARDS = 100
WARM_UP = 10
#: Time limit of one network, and the minimum number of forwards on a slow or busy machine.
MAX_SECONDS, MIN_FORWARDS = 20, 5
#: Keys of ``model`` that affect the training, not the architecture.
_TRAINING = (
    *("pretrained", "weights", "freeze", "unfreeze_last", "unfreeze_at_epoch"),
    *("layer_decay", "dropout", "compile"),
)


def checkpoints(configurations: Sequence[Configuration]) -> list[Path]:
    """Return ``best.ckpt`` of the first run of each configuration."""
    files = [group.runs[0].folder / "checkpoints" / "best.ckpt" for group in configurations]
    for file in files:
        if not file.is_file():
            raise UserError(f"latency=true needs the checkpoints, but {file} is missing.")
    return files


def architecture_key(configuration: Configuration) -> str:
    """Return a key that is equal for configurations with the same architecture."""
    run = configuration.runs[0]
    model = {key: value for key, value in run.config["model"].items() if key not in _TRAINING}
    return json.dumps([model, len(run.metrics["val"].get("classes", []))], sort_keys=True)


def measure_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Measure the latency of the network of a checkpoint with batches of one image.

    Returns:
        ``median_ms``, ``p25_ms``, ``p75_ms``, and ``forwards``: :data:`FORWARDS`, or fewer if they
        take longer than :data:`MAX_SECONDS`.
    """
    import torch

    from emotion_lab.models.load import restore

    net, _ = restore(checkpoint)
    shape = (1, net.spec.channels, net.spec.image_size, net.spec.image_size)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    times: list[float] = []
    end = time.perf_counter() + MAX_SECONDS
    with torch.inference_mode():
        for i in range(WARM_UP + FORWARDS):
            start_time = time.perf_counter()
            net(image)
            if i >= WARM_UP:
                times.append((time.perf_counter() - start_time) * 1000)
            if len(times) >= MIN_FORWARDS and time.perf_counter() > end:
                break
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75))
    values = {"median_ms": median, "p25_ms": low, "p75_ms": high}
    rounded = {key: round(float(value), 4) for key, value in values.items()}
    return {**rounded, "forwards": len(times)}


def measure(configurations: Sequence[Configuration]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure each distinct network once.

    Returns:
        The conditions, and the latency of each configuration; see :func:`measure_checkpoint`.
    """
    from emotion_lab.core.environment import hardware, versions

    # A high load makes all values too high; not every system reports it.
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    by_network: dict[str, dict[str, Any]] = {}
    latencies = []
    pairs = list(zip(configurations, checkpoints(configurations), strict=True))
    for configuration, file in track(pairs, "measuring latency"):
        key = architecture_key(configuration)
        if key not in by_network:
            by_network[key] = measure_checkpoint(file)
        latencies.append(by_network[key])
    machine = {key: value for key, value in hardware("cpu").items() if key != "accelerator"}
    conditions = {
        "what": "eager PyTorch, float32, CPU, one image at a time, network only",
        "forwards": min(latency["forwards"] for latency in by_network.values()),
        "warm_up": WARM_UP,
        "networks": len(by_network),
        **machine,
        "load": load,
        "torch": versions().get("torch"),
    }
    return conditions, latencies
