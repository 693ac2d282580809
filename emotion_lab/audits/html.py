"""``audit.html``: a self-contained page without scripts."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.audits.annotators import table_rows
from emotion_lab.audits.cleaning_lists import REASONS
from emotion_lab.audits.duplicates import crosses_splits, has_conflicting_labels
from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.audits.result import AuditResult
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.reports import html

#: Bytes of all thumbnails; the page stays below 8 MB.
MAX_BYTES = 5_500_000
#: Longest side of a thumbnail, in pixels.
SIDE = 72
#: Maximum number of images of one group.
MAX_GROUP_SIZE = 8

#: Kind of an image issue -> heading.
HEADINGS: dict[str, str] = {
    "constant": "Constant images (one grey level)",
    "almost_constant": "Almost constant images",
    "tiny": "Tiny images",
    "narrow": "Narrow images (aspect ratio 2 or more)",
    "dark": "Dark images (brightness outliers)",
    "bright": "Bright images (brightness outliers)",
    "low_contrast": "Low contrast (outliers)",
    "high_contrast": "High contrast (outliers)",
    "grey_as_rgb": "Grey images stored as RGB",
    "no_face": "No face detected",
}


class Thumbnails:
    """Thumbnails as data URIs, up to a total size."""

    def __init__(self, stats: ImageStats, max_bytes: int = MAX_BYTES) -> None:
        self.stats, self.remaining = stats, max_bytes
        self._cache: dict[int, str] = {}

    def __call__(self, i: int) -> str | None:
        """Return the data URI of image ``i``; None if unreadable or over the size limit."""
        if i not in self._cache:
            try:
                self._cache[i] = _jpeg_uri(self.stats.image(i))
            except UserError:
                return None
        # Each use counts: the page contains an image as often as it is shown.
        if len(self._cache[i]) > self.remaining:
            return None
        self.remaining -= len(self._cache[i])
        return self._cache[i]


def _jpeg_uri(image: np.ndarray) -> str:
    """Encode uint8 (H, W, C) as a data URI, at most 72 pixels on the longer side."""
    height, width = image.shape[:2]
    ratio = min(1.0, SIDE / max(height, width))
    if ratio < 1:
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if image.ndim == 3 and image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def train_command(report: dict[str, Any], folder: Path) -> str:
    """Return the shell command that trains with the cleaning lists."""
    args = [f"data={report['data']['name']}"]
    if report["data"]["path"]:
        args.append(f"data.path={report['data']['path']}")
    if report["data"]["labels"] == "ferplus":
        args.append("data.labels=ferplus")
        args.append(f"data.ferplus_csv={report['data']['ferplus_csv']}")
    args.append(f"data.drop_csv={folder / 'drop.csv'}")
    if (report["label_issues"] or {}).get("relabel"):
        args.append(f"data.relabel_csv={folder / 'relabel.csv'}")
    return "python -m emotion_lab.train " + shlex.join(args)


@dataclass
class ImageSection:
    """A heading with groups of images.

    Attributes:
        note: A sentence below it, or an empty string.
        total: Number of groups, shown or not.
        groups: The shown groups; each a list of dicts ``uri``, ``name``, ``lines``, ``mark``.
    """

    title: str
    note: str
    total: int
    groups: list[list[dict[str, Any]]]


def _card(thumbnails: Thumbnails, i: int, *lines: str, mark: bool = False) -> dict[str, Any]:
    return {"uri": thumbnails(i), "name": thumbnails.stats.names[i], "lines": lines, "mark": mark}


def _duplicate_group(thumbnails: Thumbnails, group: list[int]) -> list[dict[str, Any]]:
    """Return the cards of a group of duplicates with label and split."""
    stats = thumbnails.stats
    # One image of each split and label first, so that conflicts are visible in large groups.
    seen: set[tuple[int, int]] = set()
    first: list[int] = []
    rest: list[int] = []
    for i in group:
        key = (int(stats.split[i]), int(stats.label[i]))
        (rest if key in seen else first).append(i)
        seen.add(key)
    shown = sorted([*first, *rest][:MAX_GROUP_SIZE])
    cards = []
    for i in shown:
        split = stats.split_name(i)
        cards.append(_card(thumbnails, i, stats.class_name(i), split, mark=split != "train"))
    if len(group) > len(shown):
        cards.append({"more": len(group) - len(shown)})
    return cards


def _duplicate_sections(
    thumbnails: Thumbnails, result: AuditResult, num_shown: int
) -> list[ImageSection]:
    headings: list[tuple[str, Callable[[ImageStats, list[int]], bool]]] = [
        ("with conflicting labels", has_conflicting_labels),
        ("across splits", crosses_splits),
        ("within one split", lambda *_: True),
    ]
    sections = []
    for kind, groups, note in (
        ("Byte-identical", result.duplicates.identical, ""),
        (
            "Near-identical",
            result.duplicates.near,
            "The same picture with different content, for example mirrored or compressed again.",
        ),
    ):
        remaining = list(groups)
        for title, condition in headings:
            selected = [group for group in remaining if condition(result.stats, group)]
            remaining = [group for group in remaining if not condition(result.stats, group)]
            if selected:
                cards = [_duplicate_group(thumbnails, group) for group in selected[:num_shown]]
                title = f"{kind} groups {title}"
                sections.append(ImageSection(title, note, len(selected), cards))
    return sections


def _issue_sections(
    thumbnails: Thumbnails, result: AuditResult, num_shown: int
) -> list[ImageSection]:
    sections = []
    for kind, title in HEADINGS.items():
        issues = [issue for issue in result.image_issues if issue.kind == kind]
        cards = [
            [_card(thumbnails, issue.index, result.stats.class_name(issue.index), issue.detail)]
            for issue in issues[:num_shown]
        ]
        if cards:
            sections.append(ImageSection(title, "", len(issues), cards))
    return sections


def _label_section(thumbnails: Thumbnails, result: AuditResult, num_shown: int) -> ImageSection:
    stats, ranked = result.stats, result.label_issues.ranked if result.label_issues else []
    cards = []
    for issue in ranked[: 2 * num_shown]:
        lines = (
            f"{stats.class_name(issue.index)} {issue.quality:.1%}",
            f"→ {stats.classes[issue.suggested]} {issue.certainty:.0%}",
        )
        cards.append([_card(thumbnails, issue.index, *lines)])
    return ImageSection("Probably wrong labels", "", len(ranked), cards)


def write_page(
    path: Path,
    result: AuditResult,
    report: dict[str, Any],
    figures: dict[str, Path],
    num_shown: int,
) -> None:
    """Write the page, with up to ``num_shown`` groups under one heading."""
    thumbnails = Thumbnails(result.stats)
    # In order of importance: the first sections get their thumbnails before the size limit.
    label_section = _label_section(thumbnails, result, num_shown)
    issue_sections = _issue_sections(thumbnails, result, num_shown)
    duplicate_sections = _duplicate_sections(thumbnails, result, num_shown)
    template = html.environment("emotion_lab.audits").get_template("audit.html")
    text = template.render(
        report=report,
        stats=result.stats,
        reasons=REASONS,
        unreadable=result.stats.unreadable,
        command=train_command(report, path.parent),
        duplicate_sections=duplicate_sections,
        issue_sections=issue_sections,
        label_section=label_section,
        label_issues=result.label_issues,
        annotators=table_rows(report["annotators"]) if report["annotators"] else [],
        num_shown=num_shown,
        figures={name: html.png(file.read_bytes()) for name, file in figures.items()},
    )
    # File names may contain bytes that are not valid UTF-8.
    atomic_write(path, text.encode("utf-8", "replace"))
