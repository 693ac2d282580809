"""The command predict with many files: rows, resume, errors."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from emotion_lab import predict
from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.video.batch import run as batch_run
from emotion_lab.video.batch.checks import check_cluster, result_settings
from tests.conftest import composed
from tests.helpers_sinks import lines

QUICK = ("detector=haar", "backend=onnxruntime", "backend.threads=1")


@pytest.fixture
def run_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs ``predict`` in this process."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        for name in ("HYDRA_FULL_ERROR", "EMOTION_LAB_FULL_ERROR"):
            monkeypatch.setenv(name, "0")  # restores the value that main sets
        monkeypatch.setattr("sys.argv", ["predict", *QUICK, *arguments])
        code = 0
        try:
            predict.main()
        except SystemExit as exit_info:
            code = int(exit_info.code or 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


Run = Callable[..., tuple[int, str, str]]


def test_broken_file_then_resume(run_predict: Run, files: Path, tmp_path: Path) -> None:
    arguments = (f"source={files}", "out=out")
    code, printed, errors = run_predict(*arguments)
    assert code == 1
    assert "6 files, 1 of them broken; 15 rows" in printed
    last = errors.strip().splitlines()[-1]
    assert last.startswith("1 of 6 files are broken, listed in ") and "cut.jpg" in last
    rows = lines(tmp_path / "out" / "predictions.jsonl")
    assert [row["source"] for row in rows if "error" in row] == ["cut.jpg"]
    shutil.copy(files / "photo0.jpg", files / "cut.jpg")
    code, _, errors = run_predict(*arguments, "resume=true", "detector.min_neighbors=3")
    assert code == 2 and "detector.min_neighbors was 5 in out=out, now it is 3" in errors
    code, printed, _ = run_predict(*arguments, "resume=true")
    assert code == 0 and "resume: 5 of 6 files are done already" in printed
    again = lines(tmp_path / "out" / "predictions.jsonl")
    assert again[:-1] == [row for row in rows if "error" not in row]
    assert again[-1]["source"] == "cut.jpg" and again[-1]["size"] == [166, 200]


def test_only_a_run_with_the_same_rows_is_continued() -> None:
    def settings(*overrides: str) -> dict[str, Any]:
        return result_settings(OmegaConf.create(composed(*overrides, entry="predict")))

    assert settings() == settings("format=both", "engine.workers=2")
    for other in ("detector.size=640", "ckpt=a", "enrol=me.jpg", "detector.file=a.onnx"):
        assert settings() != settings(other), other
    temporal = [settings("smoothing=temporal", f"smoothing.ckpt={run}") for run in "ab"]
    assert temporal[0] != temporal[1]


def test_errors_are_one_line(run_predict: Run, files: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("none.jpg\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.parquet").mkdir()
    mistakes = {
        ("source=list.txt",): "source=list.txt: 1 file does not exist (line 1: none.jpg)",
        ("source=x/*.jpg",): "source=x/*.jpg: no photo or clip found",
        (f"source={files}", "resume=true"): "resume=true needs the folder",
        (f"source={files}", "resume=true", "out=new"): "there is no interrupted run in out=new",
        (f"source={files}/clip.mp4", "resume=true", "out=new"): "resume=true is for many files",
        (f"source={files}", "engine=spark"): "Unknown engine 'spark'",
        (f"source={files}", "format=csv"): "expected one of jsonl, parquet, both",
    }
    if importlib.util.find_spec("pyarrow"):
        case = (f"source={files}", "out=out", "format=both")
        mistakes[case] = "out/predictions.parquet is a folder"
    else:
        case = (f"source={files}", "format=parquet")
        mistakes[case] = "format=parquet needs pyarrow, which is not installed: pip install"
    for arguments, message in mistakes.items():
        code, _, errors = run_predict(*arguments)
        assert code == 2, arguments
        assert message in errors and len(errors.strip().splitlines()) == 1, errors


def test_a_cluster_that_does_not_answer_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "auto", ""):
            check_cluster(address)
    for address in (f"127.0.0.1:{port}", "127.0.0.1:99999"):
        with pytest.raises(UserError, match=f"nothing answers at RAY_ADDRESS={address} "):
            check_cluster(address)


def test_all_processes_use_the_detector_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that could not download YuNet would use Haar without a word."""
    resolved = {**compose.defaults("detector", "yunet"), "file": "here/yunet.onnx"}
    monkeypatch.setattr(batch_run.auto, "resolve", lambda cfg: resolved)
    automatic = compose.defaults("detector", "auto")

    def config(detector: dict[str, Any], engine: str = "local") -> dict[str, Any]:
        return batch_run._one_detector({"detector": detector, "engine": {"name": engine}})

    assert config(automatic) == resolved
    assert config(automatic, "ray") == {**resolved, "file": None}
    haar = compose.defaults("detector", "haar")
    assert config(haar) == haar
    monkeypatch.setattr(batch_run.auto, "resolve", lambda cfg: haar)
    assert config(automatic, "ray") == haar
