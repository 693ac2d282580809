"""The notebooks run from top to bottom on synthetic data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest

from tests.conftest import ROOT, command

pytest.importorskip("IPython", reason='IPython is missing: pip install "emotion_lab[docs]"')
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run(notebook: Path, cwd: Path) -> str:
    """Run every cell in a new process; return what it printed.

    IPython continues after a command of ``%run`` that failed, so its output is searched for errors.
    """
    done = command("--no-banner", "--colors=NoColor", str(notebook), module="IPython", cwd=cwd)
    failed = done.returncode or re.search(r"^error: |Traceback", done.stdout + done.stderr, re.M)
    assert not failed, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def headless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))


def test_a_failing_cell_fails(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(code) for code in ("a = 1", "%run -m emotion_lab.train x=1")]
    path = tmp_path / "bad.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(AssertionError, match=r"error: .*x"):
        run(path, tmp_path)


def test_quickstart(tmp_path: Path) -> None:
    out = run(ROOT / "notebooks" / "01_quickstart.ipynb", tmp_path)
    # Haar misses faces; YuNet finds all four.
    assert re.search(r"^[34] faces: \['", out, re.M)


def test_train_and_compare(tmp_path: Path) -> None:
    run(ROOT / "notebooks" / "02_train_and_compare.ipynb", tmp_path)
    comparison = json.loads((tmp_path / "outputs/compare/compare.json").read_text())
    assert comparison["seeds"] == 1 and comparison["n"] == 40
    assert (tmp_path / "outputs/leaderboard/leaderboard.csv").is_file()


def test_look_at_a_run(tmp_path: Path) -> None:
    out = run(ROOT / "notebooks" / "03_look_at_a_run.ipynb", tmp_path)
    assert "'n': 40" in out and "16055 parameters" in out


def test_your_own_data(tmp_path: Path) -> None:
    out = run(ROOT / "notebooks" / "04_your_own_data.ipynb", tmp_path)
    drop = (tmp_path / "outputs/own/audit/drop.csv").read_text()
    assert "copy.png" in drop or "000.png" in drop
    assert (
        len(re.findall(r"^\d{3}\.png (?:angry|happy|neutral|surprise) [01]\.\d+$", out, re.M)) == 5
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_saved_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
