"""The parity certificate: the same images through checkpoint and file, and what differs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from emotion_lab.core.timing import in_turn
from emotion_lab.data.transforms import Resize
from emotion_lab.evaluation.statistics import paired
from emotion_lab.exporters.writer import size_mb
from emotion_lab.inference.converted_model import reference
from emotion_lab.inference.loader import load
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.ensemble import Ensemble

#: Images that a certificate needs to be worth its name.
ENOUGH = 1000
#: Faces that go through a network at once.
AT_ONCE = 64
#: What is timed: faces in a call, threads.
WAYS = {"b1": (1, 1), "b8": (8, 1), "b1_threads2": (1, 2), "b8_threads2": (8, 2)}
#: Calls of one way are repeated for so long in each round.
ROUND_S = 0.06
#: Largest share of labels that may differ, and largest difference of a probability, by precision.
FLIPS = {"fp32": 0.0, "fp16": 0.003, "bf16": 0.003}
DRIFT = 1e-4
#: What int8 may lose of the accuracy, and how much faster than fp32 it has to be to be worth it.
LOSS = 0.005
FASTER = 1.05
#: Images that are named where they differ most.
WORST = 8


@dataclass
class ReferencePredictions:
    """What the checkpoint says of the images.

    Attributes:
        faces: As they were read, RGB, uint8 (h, w, 3) each.
        labels: True classes, int64 (N,).
        names: Of the images.
        classes: Class names in label order.
        probabilities: float64 (N, K), the calibration temperature applied.
        notes: What there is to know about the images.
    """

    faces: Sequence[np.ndarray]
    labels: np.ndarray
    names: Sequence[str]
    classes: Sequence[str]
    probabilities: np.ndarray
    notes: list[str] = field(default_factory=list)


def eager(net: EmotionNet | Ensemble, temperature: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return PyTorch's way from RGB faces, uint8 (B, H, W, 3), to probabilities (B, K).

    It is that of training and evaluation: OpenCV brings the faces to size.
    """
    run, fit = reference(net), Resize(net.spec.image_size, net.spec.channels)

    def answer(faces: np.ndarray) -> np.ndarray:
        batch = np.stack([fit(face) for face in faces]).transpose(0, 3, 1, 2)
        logits = run(np.ascontiguousarray(batch)).astype(np.float64)
        return softmax(logits / temperature, axis=1)

    return answer


