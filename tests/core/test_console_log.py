"""The console output of a run in its log file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from emotion_lab.core.console_log import console_log, with_log_of, without_log
from emotion_lab.core.errors import UserError


def test_both_streams_and_the_error_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, streams = tmp_path / "train.log", (sys.stdout, sys.stderr)
    file.write_text("first session\n")
    with pytest.raises(UserError), console_log(file):
        print("\x1b[1;36mepoch\x1b[0m 1")
        print("a warning", file=sys.stderr)
        without_log(sys.stdout).write("bar\n")
        raise UserError("the disk is full")
    assert (sys.stdout, sys.stderr) == streams
    assert file.read_text() == "first session\nepoch 1\na warning\nthe disk is full\n"
    captured = capsys.readouterr()
    assert captured.out == "\x1b[1;36mepoch\x1b[0m 1\nbar\n" and captured.err == "a warning\n"


def test_lines_above_a_progress_bar_reach_the_log(tmp_path: Path) -> None:
    """A live display replaces sys.stdout; the bar itself is not logged."""
    from rich.console import Console
    from rich.progress import Progress

    file = tmp_path / "train.log"
    with console_log(file):
        before = sys.stdout
        console = Console(file=without_log(sys.stdout), force_terminal=True)
        with Progress(console=console, transient=True) as progress:
            progress.add_task("a bar", total=3)
            sys.stdout = with_log_of(before, sys.stdout)
            print("epoch 1")
            assert sys.stdout.isatty() is before.isatty()
        assert sys.stdout is before
        print("epoch 2")
    assert file.read_text() == "epoch 1\nepoch 2\n"
