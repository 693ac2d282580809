"""The self-contained ``report.html`` of an evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import quote

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.reports import html

#: Required keys; all other keys may be missing or None.
REQUIRED = ("split", "n", "accuracy", "classes", "per_class", "confusion")
_OPTIONAL = (
    *("accuracy_ci95", "macro_f1", "macro_f1_ci95", "roc_auc_macro", "tta", "model", "parameters"),
    *("nll", "ece", "brier", "temperature", "temperature_fitted_on"),
    *("nll_calibrated", "ece_calibrated", "brier_calibrated", "coverage", "protocol"),
    *("fingerprint", "without_duplicates", "robustness", "by_labels", "votes", "intensity"),
    *("mapping", "shared", "pose", "quantities", "groups", "episodes"),
    *("checkpoint", "checkpoint_sha256", "commit", "hardware", "versions", "seed", "command"),
    *("figures", "mistakes", "mistakes_total", "pairs", "explained", "explained_by", "files"),
)
#: Section -> title, in page order.
SECTIONS = {
    "protocol": "Protocol",
    "classes": "Classes",
    "confusion": "Confusion",
    "learning": "Learning curves",
    "curves": "ROC and PR curves",
    "calibration": "Calibration",
    "confidence": "Confidence",
    "episodes": "Episodes",
    "pose": "Head pose",
    "robustness": "Robustness",
    "explanation": "Explanation maps",
    "mistakes": "Worst mistakes",
    "pairs": "Most confused pairs",
    "labels": "Other labels",
    "mapping": "Class mapping",
    "duplicates": "Without duplicates",
    "reproduction": "Reproduction",
}
#: Narrow no-break space, between a number and its unit.
_THIN = "\u202f"
_DASH = "\N{EN DASH}"


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction in percent, a dash if missing."""
    return f"{value * 100:.{digits}f}{_THIN}%" if _is_number(value) else _DASH


def decimal(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed number of digits, a dash if missing."""
    return f"{value:.{digits}f}" if _is_number(value) else _DASH


def count(value: int | None) -> str:
    """Return an integer with thousands separators, a dash if missing."""
    return f"{value:,}" if _is_number(value) else _DASH


def interval(pair: Sequence[float] | None, digits: int = 3, as_percent: bool = False) -> str:
    """Return an interval, in percent if ``as_percent``; a dash if missing."""
    if pair is None or not all(map(_is_number, pair)):
        return _DASH
    low, high = (f"{value * (100 if as_percent else 1):.{digits}f}" for value in pair)
    return f"{low}{_THIN}{_DASH}{_THIN}{high}" + (f"{_THIN}%" if as_percent else "")


def words(key: str) -> str:
    """Return a JSON key as words."""
    return str(key).replace("_", " ").replace("ci95", "95 % interval")


def format_value(value: Any) -> str:
    """Return any value as text; floats with four significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, float):
        return f"{value:.4g}" if _is_number(value) else _DASH
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_value(item) for item in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


def _shown(report: Mapping[str, Any]) -> list[str]:
    """Return the sections with content."""
    figures = report["figures"]
    calibrated = any(report[key] is not None for key in ("nll", "ece", "brier", "temperature"))
    present = {
        "protocol": report["protocol"] or report["fingerprint"],
        "classes": True,
        "confusion": True,
        "learning": "curves" in figures,
        "curves": "roc" in figures or "precision_recall" in figures,
        "calibration": calibrated or "reliability" in figures,
        "confidence": report["coverage"] or "confidence" in figures or "coverage" in figures,
        "episodes": report["episodes"],
        "pose": report["pose"],
        "robustness": report["robustness"],
        "explanation": report["explained"],
        "mistakes": report["mistakes"] is not None,
        "pairs": report["pairs"] is not None,
        "labels": report["by_labels"] or report["votes"] or report["quantities"],
        "mapping": report["mapping"],
        "duplicates": report["without_duplicates"],
        "reproduction": True,
    }
    return [name for name in SECTIONS if present[name]]


def render(content: Mapping[str, Any]) -> str:
    """Return the page as HTML; see :func:`write_page`."""
    report = {**dict.fromkeys(_OPTIONAL), **content}
    missing = [key for key in REQUIRED if key not in report]
    if missing:
        raise KeyError(f"the report lacks {', '.join(missing)}")
    report["figures"] = {
        name: {style: html.png(data) for style, data in images.items()}
        for name, images in (report["figures"] or {}).items()
    }
    environment = html.environment("emotion_lab.reports")
    for function in (percent, decimal, count, interval, words, format_value):
        environment.filters[function.__name__] = function
    environment.filters["link"] = quote
    template = environment.get_template("report.html")
    return template.render(r=report, shown=_shown(report), titles=SECTIONS, thin=_THIN)


def write_page(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write ``report.html``, a single file without external resources.

    Args:
        folder: The run directory.
        content: The content of ``report.json`` (only :data:`REQUIRED` is required), and

            - ``figures``: name -> ``{"light": png, "dark": png}``, bytes, see
              :func:`emotion_lab.reports.evaluation.draw_figures`
            - ``mistakes``: list of :class:`emotion_lab.reports.examples.Example`;
              ``mistakes_total``: total number of wrong predictions
            - ``pairs``: list of :class:`emotion_lab.reports.examples.ConfusedPair`
            - ``explained``: list of :class:`emotion_lab.reports.examples.ClassExamples`;
              ``explained_by``: method of the maps, for instance ``"Grad-CAM"``
            - ``command``: the command line; ``seed``
            - ``files``: file name in the run directory -> description
    """
    path = folder / "report.html"
    if path.exists():
        raise UserError(f"{path} exists already and is not overwritten: give a new folder.")
    # Bytes of a path that are not valid Unicode are shown as \udcxx.
    page = render(content).encode("utf-8", "backslashreplace")
    try:
        atomic_write(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from error
    return path
