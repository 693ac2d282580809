"""Agreement of annotators in the audit, with values computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emotion_lab.audits.annotators import annotator_accuracy, annotator_agreement, table_rows
from emotion_lab.audits.html import train_command
from tests.conftest import command
from tests.data.helpers import USAGES, write_fer2013


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([[3, 0, 0]], 1.0),
        ([[2, 1, 0]], (2 * 0.5 + 0) / 3),  # each of the two meets one vote for and one against
        ([[3, 1, 0]], 3 / 4),
        ([[1, 1, 0]], 0.0),
        ([[2, 2, 0]], 0.0),  # the other votes are 2 to 1 against each of the four
        ([[1, 1, 1]], 0.0),
        ([[3, 2, 0]], 3 * 0.5 / 5),
        ([[3, 0, 0], [1, 1, 0], [1, 0, 0]], 3 / 5),  # a single vote has no others
        ([[1, 0, 0]], None),
    ],
)
def test_one_annotator_against_the_others(votes: list[list[int]], expected: float | None) -> None:
    value = annotator_accuracy(np.array(votes))
    assert value == (None if expected is None else pytest.approx(expected))


def test_lines_of_a_split() -> None:
    """Columns: two emotions in the file's order, then a category that is none."""
    votes = np.array([[4, 2, 0], [0, 6, 0], [3, 3, 0], [0, 2, 4], [2, 2, 2]])
    lines = annotator_agreement(votes, np.array([0, 0, 1, 1, 0]), np.array([1, 0]))
    assert (lines["n"], lines["n_ferplus"]) == (5, 2)  # a tie, a majority of no emotion, a tie
    # 4 of 6 votes meet a majority of 3 to 2 for them, the two others one of 4 to 1; then 6 of 6.
    assert lines["annotator"] == pytest.approx((4 + 6) / 12)
    assert lines["ferplus"] == 0.5
    # Most voted emotions: 0, 1, 1 (a tie: column 1 comes first), 1, 1.
    assert lines["most_voted"] == pytest.approx(3 / 5)
    assert table_rows({"val": lines})[2:] == [
        ["one annotator against the others", "83.3%"],
        ["FER+ label equals the FER2013 label", "50.0%"],
        ["most voted emotion equals the FER2013 label, all images", "60.0%"],
    ]


@pytest.mark.parametrize("labels", ["fer2013", "ferplus"])
def test_audit_with_votes(labels: str, tmp_path: Path) -> None:
    columns = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"]
    names = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    lines = [",".join(["Usage", "Image name", *columns, "contempt", "unknown", "NF"])]
    for row, usage in enumerate(USAGES):
        votes = [8 if name == names[row % 7] else 0 for name in columns]
        votes += [2, 0, 0] if row else [0, 0, 10]  # row 0: not a face
        lines.append(f"{usage},,{','.join(map(str, votes))}")
    csv, new = write_fer2013(tmp_path / "fer2013.csv"), tmp_path / "fer2013new.csv"
    new.write_text("\n".join(lines) + "\n")
    done = command(
        *(f"data.path={csv}", f"data.ferplus_csv={new}", f"data.labels={labels}"),
        f"hydra.run.dir={tmp_path / 'run'}",
        module="emotion_lab.audit",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "audit.json").read_text())
    kept = {"fer2013": (14, 13), "ferplus": (13, 13)}[labels]
    train = report["annotators"]["train"]
    assert (train["n"], train["n_ferplus"]) == kept
    assert train["annotator"] == pytest.approx(0.8) and train["ferplus"] == 1.0
    assert "one annotator against the others" in done.stdout
    assert "Annotators (FER+ votes)" in (tmp_path / "run" / "audit.html").read_text()
    training = train_command(report, tmp_path)
    assert (f"data.labels=ferplus data.ferplus_csv={new}" in training) == (labels == "ferplus")


@pytest.mark.fer2013
@pytest.mark.shared
def test_real_votes(fer2013_csv: Path, ferplus_csv: Path) -> None:
    """PublicTest: the values of docs/results.md."""
    from emotion_lab.audits.annotators import measure_annotators
    from emotion_lab.data.build import load_data
    from tests.conftest import composed

    cfg = composed(f"data.path={fer2013_csv}", f"data.ferplus_csv={ferplus_csv}")["data"]
    lines = measure_annotators(load_data(cfg, ("val",)), cfg)
    assert lines is not None and lines["val"]["n_ferplus"] == 3_199
    assert lines["val"]["annotator"] == pytest.approx(0.7995, abs=5e-5)
    assert lines["val"]["ferplus"] == pytest.approx(0.6677, abs=5e-5)
