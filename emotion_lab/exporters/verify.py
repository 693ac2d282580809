"""Parity certificate: the same images through checkpoint and exported file, and the differences."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from emotion_lab.core.timing import time_interleaved
from emotion_lab.data.transforms import Resize
from emotion_lab.evaluation.statistics import paired
from emotion_lab.inference.backends.torch import reference
from emotion_lab.inference.conversion.writer import size_mb
from emotion_lab.inference.loader import Run, load
from emotion_lab.models.network import Network

#: Largest batch of :func:`predict_all`.
BATCH_SIZE = 64
#: Measured latencies: key -> (batch size, threads).
LATENCIES = {"b1": (1, 1), "b8": (8, 1), "b1_threads2": (1, 2), "b8_threads2": (8, 2)}
#: Seconds of one measurement in each round.
ROUND_S = 0.06
#: Largest accepted fraction of different labels by precision, and difference of a probability.
MAX_FLIPS = {"fp32": 0.0, "fp16": 0.003, "bf16": 0.003}
MAX_DRIFT = 1e-4
#: Largest accepted mean difference of a learned quantity in a lower precision than fp32.
MAX_MEAN = {"fp16": 0.02, "bf16": 0.02, "int8": 0.05}
#: Largest accepted loss of accuracy of int8, and smallest useful speedup over fp32.
MAX_ACCURACY_LOSS = 0.005
MIN_SPEEDUP = 1.05
#: Number of listed images with the largest differences.
NUM_WORST = 8


@dataclass
class ReferencePredictions:
    """Predictions of the checkpoint.

    Attributes:
        faces: Decoded images, RGB, uint8 (h, w, 3) each.
        labels: True classes, int64 (N,).
        classes: Class names in label order.
        probabilities: float64 (N, K), the calibration temperature applied.
        quantities: Learned quantity -> values, float64 (N,).
    """

    faces: Sequence[np.ndarray]
    labels: np.ndarray
    names: Sequence[str]
    classes: Sequence[str]
    probabilities: np.ndarray
    quantities: dict[str, np.ndarray] = field(default_factory=dict)


def eager(net: Network, temperature: float, num_quantities: int = 0) -> Run:
    """Return eager PyTorch from RGB faces, uint8 (B, H, W, 3), to probabilities (B, K).

    OpenCV resizes the faces, as in training and evaluation. The learned quantities that ``net``
    returns follow the probabilities.
    """
    run, resize = reference(net), Resize(net.spec.image_size, net.spec.channels)

    def classify(faces: np.ndarray) -> np.ndarray:
        batch = np.stack([resize(face) for face in faces]).transpose(0, 3, 1, 2)
        outputs = run(np.ascontiguousarray(batch)).astype(np.float64)
        logits, quantities = np.split(outputs, [outputs.shape[1] - num_quantities], axis=1)
        return np.concatenate([softmax(logits / temperature, axis=1), quantities], axis=1)

    return classify


def predict_all(run: Run, faces: Sequence[np.ndarray]) -> np.ndarray:
    """Return the outputs of faces of any sizes, (N, ...); batches contain faces of one size."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, face in enumerate(faces):
        shapes.setdefault(face.shape, []).append(i)
    outputs, order = [], []
    for positions in shapes.values():
        for start in range(0, len(positions), BATCH_SIZE):
            batch = positions[start : start + BATCH_SIZE]
            outputs.append(run(np.stack([faces[i] for i in batch])))
            order += batch
    probabilities = np.empty((len(faces), outputs[0].shape[1]))
    probabilities[order] = np.concatenate(outputs)
    return probabilities


def compare(reference: ReferencePredictions, probabilities: np.ndarray) -> dict[str, Any]:
    """Compare an exported file's probabilities, (N, K), with the checkpoint's.

    Returns:
        ``n``, ``label_flips``, ``max_drift`` and ``mean_drift`` (of a probability),
        ``accuracy`` and ``checkpoint_accuracy``, ``accuracy_change``, ``macro_f1_change`` and their
        intervals (``..._ci95``), and ``worst``, the images with the largest differences.
    """
    drift = np.abs(probabilities - reference.probabilities)
    expected, predicted = reference.probabilities.argmax(1), probabilities.argmax(1)
    changes = paired(reference.labels, expected, predicted, len(reference.classes))
    flipped = expected != predicted
    worst = np.lexsort((-drift.max(1), ~flipped))[:NUM_WORST]
    return {
        "n": len(reference.labels),
        "label_flips": int(flipped.sum()),
        "max_drift": float(drift.max()),
        "mean_drift": float(drift.mean()),
        "checkpoint_accuracy": float((expected == reference.labels).mean()),
        "accuracy": float((predicted == reference.labels).mean()),
        **{
            f"{name}_change{end}": changes[f"{name}{end}"]
            for name in ("accuracy", "macro_f1")
            for end in ("", "_ci95")
        },
        "worst": [
            {
                "image": str(reference.names[i]),
                "checkpoint": reference.classes[expected[i]],
                "export": reference.classes[predicted[i]],
                "drift": float(drift[i].max()),
            }
            for i in worst
        ],
    }


