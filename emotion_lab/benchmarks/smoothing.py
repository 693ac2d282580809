"""Time of one step of every smoother: one face in one frame, as ``live`` runs it."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.config import compose
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.models.temporal import StepClassifier
from emotion_lab.temporal import smoother_file
from emotion_lab.temporal.base import TEMPORAL
from emotion_lab.video.smoothing import TrackSmoother, untrained

#: Steps of each smoother in one round, and the first steps of it that are not counted.
STEPS, WARM_UP = 2000, 100
#: Frame rate of the steps.
FPS = 25.0


def _temporal(name: str, folder: Path) -> dict[str, Any]:
    """Return the settings of a temporal model with random weights, whose file is written."""
    import torch

    cfg = compose.defaults("model", name)
    torch.manual_seed(0)
    state = StepClassifier(TEMPORAL.get(name), cfg, len(EMOTIONS)).state_dict()
    meta = {
        "model": name,
        "step_s": cfg["step_s"],
        "temperature": 1.0,
        "classes": list(EMOTIONS),
        "frame": {"ckpt": "", "sha256": ""},
    }
    file = folder / f"{name}.npz"
    smoother_file.write(file, meta, {key: value.numpy() for key, value in state.items()})
    return {**compose.defaults("smoothing", "temporal"), "ckpt": str(file)}


def step_times(cfg: dict[str, Any], probabilities: np.ndarray) -> np.ndarray:
    """Return the milliseconds of each step of a new track, float64 (N,).

    Args:
        cfg: ``conf/smoothing/<name>.yaml`` as a dict.
        probabilities: float32 (N, K), one row for each frame.
    """
    smoother = TrackSmoother(cfg, probabilities.shape[1])
    times = np.empty(len(probabilities))
    for i, row in enumerate(probabilities):
        begin = time.perf_counter_ns()
        smoother.update(row, i / FPS)
        times[i] = time.perf_counter_ns() - begin
    return times / 1e6


def bench(cfg: dict[str, Any]) -> dict[str, Any]:
    """Time every smoother and temporal model, one after the other in each round.

    A step is the smoother and the choice of the displayed label. Temporal models have random
    weights: the time does not depend on them.

    Args:
        cfg: The config of ``bench``; ``rounds`` and ``seed`` are used.

    Returns:
        Builtins: ``load_average`` (of one minute, before; None if unknown), ``classes``, ``fps``,
        and ``steps``: name -> ``n`` and milliseconds of one step, ``median_ms``, ``p95_ms``,
        ``p99_ms``, and ``median_ms_by_round``.
    """
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rng = np.random.default_rng(cfg["seed"])
    probabilities = rng.dirichlet(np.ones(len(EMOTIONS)), STEPS + WARM_UP).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        smoothers = {name: compose.defaults("smoothing", name) for name in untrained()}
        kinds = TEMPORAL.names()
        smoothers |= {f"temporal, {name}": _temporal(name, Path(folder)) for name in kinds}
        times: dict[str, list[np.ndarray]] = {name: [] for name in smoothers}
        for _ in range(cfg["rounds"]):
            for name, smoothing in smoothers.items():
                times[name].append(step_times(smoothing, probabilities)[WARM_UP:])
    return {
        "load_average": load_average,
        "classes": len(EMOTIONS),
        "fps": FPS,
        "steps": {name: _summary(rounds) for name, rounds in times.items()},
    }


def _summary(rounds: list[np.ndarray]) -> dict[str, Any]:
    """Return number, median and percentiles of the times of all rounds, in milliseconds."""
    values = np.concatenate(rounds)
    median, p95, p99 = (round(float(value), 5) for value in np.percentile(values, [50, 95, 99]))
    return {
        "n": len(values),
        "median_ms": median,
        "p95_ms": p95,
        "p99_ms": p99,
        "median_ms_by_round": [round(float(np.median(one)), 5) for one in rounds],
    }
