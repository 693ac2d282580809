"""Figures: both styles, drawn numbers, classes without samples."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from emotion_lab.audits.figures import COLOURS
from emotion_lab.experiments.tuning.figures import lr_curve
from emotion_lab.reports import figures, style
from emotion_lab.reports.style import DARK, LIGHT, Draw, both, render

NAMES = ["angry", "happy", "sad"]
COUNTS = [[5, 1, 0], [2, 8, 1], [0, 0, 0]]
ROC = {
    "angry": {"fpr": [0, 0.2, 1], "tpr": [0, 0.7, 1], "auc": 0.751},
    "happy": {"fpr": [0, 0.1, 1], "tpr": [0, 0.9, 1], "auc": 0.902},
    "sad": None,
}
PR = {
    "angry": {"recall": [1, 0.5, 0], "precision": [0.3, 0.6, 1], "ap": 0.512},
    "happy": {"recall": [1, 0.5, 0], "precision": [0.6, 0.9, 1], "ap": 0.823},
    "sad": None,
}
BINS = [
    {"confidence": None, "accuracy": None, "count": 0},
    {"confidence": 0.45, "accuracy": 0.4, "count": 30},
    {"confidence": 0.85, "accuracy": 0.7, "count": 70},
]
COVERAGE = [
    {"coverage": 1.0, "accuracy": 0.61, "threshold": 0.2},
    {"coverage": 0.5, "accuracy": 0.82, "threshold": 0.6},
]
PER_CLASS = {
    "angry": {"precision": 0.7, "recall": 0.8, "f1": 0.75, "support": 6, "f1_ci95": [0.6, 0.9]},
    "happy": {"precision": 0.9, "recall": 0.7, "f1": 0.79, "support": 11, "f1_ci95": None},
    "sad": {"precision": None, "recall": None, "f1": None, "support": 0, "f1_ci95": None},
}
ROBUST = {
    "n": 17,
    "clean": 0.76,
    "blur": [0.7, 0.6, 0.5, 0.4, 0.3],
    "small_face": [0.71, 0.7, 0.69, 0.66, 0.6],
}
RIGHT = np.arange(100) % 3 > 0
CONFIDENCE = np.linspace(0.2, 0.99, 100)

HISTORY = """\
epoch,lr,train/loss,val/loss,train/accuracy,val/accuracy,train/macro_f1,val/macro_f1,best
0,0.01,1.8,1.7,0.3,0.31,0.2,0.21,False
1,0.02,1.5,1.4,0.4,0.42,0.3,0.33,True
2,0.01,1.4,1.5,0.5,0.41,0.4,0.32,False
"""

DRAWN: dict[str, Draw] = {
    "counts": partial(figures.confusion, COUNTS, NAMES, cells="count"),
    "shares": partial(figures.confusion, COUNTS, NAMES, cells="percent"),
    "roc": partial(figures.roc, ROC),
    "precision_recall": partial(figures.precision_recall, PR),
    "reliability": partial(figures.reliability, BINS, BINS, ece=0.1, ece_calibrated=0.05),
    "confidence": partial(figures.confidence, CONFIDENCE, RIGHT),
    "coverage": partial(figures.coverage, COVERAGE),
    "per_class": partial(figures.per_class, PER_CLASS),
    "robustness": partial(figures.robustness, ROBUST),
}


def drawn(draw: str | Draw) -> Figure:
    """Return a figure in the light style."""
    with matplotlib.rc_context(style._settings(LIGHT)):
        return (DRAWN[draw] if isinstance(draw, str) else draw)(LIGHT)


def texts(figure: Figure) -> list[str]:
    """Return all texts of a figure."""
    return [item.get_text() for item in figure.findobj(matplotlib.text.Text) if item.get_text()]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("name", DRAWN)
def test_both_styles(name: str, tmp_path: Path) -> None:
    images = both(DRAWN[name], tmp_path, name)
    assert (tmp_path / f"{name}.png").read_bytes() == images["light"]
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.png"]
    for look, png in ((LIGHT, images["light"]), (DARK, images["dark"])):
        picture = pixels(png)
        assert picture.shape[1] == round(figures.WIDTH * 180)
        assert picture.std() > 5, "the figure is blank"
        # The figure lies on a card of the page: a corner that is another colour shows as a box.
        assert tuple(picture[0, 0]) == ImageColor.getrgb(look.paper)


def test_global_settings_are_restored(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    both(DRAWN["roc"], tmp_path, "roc")
    assert dict(matplotlib.rcParams) == before


def test_confusion_cells() -> None:
    cells = texts(drawn("counts"))
    assert {str(value) for row in COUNTS[:2] for value in row} <= set(cells)
    shares = texts(drawn("shares"))
    assert {"83", "17", "18", "73", "9"} <= set(shares)  # 5/6, 1/6, 2/11, 8/11, 1/11
    assert shares.count("no samples") == 1 and "nan" not in " ".join(shares)


@pytest.mark.parametrize(
    ("name", "symbol", "curves", "keys"),
    [
        ("roc", "AUC", ROC, ("fpr", "tpr", "auc")),
        ("precision_recall", "AP", PR, ("recall", "precision", "ap")),
    ],
)
def test_roc_and_pr_points(
    name: str, symbol: str, curves: dict[str, Any], keys: tuple[str, ...]
) -> None:
    figure = drawn(name)
    lines = {line.get_label().split("  ")[0]: line for line in figure.axes[0].get_lines()}
    for label in ("angry", "happy"):
        curve = curves[label]
        assert list(lines[label].get_xdata()) == curve[keys[0]]
        assert list(lines[label].get_ydata()) == curve[keys[1]]
        assert f"{label}  {symbol} {curve[keys[2]]:.3f}" in texts(figure)
    assert "sad  no samples" in texts(figure)
    assert len(lines["sad"].get_xdata()) == 0
    looks = {(line.get_color(), line.get_linestyle()) for line in lines.values()}
    assert len(looks) == len(lines)


def test_single_class_has_no_area() -> None:
    curves = {"happy": {"fpr": [], "tpr": [], "auc": None}, "sad": None}
    labels = texts(drawn(partial(figures.roc, curves)))
    assert "happy  undefined" in labels and "sad  no samples" in labels


def test_more_classes_than_colours() -> None:
    curves = {f"class {i}": ROC["angry"] for i in range(20)}
    figure = drawn(partial(figures.roc, curves))
    lines = [line for line in figure.axes[0].get_lines() if "class" in str(line.get_label())]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_reliability_skips_empty_bins() -> None:
    figure = drawn("reliability")
    before = next(line for line in figure.axes[0].get_lines() if "before" in line.get_label())
    assert list(before.get_xdata()) == [0.45, 0.85] and list(before.get_ydata()) == [0.4, 0.7]
    assert "before, ECE 0.100" in texts(figure) and "after, ECE 0.050" in texts(figure)
    alone = texts(drawn(partial(figures.reliability, BINS, None, ece=0.1)))
    assert "as predicted, ECE 0.100" in alone and not any("after" in text for text in alone)


def test_confidence_and_coverage_labels() -> None:
    labels = texts(drawn("confidence"))
    means = CONFIDENCE[RIGHT].mean(), CONFIDENCE[~RIGHT].mean()
    assert f"right, n = {RIGHT.sum()}, mean {means[0]:.2f}" in labels
    assert f"wrong, n = {(~RIGHT).sum()}, mean {means[1]:.2f}" in labels
    assert "all images: 61.0 %" in texts(drawn("coverage"))
    line = drawn("coverage").axes[0].get_lines()[0]
    assert list(line.get_xdata()) == [0.5, 1.0] and list(line.get_ydata()) == [0.82, 0.61]


def test_confidence_without_wrong_predictions() -> None:
    labels = texts(drawn(partial(figures.confidence, CONFIDENCE, np.ones(100, bool))))
    assert "wrong, n = 0" in labels


def test_per_class_bars() -> None:
    labels = texts(drawn("per_class"))
    assert {"0.70", "0.80", "0.75", "0.90", "0.79"} <= set(labels)
    assert labels.count("no samples") == 1 and "sad\nn = 0" in labels
    assert "0.00" not in labels


def test_robustness_starts_with_clean() -> None:
    figure = drawn("robustness")
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert list(panels) == ["blur", "small face"]
    own = panels["blur"].get_lines()[-1]
    assert list(own.get_ydata()) == [0.76, *ROBUST["blur"]]
    assert "30 %" in texts(figure) and "60 %" in texts(figure)


def test_curves_mark_the_best_epoch(tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    history.write_text(HISTORY)
    draw = partial(figures.curves, history)
    loss = {line.get_label(): line for line in drawn(draw).axes[0].get_lines()}
    assert list(loss["train"].get_ydata()) == [1.8, 1.5, 1.4]
    assert list(loss["val"].get_ydata()) == [1.7, 1.4, 1.5]
    assert list(loss["best"].get_xdata()) == [2, 2]
    # The colours of the splits are the same in every figure.
    assert loss["train"].get_color() == COLOURS["train"] == LIGHT.train
    assert loss["val"].get_color() == COLOURS["val"] == LIGHT.val
    (curve, *_) = lr_curve([0.1, 1.0], [2.0, 1.0], 1.0, LIGHT).axes[0].get_lines()
    assert curve.get_color() == LIGHT.train
    assert pixels(render(draw, DARK)).std() > 5


HOSTILE = ["$x^{$", "_hidden", "<b>&", "a\nb", "x" * 200, "\udcff", "心"]


def test_names_are_not_parsed() -> None:
    curves = dict.fromkeys(HOSTILE, ROC["angry"])
    rows = dict.fromkeys(HOSTILE, PER_CLASS["angry"])
    counts = np.eye(len(HOSTILE), dtype=int)
    for draw in (
        partial(figures.roc, curves),
        partial(figures.per_class, rows),
        partial(figures.confusion, counts, HOSTILE, cells="both", title="$x^{$"),
    ):
        assert pixels(render(draw, LIGHT)).std() > 5
    labels = texts(drawn(partial(figures.roc, curves)))
    assert "$x^{$  AUC 0.751" in labels and " _hidden  AUC 0.751" in labels
    assert max(len(text) for text in labels) < 40