def compare_quantities(
    reference: ReferencePredictions, values: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return learned quantity -> ``max_drift`` and ``mean_drift`` of its ``values`` (N, Q)."""
    drifts = {
        name: np.abs(values[:, i] - expected)
        for i, (name, expected) in enumerate(reference.quantities.items())
    }
    return {
        name: {"max_drift": float(drift.max()), "mean_drift": float(drift.mean())}
        for name, drift in drifts.items()
    }


def quantity_failures(precision: str, quantities: dict[str, dict[str, float]]) -> list[str]:
    """Return one line for each learned quantity that differs too much."""
    kind, word = ("mean_drift", "the mean value")
    if precision == "fp32":
        kind, word = ("max_drift", "a value")
    allowed = MAX_MEAN.get(precision, MAX_DRIFT)
    return [
        f"{word} of {name} differs by {drifts[kind]:.2g}, allowed is {allowed:g}"
        for name, drifts in quantities.items()
        if not drifts[kind] <= allowed
    ]


def failures(precision: str, comparison: dict[str, Any]) -> list[str]:
    """Return one line for each requirement that is not met; an empty list is a pass."""
    lines, n, flips = [], comparison["n"], comparison["label_flips"]
    if precision in MAX_FLIPS and flips > MAX_FLIPS[precision] * n:
        allowed = f"{MAX_FLIPS[precision]:.1%}" if MAX_FLIPS[precision] else "none"
        lines.append(
            f"{flips:,} of {n:,} labels differ from the checkpoint's, allowed is {allowed}"
        )
    if precision == "fp32" and not comparison["max_drift"] <= MAX_DRIFT:
        lines.append(
            f"a probability differs by {comparison['max_drift']:.2g}, allowed is {MAX_DRIFT:g}"
        )
    if precision == "int8" and not comparison["accuracy_change"] >= -MAX_ACCURACY_LOSS:
        lines.append(
            f"accuracy changes by {100 * comparison['accuracy_change']:+.2f} points, allowed is "
            f"{-100 * MAX_ACCURACY_LOSS:g}"
        )
    if lines and comparison["worst"]:
        worst = comparison["worst"][0]
        lines[-1] += (
            f"; largest difference on {worst['image']} ({worst['checkpoint']} -> "
            f"{worst['export']}, by {worst['drift']:.2g})"
        )
    return lines


def certify(
    path: Path, format: str, precision: str, reference: ReferencePredictions
) -> dict[str, Any]:
    """Evaluate an exported file with the public loader; return its certificate without latency."""
    model = load(path)
    outputs = predict_all(lambda faces: np.concatenate(model.predict(faces), 1), reference.faces)
    k = len(model.classes)
    probabilities, quantities = outputs[:, :k], outputs[:, k:]
    certificate: dict[str, Any] = {
        "file": path.name,
        "format": format,
        "precision": precision,
        "run_precision": model.meta["run_precision"],
        "split": "val",
        "size_mb": round(size_mb(format, path), 3),
    }
    n, expected_k = reference.probabilities.shape
    expected_shape = (n, expected_k + len(reference.quantities))
    if outputs.shape != expected_shape or not np.isfinite(outputs).all():
        lines = [
            f"the output is not finite or has shape {outputs.shape}, expected {expected_shape}"
        ]
        return {**certificate, "n": len(reference.labels), "passed": False, "failures": lines}
    comparison = compare(reference, probabilities)
    lines = failures(precision, comparison)
    if reference.quantities:
        drifts = compare_quantities(reference, quantities)
        lines += quantity_failures(precision, drifts)
        comparison["quantities"] = drifts
    return {**certificate, **comparison, "passed": not lines, "failures": lines}


def _run_twice(run: Run, faces: np.ndarray, threads: int) -> int:
    torch.set_num_threads(threads)  # for the process: torch has no threads per network
    run(faces)
    run(faces)
    return 2


def latency(
    models: Mapping[str, Callable[[int], Run]], face: np.ndarray, rounds: int = 5
) -> dict[str, dict[str, float]]:
    """Time several networks alternately, so that other load on the machine affects all equally.

    Args:
        models: Name -> function of the number of threads that returns the network, from
            faces (B, h, w, 3) to probabilities.
        face: The input, RGB, uint8 (h, w, 3).
        rounds: Number of rounds after one warm-up; the median counts.

    Returns:
        For each name milliseconds per call by the keys of :data:`LATENCIES`.
    """
    torch_threads = torch.get_num_threads()
    runs = {
        (name, threads): open_model(threads)
        for name, open_model in models.items()
        for threads in (1, 2)
    }
    work: dict[str, Callable[[], int]] = {
        f"{name}|{key}": functools.partial(
            _run_twice, runs[name, threads], face[None].repeat(count, axis=0), threads
        )
        for key, (count, threads) in LATENCIES.items()
        for name in models
    }
    try:
        rates = time_interleaved(work, rounds, progress=False, at_least=ROUND_S)
    finally:
        torch.set_num_threads(torch_threads)
    return {
        name: {key: round(1000 / float(np.median(rates[f"{name}|{key}"])), 4) for key in LATENCIES}
        for name in models
    }


def speedup_verdict(quantized: dict[str, float], fp32: dict[str, float]) -> str | None:
    """Return a line if an int8 file is not faster than fp32 on this machine, else None."""
    speedups = {key: fp32[key] / quantized[key] for key in LATENCIES}
    if max(speedups["b1"], speedups["b8"]) >= MIN_SPEEDUP:
        return None
    return (
        f"not worth it here: {quantized['b1']:.2f} ms per face and {quantized['b8']:.2f} ms for 8 "
        f"faces, fp32 takes {fp32['b1']:.2f} and {fp32['b8']:.2f}"
    )
