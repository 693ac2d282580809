"""Leaderboard reports as text: terminal, CSV, escaping of names, histories."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from emotion_lab.core import runs as run_folders
from emotion_lab.experiments.leaderboard import grouping, paper, report
from emotion_lab.experiments.leaderboard.table import build_leaderboard
from tests.experiments.test_leaderboard import ranked, three, write_run


def test_terminal_lines(tmp_path: Path) -> None:
    result = ranked(three(tmp_path))
    text = "\n".join(map(str, report.lines(result)))
    best = result["groups"][0]["macro_f1"]
    assert f"{best['mean']:.4f} ± {best['std']:.4f}" in text
    last = report.lines(result)[-1]
    assert last == report.sentence(result)
    assert "best by val macro F1: optim.lr=0.001" in last and "n = 240" in last
    assert last.endswith("1 of the other 2 are not distinguishable from it")
    assert "warning: The val score of the best of 3 configurations (9 runs) is optimistic" in text
    assert "p (Holm)" in text and "worse" in text


def test_csv_has_all_numbers(tmp_path: Path) -> None:
    result = ranked(three(tmp_path))
    rows = list(csv.DictReader(io.StringIO(report.csv_text(result))))
    assert [row["optim.lr"] for row in rows] == ["0.001", "0.0001", "0.01"]
    for row, group in zip(rows, result["groups"], strict=True):
        for score in ("accuracy", "macro_f1"):
            assert float(row[f"{score}_mean"]) == pytest.approx(group[score]["mean"], rel=1e-5)
            assert float(row[f"{score}_std"]) == pytest.approx(group[score]["std"], rel=1e-5)
            assert len(row[f"{score}_mean"]) <= 8
        assert row["seeds"] == "1 2 3" and row["n_seeds"] == "3"
        assert row["verdict"] == report.verdict(group) and int(row["test_openings"]) == 0
    p_holm = result["groups"][2]["against_best"]["p_holm"]
    assert float(rows[2]["p_holm"]) == pytest.approx(p_holm, rel=1e-5)
    assert rows[0]["p"] == "" and rows[0]["latency_ms"] == ""


def test_tables_for_a_paper(tmp_path: Path) -> None:
    """Markdown and LaTeX show mean ± std, n and the interval of each difference."""
    result = ranked(three(tmp_path))
    best, second = result["groups"][:2]
    mean, std = (100 * best["macro_f1"][part] for part in ("mean", "std"))
    rows = paper.markdown(result).splitlines()
    assert rows[0].startswith("| configuration | seeds | macro F1 (%) | accuracy (%) | Δ to best")
    assert rows[2].startswith(f"| optim.lr=0.001 | 3 | {mean:.1f} ± {std:.1f} | ")
    assert rows[2].endswith("| – | – |") and len(rows) == 2 + 3 + 2
    low, high = (100 * value for value in second["against_best"]["ci95"])
    assert f"({low:+.1f} to {high:+.1f})" in rows[3] and "n = 240 images" in rows[-1]
    text = paper.latex(result)
    assert f"optim.lr=0.001 & 3 & {mean:.1f} $\\pm$ {std:.1f} & " in text
    assert text.count("\\\\\n") == 4 and text.count("&") == 4 * 5
    result["groups"][0]["name"] = "a_b&c|d"
    assert r"a\_b\&c|d & 3" in paper.latex(result)
    assert r"| a\_b&c\|d | 3" in paper.markdown(result)


def test_names_are_escaped_in_csv_and_terminal(tmp_path: Path) -> None:
    """A name must not be a formula in a spreadsheet or an escape sequence in a terminal."""
    write_run(tmp_path / "a", 0.5, loss__name="=1+1", optim__lr=-0.5, model__name="\x1b[31m\u202e")
    write_run(tmp_path / "b", 0.6, loss__name="@x", optim__lr=-1.5, model__name="b")
    result = ranked(tmp_path)
    (row,) = (
        r for r in csv.DictReader(io.StringIO(report.csv_text(result))) if "=1+1" in r["loss.name"]
    )
    assert row["loss.name"] == "'=1+1" and row["optim.lr"] == "-0.5"
    text = "\n".join(map(str, report.lines(result))) + report.csv_text(result)
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31m\\u202e" in text


def test_unreadable_histories_are_noted(tmp_path: Path) -> None:
    runs_dir = three(tmp_path)
    configurations = grouping.read([runs_dir], None)
    (runs_dir / "2" / "history.csv").unlink()
    (runs_dir / "3" / "history.csv").write_text("epoch,val/loss\n0,x\n")
    kept, notes = report.read_histories(
        configurations, build_leaderboard(configurations, runs_dir / "none")
    )
    assert [len(each) for each in kept] == [3, 3, 1]
    assert len(notes) == 1 and "sweep/2" in notes[0] and "sweep/3" in notes[0]
    assert run_folders.read(runs_dir / "1").history()[1]["best"] == 1
