"""Predictions files: round trip, and one-line errors for damaged runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.predictions_file import differ, read_predictions, write_predictions
from tests.experiments.test_compare import CLASSES, HASH, LABELS, NAMES, guesses, write_run


def test_round_trip(tmp_path: Path) -> None:
    predicted = guesses(0.5, 0)
    saved = read_predictions(write_run(tmp_path / "run", predicted, seed=7), "val")
    assert saved.classes == CLASSES and saved.names == NAMES and saved.split == "val"
    np.testing.assert_array_equal(saved.labels, LABELS)
    np.testing.assert_array_equal(saved.predicted, predicted)
    np.testing.assert_array_equal(saved.probabilities.argmax(1), predicted)
    assert saved.labels.dtype == np.int64 and saved.probabilities.dtype == np.float64
    assert saved.probabilities.shape == (120, 3)
    assert saved.seed == 7 and saved.fingerprint["hash"] == HASH
    assert saved.metrics["commit"] == "abc"


def test_evaluate_run_directory(tmp_path: Path) -> None:
    """report.json, or else metrics.json, names the split of ``predictions.csv``."""
    folder = write_run(tmp_path / "run", LABELS, seed=None)
    (folder / "predictions_val.csv").rename(folder / "predictions.csv")
    saved = read_predictions(folder, "val")
    assert len(saved.names) == 120 and saved.seed is None
    (folder / "metrics.json").unlink()
    report = {"split": "train", "n": 120, "fingerprint": {"hash": HASH}}
    (folder / "report.json").write_text(json.dumps(report))
    assert read_predictions(folder, "train").fingerprint == {"hash": HASH}
    with pytest.raises(UserError, match=r"no predictions of val .* those of train"):
        read_predictions(folder, "val")


def test_unusual_names(tmp_path: Path) -> None:
    names = [*NAMES[:-3], "a, b.png", 'say "x"\n.png', "\udcff.png"]
    folder = write_run(tmp_path / "run", LABELS)
    path, saved = folder / "predictions_val.csv", read_predictions(folder, "val")
    arrays = (saved.labels, saved.predicted, saved.probabilities)
    write_predictions(path, names, *arrays, saved.classes)
    assert b"\xff.png" in path.read_bytes()
    assert read_predictions(folder, "val").names == names


def _no_run(run: Path) -> None:
    for file in run.iterdir():
        file.unlink()
    run.rmdir()


def _file(run: Path) -> None:
    _no_run(run)
    run.write_text("x")


def _edit(old: str, new: str, count: int = 1) -> Any:
    def edit(run: Path) -> None:
        path = run / "predictions_val.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    return edit


def _metrics(text: str | None) -> Any:
    def edit(run: Path) -> None:
        if text is None:
            (run / "metrics.json").unlink()
        else:
            (run / "metrics.json").write_text(text)

    return edit


FIRST = "faces/000.png,happy,happy,0.6,0.2,0.2"
BAD = {
    "no run": (_no_run, "no such run"),
    "a file": (_file, "is a file: give the run directory"),
    "other split": (lambda run: (run / "predictions_val.csv").rename(run / "predictions_test.csv"),
                    "no predictions of val .*: it has those of test"),
    "nothing": (lambda run: (run / "predictions_val.csv").unlink(), "it has none at all"),
    "unknown split": (lambda run: [(run / "predictions_val.csv").rename(run / "predictions.csv"),
                                   _metrics("{}")(run)], "the split of .* is unknown"),
    "other scores": (_metrics('{"val": {"n": 120, "accuracy": 0.9}}'),
                     "is inconsistent: .* has val accuracy 0.9000, .* of 120 correct"),
    "other n": (_metrics('{"val": {"n": 9}}'), "val with 9 images, its predictions file 120"),
    "other confusion": (_metrics(json.dumps(
        {"val": {"n": 120, "classes": CLASSES, "confusion": [[120, 0, 0], [0, 0, 0], [0, 0, 0]]}})),
                        "another confusion matrix .* edited"),
    "no metrics": (_metrics(None), "predictions but no metrics.json"),
    "damaged metrics": (_metrics('{"val": '), "metrics.json is damaged"),
    "list as metrics": (_metrics("[]"), "metrics.json is damaged"),
    "header": (_edit("path,true", "name,true"), "row 1: expected the columns path,true"),
    "columns": (_edit("p_sad", "sad"), "row 1: expected the columns"),
    "two of a class": (_edit("p_sad", "p_happy"), "row 1: a class has two columns"),
    "cut off": (_edit(FIRST, "faces/000.png,happy,hap"), "row 2: 3 columns, expected 6"),
    "unknown class": (_edit("0.png,happy", "0.png,bliss"), "row 2: the class 'bliss' has no"),
    "no number": (_edit(FIRST, FIRST[:-3] + "x"), "row 2: a probability is not a number"),
    "NaN": (_edit(FIRST, FIRST[:-3] + "nan"), "row 2: a probability is NaN or infinite"),
    "infinite": (_edit(FIRST, FIRST[:-3] + "inf"), "row 2: a probability is NaN or infinite"),
    "negative": (_edit(FIRST, FIRST[:-7] + "0.6,-0.2"), "row 2: a probability is negative"),
    "sum": (_edit(FIRST, FIRST[:-3] + "0.1"), "row 2: the probabilities do not sum to 1"),
    "prediction": (_edit(FIRST, "faces/000.png,happy,sad,0.6,0.2,0.2"),
                   "row 2: the predicted class is not the most probable"),
    "twice": (_edit("faces/001", "faces/000"), "row 3: 'faces/000.png' is already in row 2"),
    "open quote": (_edit("faces/001", '"faces/001'), "row 121: 1 columns, expected 6"),
    "empty": (lambda run: (run / "predictions_val.csv").write_text(""), "row 1: .* got nothing"),
    "no rows": (lambda run: (run / "predictions_val.csv").write_text(
        "path,true,predicted,p_a,p_b\n"), "has no predictions"),
    "one class": (lambda run: (run / "predictions_val.csv").write_text(
        "path,true,predicted,p_a\nx,a,a,1\n"), "row 1: 1 class; at least 2"),
    "no classes": (lambda run: (run / "predictions_val.csv").write_text(
        "path,true,predicted\nx,a,a\n"), "row 1: 0 classes; at least 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_runs(case: str, tmp_path: Path) -> None:
    spoil, words = BAD[case]
    predicted = guesses(0.5, 0)
    predicted[0] = 0
    run = write_run(tmp_path / "run", predicted)
    spoil(run)
    with pytest.raises(UserError, match=words) as raised:
        read_predictions(run, "val")
    assert str(run) in str(raised.value) and "\n" not in str(raised.value)


def test_hashes_of_pixels_and_of_files_are_not_compared() -> None:
    """Fingerprints of earlier versions do not say what they hash."""
    pixels, old = {"hash": "a", "of": "pixels"}, {"hash": "b"}
    assert differ(pixels, {"hash": "b", "of": "pixels"}) and differ(old, {"hash": "c"})
    assert not differ(pixels, pixels) and not differ(pixels, old)
    assert not differ(pixels, {"hash": "b", "of": "file"})


def test_groups_are_a_column(tmp_path: Path) -> None:
    predicted = guesses(0.5, 0)
    run = write_run(tmp_path / "run", predicted)
    saved = read_predictions(run, "val")
    groups = [f"p{i % 7}" for i in range(len(NAMES))]
    arguments = (saved.labels, saved.predicted, saved.probabilities, CLASSES)
    write_predictions(run / "predictions_val.csv", NAMES, *arguments, groups)
    read = read_predictions(run, "val")
    assert read.groups == groups and saved.groups is None
    np.testing.assert_array_equal(read.probabilities, saved.probabilities)
