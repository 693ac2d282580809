"""Text tables: plain and complete in a pipe, bordered on a terminal."""

from __future__ import annotations

import pytest

from emotion_lab.core.tables import TextTable, show

LONG = "optim.lr=tag(log,interval(1e-4,1e-2)) " * 4
TABLE = TextTable(["settings", "n"], [["loss=[b]", 3], [], [LONG, 10]])


def test_plain_text_is_aligned_and_never_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    header, first, separator, last = str(TABLE).splitlines()
    assert last == f"{LONG}  10" and separator == ""
    assert first.startswith("loss=[b] ") and first.endswith(" 3"), "markup is not interpreted"
    assert len(header) == len(first) == len(last)


def test_borders_are_printed_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show("2 jobs", TABLE)
    assert capsys.readouterr().out == f"2 jobs\n{TABLE}\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    show("2 jobs", TABLE)
    printed = capsys.readouterr().out
    assert printed.startswith("2 jobs\n") and "╭" in printed and "\x1b[" in printed
    monkeypatch.setenv("COLUMNS", "80")
    show(TABLE)
    assert capsys.readouterr().out == f"{TABLE}\n"
