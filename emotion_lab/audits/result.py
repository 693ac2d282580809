"""Run all checks of the audit and summarise them as ``audit.json``."""

from __future__ import annotations

import datetime
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotion_lab.audits.annotators import measure_annotators
from emotion_lab.audits.cleaning_lists import DropProposal, propose_drops
from emotion_lab.audits.duplicates import Duplicates, count_duplicates, find_duplicates
from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.audits.label_issues import LabelIssues
from emotion_lab.audits.no_face import images_without_face
from emotion_lab.audits.outliers import ImageIssue, blank_images, distributions, find_image_issues
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.data.types import SPLITS, Split
from emotion_lab.video.types import Detector

#: Keys of conf/audit.yaml that are copied to ``audit.json``.
SETTINGS = ("near_distance", "near_correlation", "blank", "tiny", "face_detector")
#: Kinds of image issues that are always counted.
KINDS = (
    *("constant", "almost_constant", "tiny", "narrow", "dark", "bright"),
    *("low_contrast", "high_contrast", "grey_as_rgb"),
)
#: Split -> note if the data does not have it.
MISSING_SPLIT = {
    "train": "the data has no train split",
    "val": "the data has no val split; train.py cuts one from train (data.val_fraction) and keeps "
    "identical images in one split",
    "test": "the data has no test split",
}


@dataclass
class AuditResult:
    """Results of all checks.

    Attributes:
        blank: bool (N,), blank images.
        proposals: Rows of ``drop.csv``.
    """

    stats: ImageStats
    blank: np.ndarray
    duplicates: Duplicates
    image_issues: list[ImageIssue]
    label_issues: LabelIssues | None
    proposals: list[DropProposal]


def run_checks(
    stats: ImageStats,
    cfg: dict[str, Any],
    label_issues: LabelIssues | None,
    detector: Detector | None,
) -> AuditResult:
    """Run all checks on the image statistics."""
    blank = blank_images(stats, cfg["blank"])
    duplicates = find_duplicates(stats, blank, cfg["near_distance"], cfg["near_correlation"])
    issues = find_image_issues(stats, cfg["blank"], cfg["tiny"])
    if detector is not None:
        indices = images_without_face(stats, detector, blank)
        issues += [ImageIssue("no_face", i, f"no face ({detector.name})") for i in indices]
    proposals = propose_drops(stats, duplicates, blank)
    return AuditResult(stats, blank, duplicates, issues, label_issues, proposals)


def build_report(result: AuditResult, cfg: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``audit.json``."""
    stats, proposals = result.stats, result.proposals
    counts = _class_counts(stats)
    notes = [MISSING_SPLIT[name] for name in SPLITS if name not in stats.splits]
    if result.label_issues:
        notes += result.label_issues.notes
    return {
        "n": len(stats),
        "counts": counts,
        "imbalance": {name: _imbalance(row) for name, row in counts.items()},
        "duplicates": count_duplicates(stats, result.duplicates),
        "groups": count_groups(stats.source.splits),
        "findings": _count_image_issues(result, cfg["face_detector"] != "none"),
        "spread": distributions(stats),
        "fingerprint": {
            name: fingerprint(part, stats.classes) for name, part in stats.source.splits.items()
        },
        "annotators": measure_annotators(stats.source, cfg["data"]),
        "label_issues": _count_label_issues(stats, result.label_issues),
        "proposed": {
            "total": len(proposals),
            "of_val": sum(row.split == "val" for row in proposals),
            "reasons": dict(Counter(row.reason for row in proposals).most_common()),
        },
        "classes": list(stats.classes),
        "location": stats.source.location,
        "data": {key: cfg["data"].get(key) for key in ("name", "path", "labels", "ferplus_csv")},
        "settings": {key: cfg[key] for key in SETTINGS},
        "crossings": [list(pair) for pair in itertools.combinations(stats.splits, 2)],
        "notes": [*stats.source.notes, *notes],
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def count_groups(splits: dict[str, Split]) -> dict[str, Any] | None:
    """Return the groups (``data.group``) of each split, and those in several; None without."""
    names = {split: set(part.groups) for split, part in splits.items() if part.groups is not None}
    if not names:
        return None
    number_of_splits = Counter(group for groups in names.values() for group in groups)
    return {
        "n": {split: len(groups) for split, groups in names.items()},
        "across_splits": sorted(group for group, n in number_of_splits.items() if n > 1),
    }


def _class_counts(stats: ImageStats) -> dict[str, dict[str, int]]:
    """Return split -> class -> number of images."""
    return {
        name: {
            cls: int(((stats.split == s) & (stats.label == label)).sum())
            for label, cls in enumerate(stats.classes)
        }
        for s, name in enumerate(stats.splits)
    }


def _imbalance(counts: dict[str, int]) -> float | None:
    """Return the size of the largest class divided by the smallest; None if a class is empty."""
    smallest = min(counts.values())
    return round(max(counts.values()) / smallest, 2) if smallest else None


def _count_image_issues(result: AuditResult, with_faces: bool) -> dict[str, int]:
    """Return kind -> number of images; ``no_face`` only if a face detector was used."""
    kinds = Counter(issue.kind for issue in result.image_issues)
    counts = {"unreadable": len(result.stats.unreadable), "blank": int(result.blank.sum())}
    return counts | {kind: kinds[kind] for kind in (*KINDS, *(["no_face"] * with_faces))}


def _count_label_issues(stats: ImageStats, issues: LabelIssues | None) -> dict[str, Any] | None:
    if issues is None:
        return None
    by_split = Counter(stats.split_name(issue.index) for issue in issues.ranked)
    return {
        "n": len(issues.ranked),
        "predicted": issues.predicted,
        "by_split": dict(by_split),
        "relabel": by_split["train"],
        "predictions": issues.files,
    }
