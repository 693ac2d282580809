"""Worker processes: every file exactly once, also if a process is killed."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest

from emotion_lab.video.batch.base import Chunk, FileItem, FileResult
from emotion_lab.video.batch.engines import local
from emotion_lab.video.recognizer import EmotionRecognizer


def fake_work(chunk: Chunk) -> list[FileResult]:
    """Return a result for each file; a file ``killer`` ends the process."""
    results = []
    for item in chunk:
        if item.name == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        results.append(FileResult(item.name, b"", 0, 0, 0, ""))
    return results


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_killed_process_loses_nothing(
    config: dict[str, Any], model: EmotionRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_work", fake_work)
    names = [f"{index}.jpg" for index in range(20)]
    names.insert(7, "killer")
    items = [FileItem(name, name) for name in names]
    chunks = [items[start : start + 2] for start in range(0, len(items), 2)]
    config = {**config, "engine": {"name": "local", "workers": 2}}
    results = list(local.LocalEngine(config).run(chunks, model))
    assert sorted(result.name for result in results) == sorted(names)
    errors = {result.name: result.error for result in results if result.error}
    assert errors == {"killer": "the process ended while it read this file"}


@pytest.mark.parametrize(
    ("workers", "photos", "clips", "expected"),
    [
        (None, 3, 0, 1),
        (None, 80, 0, 4),
        (None, 9, 0, 2),
        (None, 0, 2, 2),
        (3, 2, 0, 2),
        (3, 9, 0, 3),
    ],
)
def test_number_of_processes(
    workers: int | None,
    photos: int,
    clips: int,
    expected: int,
    config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "cores", lambda: 4)
    chunks = [[FileItem("a.mp4", "")]] * clips + [[FileItem("a.jpg", "")]] * photos
    engine = local.LocalEngine({**config, "engine": {"name": "local", "workers": workers}})
    assert engine.num_workers(chunks) == expected
