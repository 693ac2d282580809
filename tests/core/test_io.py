"""Scratch folders: removed at the end, and after a killed process at the next start."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from emotion_lab.core.io import scratch_folder


def hold(parent: Path, ready: Any) -> None:
    with scratch_folder(parent, ".export-") as folder:
        (folder / "part").write_bytes(b"x")
        ready.set()
        signal.pause()


def folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()]


def test_a_folder_is_removed_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), scratch_folder(tmp_path, ".export-") as folder:
        (folder / "part").write_bytes(b"x")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_folders_of_killed_processes_are_removed_at_the_next_start(tmp_path: Path) -> None:
    """Those of running processes, and folders of other names, are kept."""
    (tmp_path / ".export-notes").mkdir()
    context = multiprocessing.get_context("fork")
    processes = []
    for _ in range(2):
        ready = context.Event()
        process = context.Process(target=hold, args=(tmp_path, ready), daemon=True)
        process.start()
        assert ready.wait(60)
        processes.append(process)
    killed, running = processes
    try:
        assert len(folders(tmp_path)) == 3
        os.kill(int(killed.pid or 0), signal.SIGKILL)
        killed.join(60)
        before = set(folders(tmp_path))
        assert len(before) == 3, "nobody cleans up after SIGKILL"
        with scratch_folder(tmp_path, ".export-") as folder:
            left = before & set(folders(tmp_path))
            assert len(left) == 2 and tmp_path / ".export-notes" in left and folder not in left
    finally:
        running.kill()
        running.join(60)
    with scratch_folder(tmp_path, ".export-"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / ".export-notes"]
