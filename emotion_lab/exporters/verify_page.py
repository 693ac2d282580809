"""HTML page of a parity certificate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.io import atomic_write
from emotion_lab.exporters.verify import MAX_ACCURACY_LOSS, MAX_DRIFT, MAX_FLIPS, MAX_MEAN
from emotion_lab.reports import html

_LATENCY_NAMES = {
    "b1": "1 face, 1 thread",
    "b1_threads2": "1 face, 2 threads",
    "b8": "8 faces, 1 thread",
    "b8_threads2": "8 faces, 2 threads",
}


def _points(certificate: dict[str, Any], metric: str) -> str:
    """Return a change in points with its interval."""
    low, high = certificate[f"{metric}_change_ci95"]
    return f"{100 * certificate[f'{metric}_change']:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def _checks(certificate: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, measured, allowed) of each comparison, as text."""
    n, precision = certificate["n"], certificate["precision"]
    flips = certificate["label_flips"]
    max_flips = f"at most {MAX_FLIPS[precision]:.1%}" if precision in MAX_FLIPS else "any"
    max_drift = f"at most {MAX_DRIFT:g}" if precision == "fp32" else "any"
    max_loss = f"at least {-100 * MAX_ACCURACY_LOSS:g}" if precision == "int8" else "any"
    quantities = []
    for name, drifts in certificate.get("quantities", {}).items():
        shown = f"{drifts['max_drift']:.2g} (mean {drifts['mean_drift']:.2g})"
        allowed = max_drift if precision == "fp32" else f"mean at most {MAX_MEAN[precision]:g}"
        quantities.append((f"Largest difference of the learned {name}", shown, allowed))
    return [
        ("Different labels", f"{flips:,} of {n:,} ({flips / n:.2%})", max_flips),
        ("Largest difference of a probability", f"{certificate['max_drift']:.2g}", max_drift),
        ("Mean difference of a probability", f"{certificate['mean_drift']:.2g}", "any"),
        ("Accuracy, change in points", _points(certificate, "accuracy"), max_loss),
        ("Macro F1, change in points", _points(certificate, "macro_f1"), "any"),
        *quantities,
    ]


def _png(face: np.ndarray) -> str:
    """Return a face, RGB uint8 (h, w, 3), as a data URI."""
    _, data = cv2.imencode(".png", cv2.cvtColor(face, cv2.COLOR_RGB2BGR))
    return html.png(data.tobytes())


def write_page(
    path: Path, certificate: dict[str, Any], about: dict[str, Any], faces: Sequence[np.ndarray] = ()
) -> None:
    """Write the page of one certificate.

    Args:
        path: Target file.
        certificate: Result of :func:`~emotion_lab.exporters.verify.certify`, with latency.
        about: Facts about checkpoint, data and machine, as in ``certificate.json``.
        faces: The images of ``certificate["worst"]``, in its order.
    """
    compared = "worst" in certificate
    worst = [
        {**image, "picture": _png(face)}
        for image, face in zip(certificate["worst"] if compared else (), faces, strict=True)
        if image["drift"] > 0
    ]
    page = html.environment("emotion_lab.exporters").get_template("certificate.html")
    text = page.render(
        e=certificate,
        about=about,
        checks=_checks(certificate) if compared else [],
        worst=worst,
        latency_names=_LATENCY_NAMES,
    )
    atomic_write(path, text.encode("utf-8", "backslashreplace"))
