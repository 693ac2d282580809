"""The leaderboard as text: the terminal, the CSV, names of any kind, histories."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from emotion_lab.core import runs as run_folders
from emotion_lab.experiments.leaderboard import grouping, report
from emotion_lab.experiments.leaderboard.table import board
from tests.experiments.test_leaderboard import ranked, three, write_run


def test_the_terminal(tmp_path: Path) -> None:
    result = ranked(three(tmp_path))
    text = "\n".join(report.lines(result))
    best = result["groups"][0]["macro_f1"]
    assert f"{best['mean']:.4f} ± {best['std']:.4f}" in text
    last = report.lines(result)[-1]
    assert last == report.sentence(result)
    assert "best by val macro F1: optim.lr=0.001" in last and "n = 240" in last
    assert last.endswith("not distinguishable from it: 1 of the other 2")
    assert "warning: The best of 3 configurations (9 runs) by val is optimistic" in text
    assert "p (Holm)" in text and "worse" in text


def test_the_csv_has_every_number(tmp_path: Path) -> None:
    result = ranked(three(tmp_path))
    rows = list(csv.DictReader(io.StringIO(report.table(result))))
    assert [row["optim.lr"] for row in rows] == ["0.001", "0.0001", "0.01"]
    for row, found in zip(rows, result["groups"], strict=True):
        for score in ("accuracy", "macro_f1"):
            assert float(row[f"{score}_mean"]) == found[score]["mean"]
            assert float(row[f"{score}_std"]) == found[score]["std"]
        assert row["seeds"] == "1 2 3" and row["n_seeds"] == "3"
        assert row["verdict"] == report.word(found) and int(row["test_openings"]) == 0
    assert float(rows[2]["p_holm"]) == result["groups"][2]["against_best"]["p_holm"]
    assert rows[0]["p"] == "" and rows[0]["latency_ms"] == ""


def test_names_are_text_everywhere(tmp_path: Path) -> None:
    """A spreadsheet runs no formula, a terminal no escape sequence."""
    write_run(tmp_path / "a", 0.5, loss__name="=1+1", optim__lr=-0.5, model__name="\x1b[31m\u202e")
    write_run(tmp_path / "b", 0.6, loss__name="@x", optim__lr=-1.5, model__name="b")
    result = ranked(tmp_path)
    (row,) = (
        r for r in csv.DictReader(io.StringIO(report.table(result))) if "=1+1" in r["loss.name"]
    )
    assert row["loss.name"] == "'=1+1" and row["optim.lr"] == "-0.5"
    text = "\n".join(report.lines(result)) + report.table(result)
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31m\\u202e" in text


def test_histories_are_read_or_missed_aloud(tmp_path: Path) -> None:
    place = three(tmp_path)
    found = grouping.read([place], None)
    (place / "2" / "history.csv").unlink()
    (place / "3" / "history.csv").write_text("epoch,val/loss\n0,x\n")
    kept, notes = report.histories(found, board(found, place / "none"))
    assert [len(each) for each in kept] == [3, 3, 1]
    assert len(notes) == 1 and "sweep/2" in notes[0] and "sweep/3" in notes[0]
    assert run_folders.read(place / "1").history()[1]["best"] == 1
