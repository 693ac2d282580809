"""FER+ votes: join by row, majority and soft labels, both label sets in the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.data.build import load_data
from emotion_lab.data.ferplus import FerPlusVotes, majority_labels, vote_distribution
from tests.conftest import TINY, command, composed
from tests.data.helpers import USAGES, write_fer2013

HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)


def _vote_line(usage: str, **votes: int) -> str:
    names = HEADER.split(",")[2:]
    return ",".join([usage, "", *(str(votes.get(name, 0)) for name in names)])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Return a FER2013 file of 28 rows, each class in every split, and its votes file."""
    votes = [HEADER]
    ferplus_names = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    for row, usage in enumerate(USAGES):
        votes.append(_vote_line(usage, **{ferplus_names[row % 7]: 8, "contempt": 2}))
    votes[1] = _vote_line("Training", sadness=6, anger=4)  # row 0, labelled angry
    votes[2] = _vote_line("Training", NF=9, disgust=1)  # row 1
    votes[15] = _vote_line("PublicTest", contempt=7, anger=3)  # row 14
    csv, new = write_fer2013(tmp_path / "fer2013.csv"), tmp_path / "fer2013new.csv"
    new.write_text("\n".join(votes) + "\n")
    return csv, new


def _load(
    files: tuple[Path, Path], *overrides: str, splits: tuple[str, ...] = ("train", "val")
) -> Any:
    cfg = composed(f"data.path={files[0]}", f"data.ferplus_csv={files[1]}", *overrides)["data"]
    return load_data(cfg, splits)


def test_original_labels_by_default(files: tuple[Path, Path]) -> None:
    train = _load(files).splits["train"]
    assert train.labels.tolist() == [row % 7 for row in range(14)]
    assert train.soft is None
    assert train.label_sets["majority"][:2].tolist() == [EMOTIONS.index("sad"), -1]


def test_majority_labels(files: tuple[Path, Path]) -> None:
    source = _load(files, "data.label_source=majority")
    train, val = source.splits["train"], source.splits["val"]
    assert EMOTIONS[train.labels[0]] == "sad"
    assert EMOTIONS[train.labels[1]] == "disgust"  # the only vote for one of the classes
    assert train.label_sets["original"].tolist() == [row % 7 for row in range(14)]
    assert val.label_sets["majority"][0] == -1  # contempt won
    assert EMOTIONS[val.labels[0]] == "angry"


def test_soft_labels_are_vote_fractions(files: tuple[Path, Path]) -> None:
    train = _load(files, "data.label_source=soft").splits["train"]
    expected = np.zeros(7, np.float32)
    expected[EMOTIONS.index("sad")], expected[EMOTIONS.index("angry")] = 0.6, 0.4
    np.testing.assert_allclose(train.soft[0], expected)
    np.testing.assert_allclose(train.soft.sum(1), 1, rtol=1e-6)


def test_drop_not_face_changes_train_only(files: tuple[Path, Path]) -> None:
    complete = _load(files, splits=("train", "val", "test"))
    clean = _load(files, "data.drop_not_face=true", splits=("train", "val", "test"))
    assert len(clean.splits["train"]) == len(complete.splits["train"]) - 1
    assert "fer2013:1" not in list(clean.splits["train"].names)
    for name in ("val", "test"):
        assert list(clean.splits[name].names) == list(complete.splits[name].names)


def test_excluded_classes_have_no_votes(files: tuple[Path, Path]) -> None:
    source = _load(files, "data.label_source=soft", "data.exclude=[angry]")
    train = source.splits["train"]
    assert train.soft.shape == (12, 6)
    assert source.classes[0] == "disgust"
    assert train.labels.max() == 5


def test_majority_ties() -> None:
    votes = np.array([[3, 3, 1], [1, 3, 3], [0, 0, 0]])
    assert majority_labels(votes, np.array([1, 0, 2])).tolist() == [1, 1, 2]
    np.testing.assert_allclose(vote_distribution(votes, np.array([1, 0, 2]))[2], [0, 0, 1])


def test_invalid_votes_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    csv, new = files
    lines = new.read_text().splitlines()
    cases = {
        "is not FER+": "a,b\n1,2\n",
        "row 3: expected 10 integers": "\n".join([*lines[:4], lines[4].replace(",8,", ",x,")]),
        "has 5 rows": "\n".join(lines[:6]),
        r"row 0 is PrivateTest, but train in the data \(28": "\n".join([lines[0], *lines[:0:-1]]),
    }
    for message, text in cases.items():
        new.write_text(text)
        with pytest.raises(UserError, match=message.replace("+", r"\+")):
            _load(files)
    synthetic = composed("data=synthetic", "data.n=80", f"data.ferplus_csv={new}")["data"]
    with pytest.raises(UserError, match="belongs to data=fer2013"):
        load_data(synthetic, ("train",))
    with pytest.raises(UserError, match="need the FER\\+ votes"):
        load_data(composed(f"data.path={csv}", "data.label_source=soft")["data"], ("train",))


def test_soft_label_run_scores_both_label_sets(files: tuple[Path, Path], tmp_path: Path) -> None:
    done = command(
        f"data.path={files[0]}",
        f"data.ferplus_csv={files[1]}",
        *(text for text in TINY if not text.startswith("data")),
        *("data.label_source=soft", "data.batch_size=4", "mix.mixup=0.2", "trainer.max_epochs=1"),
        f"hydra.run.dir={tmp_path / 'run'}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["val"]["by_labels"]
    assert scores["original"]["n"] == 7 and scores["majority"]["n"] == 6
    assert "majority labels: n = 6" in done.stdout


@pytest.mark.parametrize("folds", ["null", "2"])
@pytest.mark.parametrize("cached", [False, True])
def test_votes_of_other_rows_are_refused(
    files: tuple[Path, Path], folds: str, cached: bool
) -> None:
    csv, _ = files
    lines = csv.read_text().splitlines()
    # Row 3 is missing: all later rows would get the votes of their predecessors.
    csv.write_text("\n".join([*lines[:4], *lines[5:]]) + "\n")
    for _ in range(1 + cached):
        with pytest.raises(UserError, match="has 28 rows, the data has 27"):
            _load(files, f"data.folds={folds}")
    # A row of test has moved into train: the numbers of rows agree.
    moved = [lines[0], *lines[1:4], lines[28], *lines[5:28], lines[4]]
    csv.write_text("\n".join(moved) + "\n")
    for _ in range(1 + cached):
        with pytest.raises(UserError, match=r"row 3 is Training, but test in the data \(2 such"):
            _load(files, f"data.folds={folds}")


@pytest.mark.fer2013
@pytest.mark.shared
def test_real_votes(fer2013_csv: Path, ferplus_csv: Path) -> None:
    source = _load((fer2013_csv, ferplus_csv), "data.drop_not_face=true")
    assert len(FerPlusVotes(ferplus_csv).counts) == 35_887
    val = source.splits["val"]
    agreement = (val.label_sets["majority"] == val.labels).mean()
    # Barsoum et al. relabelled roughly a third of FER2013.
    assert 0.55 < agreement < 0.8
    assert 28_000 < len(source.splits["train"]) < 28_709
