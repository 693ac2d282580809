"""CSV files as spreadsheets save them."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_lab.core.csv_input import read_rows

ROWS = [["path", "label"], ["train/é/1.png", "sad"], ['a, b; c\t"d"\n.png', "happy"]]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_rows_come_back(tmp_path: Path, delimiter: str, encoding: str) -> None:
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in ROWS[2:]]
    text = "\r\n".join(delimiter.join(row) for row in [*ROWS[:2], *quoted]) + "\r\n"
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert read_rows(tmp_path / "a.csv") == ROWS


def test_unusual_content(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"")
    assert read_rows(path) == []
    path.write_bytes(b"path\ncaf\xe9 \xe2\x80\xa8.png\n")  # a byte of Latin-1, a line separator
    assert read_rows(path) == [["path"], ["caf\udce9 \u2028.png"]]
