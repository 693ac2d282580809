"""The audit as a whole: ``audit.json``, the lists, the page and the printed table."""

from __future__ import annotations

import datetime
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.audits import cleaning_lists, figures, outliers
from emotion_lab.audits import duplicates as doubles
from emotion_lab.audits.html import write_page
from emotion_lab.audits.image_stats import ImageStats
from emotion_lab.audits.label_issues import LabelIssues
from emotion_lab.audits.no_face import without_face
from emotion_lab.audits.outliers import ImageIssue
from emotion_lab.core.io import atomic_write
from emotion_lab.data.fingerprint import fingerprint
from emotion_lab.data.types import SPLITS
from emotion_lab.video.types import Detector

#: Keys of conf/audit.yaml that say how the audit was made.
SETTINGS = ("near_distance", "near_correlation", "blank", "tiny", "face_detector")


def _imbalance(counts: dict[str, int]) -> float | None:
    """Return the largest class by the smallest; None where a class is empty."""
    return round(max(counts.values()) / low, 2) if (low := min(counts.values())) else None


def examine(
    looked: ImageStats,
    cfg: dict[str, Any],
    doubts: LabelIssues | None,
    detector: Detector | None,
    run_dir: Path,
) -> dict[str, Any]:
    """Answer all questions and write the run folder.

    Args:
        looked: The images.
        cfg: ``conf/audit.yaml`` as a plain dict.
        doubts: Doubtful labels, or None where no predictions were given.
        detector: Looks for faces, or None.
        run_dir: An existing folder; receives ``audit.json``, ``audit.html``, ``drop.csv``,
            ``relabel.csv``, ``suspects.csv`` (with ``doubts``), ``duplicates.csv``,
            ``findings.csv`` and two PNGs.

    Returns:
        What ``audit.json`` holds.
    """
    flat = outliers.blank(looked, cfg["blank"])
    found = doubles.find_duplicates(looked, flat, cfg["near_distance"], cfg["near_correlation"])
    odd = outliers.find(looked, cfg["blank"], cfg["tiny"])
    if detector is not None:
        faceless = without_face(looked, detector, flat)
        odd += [ImageIssue("no_face", i, f"{detector.name} finds none") for i in faceless]
    dropped = cleaning_lists.propose(looked, found, flat)
    report = {
        "n": len(looked),
        "counts": (counts := _counts(looked)),
        "imbalance": {name: _imbalance(row) for name, row in counts.items()},
        "duplicates": doubles.count(looked, found),
        "findings": _count_findings(looked, odd, int(flat.sum()), detector is not None),
        "spread": outliers.spread(looked),
        "fingerprint": {
            name: fingerprint(part, looked.classes) for name, part in looked.source.splits.items()
        },
        "label_issues": _count_doubts(looked, doubts),
        "proposed": {
            "total": len(dropped),
            "of_val": sum(row.split == "val" for row in dropped),
            "reasons": dict(Counter(row.reason for row in dropped).most_common()),
        },
        "classes": list(looked.classes),
        "location": looked.source.location,
        "data": {"name": cfg["data"]["name"], "path": cfg["data"].get("path")},
        "settings": {key: cfg[key] for key in SETTINGS},
        "crossings": [list(pair) for pair in itertools.combinations(looked.splits, 2)],
        "notes": [*looked.source.notes, *_notes(looked), *(doubts.notes if doubts else [])],
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    cleaning_lists.write_drop(run_dir / "drop.csv", dropped)
    cleaning_lists.write_relabel(run_dir / "relabel.csv", looked, doubts.ranked if doubts else [])
    if doubts is not None:
        cleaning_lists.write_doubts(run_dir / "suspects.csv", looked, doubts.ranked)
    _write_duplicates(run_dir / "duplicates.csv", looked, found)
    _write_findings(run_dir / "findings.csv", looked, odd)
    drawn = {
        "class_counts": figures.class_counts(looked, run_dir / "class_counts.png"),
        "spreads": figures.spreads(looked, run_dir / "spreads.png"),
    }
    page = run_dir / "audit.html"
    write_page(page, report, looked, found, odd, doubts, dropped, drawn, cfg["num_shown"])
    # Last: a folder with audit.json is complete.
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    atomic_write(run_dir / "audit.json", text.encode())
    return report


def _counts(looked: ImageStats) -> dict[str, dict[str, int]]:
    """Return split -> class -> images."""
    k = len(looked.classes)
    return {
        name: dict(
            zip(
                looked.classes,
                np.bincount(looked.label[looked.split == s], minlength=k).tolist(),
                strict=True,
            )
        )
        for s, name in enumerate(looked.splits)
    }


def _count_findings(
    looked: ImageStats, odd: list[ImageIssue], blank: int, faces: bool
) -> dict[str, int]:
    """Return how many images are of each kind; kinds that were not looked for are absent."""
    kinds = Counter(finding.kind for finding in odd)
    wanted = ("constant", "almost_constant", "tiny", "narrow", "dark", "bright")
    wanted += ("low_contrast", "high_contrast", "grey_as_rgb")
    counts = {"unreadable": len(looked.unreadable), "blank": blank}
    counts |= {kind: kinds[kind] for kind in wanted}
    return counts | ({"no_face": kinds["no_face"]} if faces else {})


def _count_doubts(looked: ImageStats, doubts: LabelIssues | None) -> dict[str, Any] | None:
    if doubts is None:
        return None
    by_split = Counter(looked.split_of(doubt.index) for doubt in doubts.ranked)
    return {
        "n": len(doubts.ranked),
        "predicted": doubts.predicted,
        "by_split": dict(by_split),
        "relabel": by_split["train"],
        "predictions": doubts.files,
    }


def _notes(looked: ImageStats) -> list[str]:
    """Say which splits the data does not have."""
    missing = [name for name in SPLITS if name not in looked.splits]
    words = {
        "val": "the data has no val split; training cuts one out of train (data.val_fraction), "
        "byte-identical images on one side",
        "test": "the data has no test split",
        "train": "the data has no train split",
    }
    return [words[name] for name in missing]


def _write_duplicates(path: Path, looked: ImageStats, found: doubles.Duplicates) -> None:
    """Write all groups, one image a row."""
    rows = [
        (kind, number, looked.names[i], looked.split_of(i), looked.label_of(i))
        for kind, groups in (("identical", found.identical), ("near", found.near))
        for number, group in enumerate(groups, start=1)
        for i in group
    ]
    cleaning_lists.write_csv(path, ["kind", "group", "path", "split", "label"], rows)


def _write_findings(path: Path, looked: ImageStats, odd: list[ImageIssue]) -> None:
    rows: list[tuple[str, ...]] = [
        ("unreadable", bad.path, bad.split, "", bad.reason) for bad in looked.unreadable
    ]
    for finding in odd:
        i = finding.index
        place = (looked.names[i], looked.split_of(i), looked.label_of(i))
        rows.append((finding.kind, *place, finding.detail))
    cleaning_lists.write_csv(path, ["kind", "path", "split", "label", "detail"], rows)


def summary(report: dict[str, Any]) -> str:
    """Return the short table that the command prints."""
    counts, d = report["counts"], report["duplicates"]
    width = max([len(name) for name in report["classes"]] + [12]) + 2
    lines = [" " * width + "".join(f"{name:>10}" for name in counts)]
    for name in report["classes"]:
        lines.append(f"{name:<{width}}" + "".join(f"{row[name]:>10,}" for row in counts.values()))
    totals = "".join(f"{sum(row.values()):>10,}" for row in counts.values())
    lines += [f"{'all':<{width}}{totals}", ""]
    lines.append(
        f"{'duplicates':<{width}}{'groups':>10}{'images':>10}{'crossing':>10}{'conflict':>10}"
    )
    for kind, words in (("identical", "identical"), ("near", "near")):
        keys = ("groups", "images", "groups_across_splits", "groups_with_conflicting_labels")
        lines.append(f"{words:<{width}}" + "".join(f"{d[f'{kind}_{key}']:>10,}" for key in keys))
    parts = ("constant", "almost_constant")  # of the blank ones
    odd = [
        f"{n:,} {kind.replace('_', ' ')}"
        for kind, n in report["findings"].items()
        if n and kind not in parts
    ]
    lines += ["", "images: " + (", ".join(odd) or "nothing stands out")]
    if report["label_issues"]:
        issues = report["label_issues"]
        lines.append(
            f"labels: {issues['n']:,} of {sum(issues['predicted'].values()):,} predicted are "
            f"probably wrong, {issues['relabel']:,} of them in train (relabel.csv)"
        )
    lines.append(f"proposed to drop: {report['proposed']['total']:,} (drop.csv)")
    return "\n".join(lines) + "\n"
