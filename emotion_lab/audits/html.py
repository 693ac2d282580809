"""``audit.html``: one file that opens anywhere, with nothing to fetch and no script."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.audits.cleaning_lists import REASONS, DropProposal
from emotion_lab.audits.duplicates import Duplicates, conflicts, crosses
from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.audits.label_issues import LabelIssues
from emotion_lab.audits.outliers import ImageIssue
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.reports import html

#: Bytes of all thumbnails together; the page stays below 8 MB.
BUDGET = 5_500_000
#: Longest side of a thumbnail, in pixels.
SIDE = 72
#: Images shown of one group.
OF_A_GROUP = 8

KINDS: dict[str, str] = {
    "constant": "Constant: one grey level",
    "almost_constant": "Almost constant",
    "tiny": "Tiny",
    "narrow": "Twice as long as wide, or more",
    "dark": "Darkest (outliers)",
    "bright": "Brightest (outliers)",
    "low_contrast": "Flattest (outliers)",
    "high_contrast": "Harshest (outliers)",
    "grey_as_rgb": "Grey pictures stored as RGB",
    "no_face": "No face found",
}


class Thumbnails:
    """Small pictures as data URIs, until the budget is used up.

    Args:
        looked: The images.
        budget: Bytes of all of them together.
    """

    def __init__(self, looked: ImageStats, budget: int = BUDGET) -> None:
        self.looked, self.left = looked, budget
        self._made: dict[int, str] = {}

    def __call__(self, i: int) -> str | None:
        """Return the data URI of image ``i``, or None: unreadable, or no budget left."""
        if i not in self._made:
            try:
                image = self.looked.image(i)
            except UserError:
                return None
            self._made[i] = _jpeg(image)
        # A picture shown twice is in the page twice.
        if len(self._made[i]) > self.left:
            return None
        self.left -= len(self._made[i])
        return self._made[i]


def _jpeg(image: np.ndarray) -> str:
    """Return a data URI of uint8 (H, W, C), at most 72 pixels on its longer side."""
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
    """Return the command of a cleaned training, to be pasted into a shell."""
    words = [f"data={report['data']['name']}"]
    if report["data"]["path"]:
        words.append(f"data.path={report['data']['path']}")
    words.append(f"data.drop_csv={folder / 'drop.csv'}")
    if (report["label_issues"] or {}).get("relabel"):
        words.append(f"data.relabel_csv={folder / 'relabel.csv'}")
    return "python -m emotion_lab.train " + shlex.join(words)


@dataclass
class ImageSection:
    """A titled list of groups of pictures.

    Attributes:
        title: Heading.
        note: A sentence below it, or an empty string.
        total: How many groups there are, shown or not.
        groups: The groups shown; each a list of dicts ``uri``, ``name``, ``lines``, ``mark``.
    """

    title: str
    note: str
    total: int
    groups: list[list[dict[str, Any]]]


def _card(thumbnails: Thumbnails, i: int, lines: list[str], mark: bool = False) -> dict[str, Any]:
    return {"uri": thumbnails(i), "name": thumbnails.looked.names[i], "lines": lines, "mark": mark}


def _group(thumbnails: Thumbnails, group: Iterable[int]) -> list[dict[str, Any]]:
    """Return the cards of a group of duplicates: where each stands and what it is called."""
    looked = thumbnails.looked
    members = list(group)
    # One of each split and label first, so that what crosses or conflicts is seen.
    seen: set[tuple[int, int]] = set()
    first, rest = [], []
    for i in members:
        key = (int(looked.split[i]), int(looked.label[i]))
        (rest if key in seen else first).append(i)
        seen.add(key)
    shown = sorted([*first, *rest][:OF_A_GROUP])
    cards = [
        _card(
            thumbnails, i, [looked.label_of(i), looked.split_of(i)], looked.split_of(i) != "train"
        )
        for i in shown
    ]
    if len(members) > len(shown):
        cards.append({"more": len(members) - len(shown)})
    return cards


def _duplicate_shelves(
    thumbnails: Thumbnails, duplicates: Duplicates, show: int
) -> list[ImageSection]:
    looked = thumbnails.looked
    shelves = []
    for kind, groups, words in (
        ("Byte-identical", duplicates.identical, "the same bytes"),
        ("Near-identical", duplicates.near, "the same picture in other bytes, mirrored ones too"),
    ):
        left = list(groups)
        for title, test in (
            ("with conflicting labels", conflicts),
            ("across splits", crosses),
            ("inside one split", lambda *_: True),
        ):
            chosen = [group for group in left if test(looked, group)]
            left = [group for group in left if not test(looked, group)]
            if chosen:
                cards = [_group(thumbnails, group) for group in chosen[:show]]
                shelves.append(ImageSection(f"{kind}, {title}", words, len(chosen), cards))
    return shelves


def _finding_shelves(
    thumbnails: Thumbnails, findings: list[ImageIssue], show: int
) -> list[ImageSection]:
    looked = thumbnails.looked
    shelves = []
    for kind, title in KINDS.items():
        chosen = [finding for finding in findings if finding.kind == kind]
        if chosen:
            cards = [
                [_card(thumbnails, f.index, [looked.label_of(f.index), f.detail])]
                for f in chosen[:show]
            ]
            shelves.append(ImageSection(title, "", len(chosen), cards))
    return shelves


def _doubt_shelf(
    thumbnails: Thumbnails, doubts: LabelIssues | None, show: int
) -> ImageSection | None:
    if doubts is None:
        return None
    looked = thumbnails.looked
    cards = []
    for doubt in doubts.ranked[: 2 * show]:
        lines = [
            f"{looked.label_of(doubt.index)} {doubt.quality:.1%}",
            f"→ {looked.classes[doubt.suggested]} {doubt.certainty:.0%}",
        ]
        cards.append([_card(thumbnails, doubt.index, lines)])
    return ImageSection("Probably wrong labels", "", len(doubts.ranked), cards)


def write_page(
    path: Path,
    report: dict[str, Any],
    looked: ImageStats,
    duplicates: Duplicates,
    findings: list[ImageIssue],
    doubts: LabelIssues | None,
    proposals: list[DropProposal],
    figures: dict[str, Path],
    show: int,
) -> None:
    """Write the page.

    Args:
        path: ``audit.html``.
        report: What ``audit.json`` holds.
        looked: The images.
        duplicates: Their duplicates.
        findings: Single images worth a look.
        doubts: Doubtful labels, or None where no predictions were given.
        proposals: The rows of ``drop.csv``.
        figures: Name -> PNG.
        show: At most so many groups under one heading.
    """
    thumbnails = Thumbnails(looked)
    # The most telling first: they get their pictures while there is budget.
    doubt_shelf = _doubt_shelf(thumbnails, doubts, show)
    finding_shelves = _finding_shelves(thumbnails, findings, show)
    duplicate_shelves = _duplicate_shelves(thumbnails, duplicates, show)
    template = html.environment("emotion_lab.audits").get_template("audit.html")
    text = template.render(
        report=report,
        looked=looked,
        reasons=REASONS,
        unreadable=looked.unreadable,
        proposed=len(proposals),
        command=train_command(report, path.parent),
        duplicate_shelves=duplicate_shelves,
        finding_shelves=finding_shelves,
        doubt_shelf=doubt_shelf,
        doubts=doubts,
        show=show,
        figures={name: html.png(file.read_bytes()) for name, file in figures.items()},
    )
    # File names may hold bytes that are no text.
    atomic_write(path, text.encode("utf-8", "replace"))
