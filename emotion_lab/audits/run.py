"""Files and printed summary of the audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emotion_lab.audits.annotators import table_rows
from emotion_lab.audits.cleaning_lists import write_csv, write_drops, write_relabels, write_suspects
from emotion_lab.audits.figures import draw_class_counts, draw_distributions
from emotion_lab.audits.html import write_page
from emotion_lab.audits.result import AuditResult
from emotion_lab.core.io import write_json
from emotion_lab.core.tables import TextTable


def write_run(run_dir: Path, result: AuditResult, report: dict[str, Any], num_shown: int) -> None:
    """Write all files of the audit.

    ``run_dir`` receives ``audit.json`` (``report``), ``audit.html``, ``drop.csv``,
    ``relabel.csv``, ``suspects.csv`` (with label issues), ``duplicates.csv``, ``findings.csv`` and
    two PNGs. The page shows up to ``num_shown`` image groups under one heading.
    """
    stats, label_issues = result.stats, result.label_issues
    ranked = label_issues.ranked if label_issues else []
    write_drops(run_dir / "drop.csv", result.proposals)
    write_relabels(run_dir / "relabel.csv", stats, ranked)
    if label_issues is not None:
        write_suspects(run_dir / "suspects.csv", stats, ranked)
    _write_duplicates(run_dir / "duplicates.csv", result)
    _write_issues(run_dir / "findings.csv", result)
    figures = {
        "class_counts": draw_class_counts(stats, run_dir / "class_counts.png"),
        "spreads": draw_distributions(stats, run_dir / "spreads.png"),
    }
    write_page(run_dir / "audit.html", result, report, figures, num_shown)
    # Written last: a run directory with audit.json is complete.
    write_json(run_dir / "audit.json", report)


def _write_duplicates(path: Path, result: AuditResult) -> None:
    """Write all groups of duplicates, one row per image."""
    stats, duplicates = result.stats, result.duplicates
    rows = [
        (kind, number, stats.names[i], stats.split_name(i), stats.class_name(i))
        for kind, groups in (("identical", duplicates.identical), ("near", duplicates.near))
        for number, group in enumerate(groups, start=1)
        for i in group
    ]
    write_csv(path, ["kind", "group", "path", "split", "label"], rows)


def _write_issues(path: Path, result: AuditResult) -> None:
    """Write all image issues, unreadable files first."""
    stats = result.stats
    rows = [("unreadable", file.path, file.split, "", file.reason) for file in stats.unreadable]
    for issue in result.image_issues:
        i = issue.index
        rows.append(
            (issue.kind, stats.names[i], stats.split_name(i), stats.class_name(i), issue.detail)
        )
    write_csv(path, ["kind", "path", "split", "label", "detail"], rows)


def _groups_line(groups: dict[str, Any]) -> str:
    """Return how many persons each split has, and who is in several."""
    counts = ", ".join(f"{n:,} in {split}" for split, n in groups["n"].items())
    across = groups["across_splits"]
    names = ", ".join(across[:3]) + (", ..." if len(across) > 3 else "")
    text = f"persons (data.group): {counts}; {len(across):,} in several splits"
    return f"{text}: {names}" if across else text


def summary(report: dict[str, Any]) -> list[str | TextTable]:
    """Return the lines and tables that the command prints."""
    counts, duplicates = report["counts"], report["duplicates"]
    classes = [[name, *(f"{row[name]:,}" for row in counts.values())] for name in report["classes"]]
    total = ["total", *(f"{sum(row.values()):,}" for row in counts.values())]
    keys = ("groups", "images", "groups_across_splits", "groups_with_conflicting_labels")
    groups = [
        [name, *(f"{duplicates[f'{kind}_{key}']:,}" for key in keys)]
        for kind, name in (("identical", "identical"), ("near", "near-identical"))
    ]
    lines: list[str | TextTable] = [
        "",
        TextTable(["images per class", *counts], [*classes, [], total]),
        "",
        TextTable(["duplicates", *(key.replace("_", " ") for key in keys)], groups),
        "",
    ]
    if report["annotators"]:
        header = ["FER+ annotators", *report["annotators"]]
        lines += [TextTable(header, table_rows(report["annotators"])), ""]
    if report["groups"]:
        lines.append(_groups_line(report["groups"]))
    # Constant and almost constant images are included in the blank ones.
    issues = [
        f"{n:,} {kind.replace('_', ' ')}"
        for kind, n in report["findings"].items()
        if n and kind not in ("constant", "almost_constant")
    ]
    lines.append("image issues: " + (", ".join(issues) or "none"))
    if report["label_issues"]:
        label_issues = report["label_issues"]
        lines.append(
            f"label issues: {label_issues['n']:,} of {sum(label_issues['predicted'].values()):,} "
            "images with a prediction (suspects.csv), "
            f"{label_issues['relabel']:,} of them in train (relabel.csv)"
        )
    lines.append(f"images proposed to drop: {report['proposed']['total']:,} (drop.csv)")
    return [*lines, ""]