def predict_all(run: Callable[[np.ndarray], np.ndarray], faces: Sequence[np.ndarray]) -> np.ndarray:
    """Return the probabilities of faces of any sizes, (N, K), in few calls."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, face in enumerate(faces):
        shapes.setdefault(face.shape, []).append(i)
    parts, order = [], []
    for places in shapes.values():
        for start in range(0, len(places), AT_ONCE):
            chosen = places[start : start + AT_ONCE]
            parts.append(run(np.stack([faces[i] for i in chosen])))
            order += chosen
    result = np.empty((len(faces), parts[0].shape[1]))
    result[order] = np.concatenate(parts)
    return result


def compare(known: ReferencePredictions, given: np.ndarray) -> dict[str, Any]:
    """Hold an exported file's probabilities against the checkpoint's.

    Args:
        known: The checkpoint's answers.
        given: The file's, (N, K).

    Returns:
        ``n``, ``label_flips``, ``max_drift`` and ``mean_drift`` (of a probability),
        ``accuracy`` and ``checkpoint_accuracy``, ``accuracy_change``, ``macro_f1_change`` and their
        intervals (``..._ci95``), and ``worst``, the images that differ most.
    """
    drift = np.abs(given - known.probabilities)
    ours, theirs = known.probabilities.argmax(1), given.argmax(1)
    differs = paired(known.labels, ours, theirs, len(known.classes))
    flipped = ours != theirs
    worst = np.lexsort((-drift.max(1), ~flipped))[:WORST]
    return {
        "n": len(known.labels),
        "label_flips": int(flipped.sum()),
        "max_drift": float(drift.max()),
        "mean_drift": float(drift.mean()),
        "checkpoint_accuracy": float((ours == known.labels).mean()),
        "accuracy": float((theirs == known.labels).mean()),
        **{
            f"{name}_change{end}": differs[f"{name}{end}"]
            for name in ("accuracy", "macro_f1")
            for end in ("", "_ci95")
        },
        "worst": [
            {
                "image": str(known.names[i]),
                "checkpoint": known.classes[ours[i]],
                "export": known.classes[theirs[i]],
                "drift": float(drift[i].max()),
            }
            for i in worst
        ],
    }


def failures(precision: str, found: dict[str, Any]) -> list[str]:
    """Say what a file falls short of, one line each; an empty list is a pass."""
    said, n = [], found["n"]
    if precision in FLIPS and found["label_flips"] > FLIPS[precision] * n:
        allowed = f"{FLIPS[precision]:.1%}" if FLIPS[precision] else "none"
        said.append(
            f"{found['label_flips']:,} of {n:,} labels differ from the checkpoint's, allowed is "
            f"{allowed}"
        )
    if precision == "fp32" and not found["max_drift"] <= DRIFT:
        said.append(f"a probability differs by {found['max_drift']:.2g}, allowed is {DRIFT:g}")
    if precision == "int8" and not found["accuracy_change"] >= -LOSS:
        said.append(
            f"accuracy changes by {100 * found['accuracy_change']:+.2f} points, allowed is "
            f"{-100 * LOSS:g}"
        )
    if said and found["worst"]:
        one = found["worst"][0]
        said[-1] += (
            f"; most on {one['image']} ({one['checkpoint']} -> {one['export']}, "
            f"by {one['drift']:.2g})"
        )
    return said


def certify(path: Path, format: str, precision: str, known: ReferencePredictions) -> dict[str, Any]:
    """Run the images through an exported file, as a stranger would open it.

    Returns:
        The certificate, all but the latency.
    """
    model = load(path)
    given = predict_all(model.run, known.faces)
    entry: dict[str, Any] = {
        "file": path.name,
        "format": format,
        "precision": precision,
        "run_precision": model.meta["run_precision"],
        "split": "val",
        "size_mb": round(size_mb(format, path), 3),
    }
    if given.shape != known.probabilities.shape or not np.isfinite(given).all():
        said = ["it gives no finite numbers, or not one for each class"]
        return {**entry, "n": len(known.labels), "passed": False, "failures": said}
    found = compare(known, given)
    said = failures(precision, found)
    return {**entry, **found, "passed": not said, "failures": said}


def latency(
    ways: dict[str, Callable[[int], Callable[[np.ndarray], np.ndarray]]],
    face: np.ndarray,
    rounds: int = 5,
) -> dict[str, dict[str, float]]:
    """Time several networks in turn, so that whatever else the machine does hits all of them.

    Args:
        ways: Name -> (threads -> from faces (B, h, w, 3) to probabilities).
        face: What they are given, RGB, uint8 (h, w, 3).
        rounds: Each is timed so often, and once before; the median counts.

    Returns:
        For each name milliseconds a call by the keys of :data:`WAYS`.
    """
    before = torch.get_num_threads()

    def work(run: Callable[[np.ndarray], np.ndarray], count: int, threads: int) -> Callable:
        faces = np.ascontiguousarray(face[None].repeat(count, axis=0))

        def calls() -> int:
            torch.set_num_threads(threads)  # torch knows no threads of one network
            done, begin = 0, time.perf_counter()
            while done < 2 or time.perf_counter() - begin < ROUND_S:
                run(faces)
                done += 1
            return done

        return calls

    started = {(name, t): start(t) for name, start in ways.items() for t in (1, 2)}
    all_ways = {
        f"{name}|{key}": work(started[name, threads], count, threads)
        for key, (count, threads) in WAYS.items()
        for name in ways
    }
    try:
        rates = in_turn(all_ways, rounds, progress=False)
    finally:
        torch.set_num_threads(before)
    found: dict[str, dict[str, float]] = {name: {} for name in ways}
    for key, values in rates.items():
        name, _, way = key.rpartition("|")
        found[name][way] = round(1000 / float(np.median(values)), 4)
    return found


def speedup_verdict(quantized: dict[str, float], plain: dict[str, float]) -> str | None:
    """Say why an int8 file is not worth it here: no way of calling it is faster than fp32."""
    gains = {way: plain[way] / quantized[way] for way in WAYS}
    if max(gains["b1"], gains["b8"]) >= FASTER:
        return None
    return (
        f"not worth it here: {quantized['b1']:.2f} ms a face and {quantized['b8']:.2f} ms for 8, "
        f"fp32 takes {plain['b1']:.2f} and {plain['b8']:.2f}"
    )
