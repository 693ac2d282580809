"""Single images worth a look: blank, tiny, unreadable, very dark, bright, flat or harsh."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotion_lab.audits.image_stats import ImageStats

#: Beyond so many interquartile ranges from the quartiles a value is an outlier (Tukey's fences are
#: 1.5; with 2 a set as large as FER2013 lists dozens of images and not hundreds).
FENCE = 2.0
#: A picture that is so many times as long as wide is listed.
ASPECT = 2.0


@dataclass(frozen=True)
class ImageIssue:
    """One image and what is the matter with it.

    Attributes:
        kind: ``constant``, ``almost_constant``, ``tiny``, ``dark``, ``bright``, ``low_contrast``,
            ``high_contrast``, ``narrow``, ``grey_as_rgb``, ``no_face``.
        index: Number of the image.
        detail: The value that led here, in words.
    """

    kind: str
    index: int
    detail: str


def blank(looked: ImageStats, threshold: float) -> np.ndarray:
    """Return the images without a picture, bool (N,): contrast below ``threshold`` grey levels."""
    return looked.readable & (np.nan_to_num(looked.contrast, nan=np.inf) < threshold)


def fences(values: np.ndarray) -> tuple[float, float]:
    """Return the limits beyond which a value is an outlier."""
    if not len(values):
        return -np.inf, np.inf
    low, high = np.percentile(values, [25, 75])
    return low - FENCE * (high - low), high + FENCE * (high - low)


def find(looked: ImageStats, threshold: float, tiny: int) -> list[ImageIssue]:
    """Return all findings that need no detector, kind by kind.

    Args:
        looked: The images.
        threshold: Contrast (standard deviation of the grey levels) of a blank image.
        tiny: Pixels; an image with a shorter side than this is listed.
    """
    good, flat = looked.readable, blank(looked, threshold)
    brightness, contrast = looked.brightness, looked.contrast
    dark, bright = fences(brightness[good & ~flat])
    low, harsh = fences(contrast[good & ~flat])
    shorter = np.minimum(looked.width, looked.height)
    longer = np.maximum(looked.width, looked.height)
    ratio = longer / np.maximum(shorter, 1)
    shades = np.nan_to_num(contrast, nan=-1)
    with np.errstate(invalid="ignore"):
        kinds: list[tuple[str, np.ndarray, np.ndarray, str]] = [
            ("constant", flat & (contrast == 0), shades, "one grey level"),
            ("almost_constant", flat & (contrast > 0), shades, "contrast {contrast:.1f}"),
            ("tiny", good & (shorter < tiny), shorter, "{width} x {height} pixels"),
            ("narrow", good & (ratio >= ASPECT), -ratio, "{width} x {height} pixels"),
            ("dark", good & ~flat & (brightness < dark), brightness, "brightness {light:.0f}"),
            ("bright", good & ~flat & (brightness > bright), -brightness, "brightness {light:.0f}"),
            ("low_contrast", good & ~flat & (contrast < low), contrast, "contrast {contrast:.1f}"),
            (
                "high_contrast",
                good & ~flat & (contrast > harsh),
                -contrast,
                "contrast {contrast:.1f}",
            ),
            ("grey_as_rgb", looked.grey, np.arange(len(looked)), "three equal channels"),
        ]
    found = []
    for kind, chosen, order, text in kinds:
        numbers = np.flatnonzero(chosen)
        for i in numbers[np.argsort(order[numbers], kind="stable")].tolist():
            detail = text.format(
                contrast=contrast[i],
                light=brightness[i],
                width=looked.width[i],
                height=looked.height[i],
            )
            found.append(ImageIssue(kind, i, detail))
    return found


def spread(looked: ImageStats) -> dict[str, Any]:
    """Return sizes, modes, brightness and contrast of the readable images, as builtins.

    ``sizes`` and ``modes`` are counts, the most frequent first (at most 20 sizes);
    ``brightness`` and ``contrast`` hold ``p0`` to ``p100`` in grey levels (0..255), for all splits
    together (``all``) and for each.
    """
    good = looked.readable
    sizes = Counter(
        f"{w}x{h}" for w, h in zip(looked.width[good], looked.height[good], strict=True)
    )
    modes = Counter(
        "grey" if c == 1 else "grey stored as RGB" if g else "RGB"
        for c, g in zip(looked.channels[good], looked.grey[good], strict=True)
    )
    result: dict[str, Any] = {
        "sizes": dict(sizes.most_common(20)),
        "different_sizes": len(sizes),
        "modes": dict(modes.most_common()),
    }
    marks = (0, 1, 5, 25, 50, 75, 95, 99, 100)
    for name, values in (("brightness", looked.brightness), ("contrast", looked.contrast)):
        result[name] = {}
        for split in ("all", *looked.splits):
            mine = good if split == "all" else good & (looked.split == looked.splits.index(split))
            numbers = np.percentile(values[mine], marks) if mine.any() else []
            result[name][split] = {
                f"p{mark}": round(float(v), 2) for mark, v in zip(marks, numbers, strict=False)
            }
    return result
