"""Actors of Ray: the same results as in one process, also if an actor is killed."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.batch.listing import chunks, list_files
from emotion_lab.video.batch.worker import FileProcessor
from emotion_lab.video.recognizer import EmotionRecognizer

ray = pytest.importorskip("ray", reason="needs ray: pip install 'emotion_lab[scale]'")
psutil = pytest.importorskip("psutil")


def kill_one_actor(stop: threading.Event, killed: list[int]) -> None:
    """Kill the first actor that appears, once it has loaded its model."""
    while not stop.wait(0.2):
        for process in psutil.process_iter(["name", "cmdline"]):
            if "MapWorker" in " ".join(process.info["cmdline"] or []):
                time.sleep(3)
                process.kill()
                killed.append(process.pid)
                return


@pytest.mark.parametrize("killed", [False, True])
def test_every_result_comes_once(
    killed: bool, config: dict[str, Any], model: EmotionRecognizer, drawn: Path
) -> None:
    from emotion_lab.video.batch.engines.ray import RayEngine

    items, _ = list_files(str(drawn))
    expected = sorted(FileProcessor(config, model)(items), key=lambda result: result.name)
    options = {"name": "ray", "workers": 1, "num_cpus": 1, "num_gpus": 0}
    stop, pids = threading.Event(), list[int]()
    if killed:
        threading.Thread(target=kill_one_actor, args=(stop, pids), daemon=True).start()
    engine = RayEngine({**config, "engine": options})
    results = list(engine.run(chunks(items, photos=1), model))
    stop.set()
    assert bool(pids) is killed
    assert sorted(results, key=lambda result: result.name) == expected


def test_another_version(
    config: dict[str, Any], model: EmotionRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emotion_lab.video.batch.engines import ray as engine

    monkeypatch.setattr(engine, "program_version", lambda: "0.0.9 (abc)")
    options = {"name": "ray", "workers": 1, "num_cpus": 1, "num_gpus": 0}
    with pytest.raises(UserError, match=r"has emotion_lab 0\.1.*this machine has 0\.0\.9"):
        list(engine.RayEngine({**config, "engine": options}).run([[]], model))
