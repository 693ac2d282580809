"""A certificate for people: one page beside the file it speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.io import atomic_write
from emotion_lab.exporters.verify import DRIFT, FLIPS, LOSS
from emotion_lab.reports import html

_WAYS = {
    "b1": "1 face, 1 thread",
    "b1_threads2": "1 face, 2 threads",
    "b8": "8 faces, 1 thread",
    "b8_threads2": "8 faces, 2 threads",
}


def _points(pair: list[float]) -> str:
    return f"{100 * pair[0]:+.2f} to {100 * pair[1]:+.2f}"


def _checks(entry: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (what, found, allowed), all as text."""
    n, precision = entry["n"], entry["precision"]
    flips = entry["label_flips"]
    allowed = f"{FLIPS[precision]:.1%}" if precision in FLIPS else "reported"
    drift = f"{DRIFT:g}" if precision == "fp32" else "reported"
    loss = f"{-100 * LOSS:g} points" if precision == "int8" else "reported"
    return [
        ("Labels that differ", f"{flips:,} of {n:,} ({flips / n:.2%})", allowed),
        ("Largest drift of a probability", f"{entry['max_drift']:.2g}", drift),
        ("Mean drift", f"{entry['mean_drift']:.2g}", "reported"),
        (
            "Accuracy, points",
            f"{100 * entry['accuracy_change']:+.2f} ({_points(entry['accuracy_change_ci95'])})",
            loss,
        ),
        (
            "Macro F1, points",
            f"{100 * entry['macro_f1_change']:+.2f} ({_points(entry['macro_f1_change_ci95'])})",
            "reported",
        ),
    ]


def picture(face: np.ndarray) -> str:
    """Return a face, RGB uint8 (h, w, 3), as a data URI."""
    _, data = cv2.imencode(".png", cv2.cvtColor(face, cv2.COLOR_RGB2BGR))
    return html.png(data.tobytes())


def write_page(
    path: Path,
    entry: dict[str, Any],
    about: dict[str, Any],
    faces: Sequence[np.ndarray] = (),
) -> None:
    """Write the page of one file.

    Args:
        path: The page.
        entry: Its certificate.
        about: Of the checkpoint and the machine: ``checkpoint``, ``hardware``, ``latency_ms``.
        faces: Those that ``entry["worst"]`` names, in its order.
    """
    whole = "worst" in entry
    worst = [
        {**one, "picture": picture(face)}
        for one, face in zip(entry["worst"] if whole else (), faces, strict=True)
        if one["drift"] > 0
    ]
    page = html.environment("emotion_lab.exporters").get_template("certificate.html")
    text = page.render(
        e=entry,
        about=about,
        checks=_checks(entry) if whole else [],
        worst=worst,
        ways=_WAYS,
    )
    atomic_write(path, text.encode())
