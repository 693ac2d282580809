"""Image issues: blank, tiny, narrow, and outliers of brightness and contrast."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotion_lab.audits.image_stats import ImageStats

#: Distance of an outlier from the quartiles, in interquartile ranges. Tukey's value is 1.5; with 2
#: a dataset as large as FER2013 has dozens of outliers instead of hundreds.
FENCE = 2.0
#: Minimum aspect ratio of a narrow image.
NARROW_RATIO = 2.0


@dataclass(frozen=True)
class ImageIssue:
    """An issue of one image.

    Attributes:
        kind: ``constant``, ``almost_constant``, ``tiny``, ``dark``, ``bright``, ``low_contrast``,
            ``high_contrast``, ``narrow``, ``grey_as_rgb``, ``no_face``.
    """

    kind: str
    index: int
    detail: str


def blank_images(stats: ImageStats, threshold: float) -> np.ndarray:
    """Return bool (N,): contrast below ``threshold`` grey levels."""
    return stats.readable & (np.nan_to_num(stats.contrast, nan=np.inf) < threshold)


def tukey_fences(values: np.ndarray) -> tuple[float, float]:
    """Return the limits below and above which a value is an outlier."""
    if not len(values):
        return -np.inf, np.inf
    low, high = np.percentile(values, [25, 75])
    return low - FENCE * (high - low), high + FENCE * (high - low)


def find_image_issues(stats: ImageStats, blank_threshold: float, tiny: int) -> list[ImageIssue]:
    """Return all issues that need no face detector, grouped by kind, the most severe first.

    ``blank_threshold`` is a contrast (standard deviation of the grey levels), ``tiny`` a number of
    pixels of the shorter side.
    """
    readable, blank = stats.readable, blank_images(stats, blank_threshold)
    brightness, contrast = stats.brightness, stats.contrast
    normal = readable & ~blank
    dark, bright = tukey_fences(brightness[normal])
    low, high = tukey_fences(contrast[normal])
    shorter = np.minimum(stats.width, stats.height)
    ratio = np.maximum(stats.width, stats.height) / np.maximum(shorter, 1)
    filled = np.nan_to_num(contrast, nan=-1)
    size, level, std = "{width} x {height} pixels", "brightness {light:.0f}", "contrast {std:.1f}"
    with np.errstate(invalid="ignore"):
        # Kind, mask, sort key, detail.
        kinds: list[tuple[str, np.ndarray, np.ndarray, str]] = [
            ("constant", blank & (contrast == 0), filled, "one grey level"),
            ("almost_constant", blank & (contrast > 0), filled, std),
            ("tiny", readable & (shorter < tiny), shorter, size),
            ("narrow", readable & (ratio >= NARROW_RATIO), -ratio, size),
            ("dark", normal & (brightness < dark), brightness, level),
            ("bright", normal & (brightness > bright), -brightness, level),
            ("low_contrast", normal & (contrast < low), contrast, std),
            ("high_contrast", normal & (contrast > high), -contrast, std),
            ("grey_as_rgb", stats.grey, np.arange(len(stats)), "three equal channels"),
        ]
    issues = []
    for kind, mask, sort_key, text in kinds:
        indices = np.flatnonzero(mask)
        for i in indices[np.argsort(sort_key[indices], kind="stable")].tolist():
            detail = text.format(
                std=contrast[i], light=brightness[i], width=stats.width[i], height=stats.height[i]
            )
            issues.append(ImageIssue(kind, i, detail))
    return issues


def distributions(stats: ImageStats) -> dict[str, Any]:
    """Return ``spread`` of ``audit.json``: sizes, modes, brightness and contrast.

    ``sizes`` and ``modes`` are counts, most frequent first (at most 20 sizes). ``brightness`` and
    ``contrast`` hold the percentiles ``p0`` to ``p100`` in grey levels (0..255), for all splits
    together (``all``) and for each split. Unreadable images are excluded.
    """
    readable = stats.readable
    sizes = Counter(
        f"{w}x{h}" for w, h in zip(stats.width[readable], stats.height[readable], strict=True)
    )
    modes = Counter(
        "grey" if channels == 1 else "grey stored as RGB" if is_grey else "RGB"
        for channels, is_grey in zip(stats.channels[readable], stats.grey[readable], strict=True)
    )
    result: dict[str, Any] = {
        "sizes": dict(sizes.most_common(20)),
        "different_sizes": len(sizes),
        "modes": dict(modes.most_common()),
    }
    percentiles = (0, 1, 5, 25, 50, 75, 95, 99, 100)
    masks = {"all": readable}
    masks |= {name: readable & (stats.split == s) for s, name in enumerate(stats.splits)}
    for key, values in (("brightness", stats.brightness), ("contrast", stats.contrast)):
        result[key] = {}
        for name, mask in masks.items():
            levels = np.percentile(values[mask], percentiles) if mask.any() else []
            result[key][name] = {
                f"p{p}": round(float(level), 2)
                for p, level in zip(percentiles, levels, strict=False)
            }
    return result
