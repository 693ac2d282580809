"""How long each distinct network takes for one image: eager PyTorch, float32, on the CPU."""

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
#: A network on a machine that is too busy for it stops here, with fewer forwards.
SECONDS, FEWEST = 20, 5
#: Keys of ``model`` that change how a network is trained, not what it computes.
_TRAINING = (
    "pretrained",
    "weights",
    "freeze",
    "unfreeze_last",
    "unfreeze_at_epoch",
    "layer_decay",
    "dropout",
    "compile",
)


def checkpoints(groups: Sequence[Configuration]) -> list[Path]:
    """Return ``best.ckpt`` of the first run of each configuration.

    Raises:
        UserError: If one is missing.
    """
    files = [group.runs[0].folder / "checkpoints" / "best.ckpt" for group in groups]
    for file in files:
        if not file.is_file():
            raise UserError(f"latency=true needs the checkpoints, and there is no {file}.")
    return files


def network(group: Configuration) -> str:
    """Return what configurations with the same network have in common."""
    run = group.runs[0]
    model = {key: value for key, value in run.config["model"].items() if key not in _TRAINING}
    return json.dumps([model, len(run.metrics["val"].get("classes", []))], sort_keys=True)


def one_image(checkpoint: Path) -> dict[str, Any]:
    """Time single images through the network of a checkpoint.

    Returns:
        ``median_ms``, ``p25_ms`` and ``p75_ms`` of ``forwards`` forwards: :data:`FORWARDS` of them,
        fewer where those take longer than :data:`SECONDS`.

    Raises:
        UserError: If the checkpoint cannot be read.
    """
    import torch

    from emotion_lab.models.load import restore

    net, _ = restore(checkpoint)
    shape = (1, net.spec.channels, net.spec.image_size, net.spec.image_size)
    image = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    image = image.to(torch.uint8)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    with torch.inference_mode():
        for turn in range(WARM_UP + FORWARDS):
            begin = time.perf_counter()
            net(image)
            if turn >= WARM_UP:
                times.append((time.perf_counter() - begin) * 1000)
            if len(times) >= FEWEST and time.perf_counter() > end:
                break
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75))
    values = {"median_ms": median, "p25_ms": low, "p75_ms": high}
    rounded = {key: round(float(value), 4) for key, value in values.items()}
    return {**rounded, "forwards": len(times)}


def measure(groups: Sequence[Configuration]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure every distinct network once.

    Returns:
        The conditions, and the latency of each configuration as :func:`one_image` gives it.

    Raises:
        UserError: If a checkpoint is missing or cannot be read.
    """
    from emotion_lab.core.environment import hardware, versions

    # On a busy machine every number is too high; not every system tells its load.
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    measured: dict[str, dict[str, Any]] = {}
    found = []
    pairs = list(zip(groups, checkpoints(groups), strict=True))
    for group, file in track(pairs, "measuring latency"):
        key = network(group)
        if key not in measured:
            measured[key] = one_image(file)
        found.append(measured[key])
    machine = {key: value for key, value in hardware("cpu").items() if key != "accelerator"}
    conditions = {
        "what": "eager PyTorch, float32, CPU, one image at a time, network alone",
        "forwards": min(one["forwards"] for one in measured.values()),
        "warm_up": WARM_UP,
        "networks": len(measured),
        **machine,
        "load": load,
        "torch": versions().get("torch"),
    }
    return conditions, found
