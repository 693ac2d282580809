"""Result files of many files: resume, broken files, Parquet."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.inference.derived import DerivedOutputs, FaceQuantities
from emotion_lab.video.batch import parquet
from emotion_lab.video.batch.base import FileItem, FileResult
from emotion_lab.video.batch.output import LOG, TABLE, ResultFiles, keep_model
from emotion_lab.video.batch.worker import failed, file_row
from emotion_lab.video.head_pose import HeadPose
from emotion_lab.video.sinks.jsonl import json_line
from emotion_lab.video.types import Face, FrameResult

CLASSES = ["happy", "sad"]


def result(name: str, frames: int = 2) -> FileResult:
    lines = [json_line({"source": name, "frame": i, "faces": []}) for i in range(frames)]
    return FileResult(name, b"".join(lines), frames, 0, 0, "no face")


def sources(folder: Path) -> list[str]:
    return [json.loads(line)["source"] for line in (folder / LOG).read_bytes().splitlines()]


def test_resume_keeps_whole_files_only(tmp_path: Path) -> None:
    with ResultFiles(tmp_path) as files:
        assert files.write(result("a.mp4"))
        assert files.write(failed(FileItem("b.mp4", "b.mp4"), "not a video"))
        assert files.write(result("c, \u00e4.mp4"))
        assert not files.write(result("a.mp4"))  # nothing twice
        assert files.broken == {"b.mp4": "not a video"}
    with (tmp_path / LOG).open("ab") as file:
        file.write(result("d.mp4").lines + b'{"sour')  # killed before its line in files.csv
    with ResultFiles(tmp_path, resume=True) as files:
        assert files.done == {"a.mp4", "c, \u00e4.mp4"}
        assert sources(tmp_path) == ["a.mp4"] * 2 + ["c, \u00e4.mp4"] * 2
        files.write(result("b.mp4", 1))
        files.write(result("d.mp4", 1))
    assert sources(tmp_path)[4:] == ["b.mp4", "d.mp4"]
    with (tmp_path / TABLE).open(newline="", encoding="utf-8") as file:
        rows = {row["source"]: row["error"] for row in csv.DictReader(file)}
    assert rows == dict.fromkeys(["a.mp4", "c, \u00e4.mp4", "b.mp4", "d.mp4"], "")


def test_resume_of_files_that_do_not_belong_together(tmp_path: Path) -> None:
    with ResultFiles(tmp_path) as files:
        files.write(result("a.mp4"))
    (tmp_path / LOG).write_bytes(result("b.mp4").lines)
    before = (tmp_path / LOG).read_bytes()
    with pytest.raises(UserError, match="do not belong together"):
        ResultFiles(tmp_path, resume=True)
    assert (tmp_path / LOG).read_bytes() == before
    with pytest.raises(UserError, match=r"resume=true: .* lacks"):
        ResultFiles(tmp_path / "none", resume=True)


def test_resume_with_another_detector_or_checkpoint(tmp_path: Path) -> None:
    """detector=auto was Haar without a network; the checkpoint was replaced."""
    made_by = {"detector": "haar", "ckpt": "3f"}
    keep_model(tmp_path, resume=True, model=made_by)  # of a version without this file
    keep_model(tmp_path, resume=True, model=made_by)
    for key in made_by:
        with pytest.raises(UserError, match=f"are of {key} {made_by[key]}, now it is other"):
            keep_model(tmp_path, resume=True, model={**made_by, key: "other"})
    keep_model(tmp_path, resume=False, model={**made_by, "detector": "yunet"})


def frame_result(name: str, faces: int) -> FrameResult:
    scores = np.array([0.75, 0.25], np.float32)
    values = FaceQuantities(DerivedOutputs(CLASSES))
    quantities = values(scores, 0, np.zeros(0)), values.source
    found = [
        Face(i + 1, (1.5, 2, 3, 4), 0.9, scores, scores, 0, *quantities, HeadPose(1.0, 2.0, 3.0))
        for i in range(faces)
    ]
    return FrameResult(name, 3, 0.5, 1e9, (64, 48), found, latency_ms=7.0)


def test_row_holds_no_time_of_the_processing() -> None:
    row = json.loads(file_row("a.jpg", frame_result("x", 1), CLASSES))
    assert row["source"] == "a.jpg" and row["time_s"] == 0.5
    assert not {"wall", "latency_ms"} & row.keys()


def test_every_key_of_a_face_is_a_parquet_column() -> None:
    row = json.loads(file_row("a.jpg", frame_result("x", 1), CLASSES))
    flat = parquet.flatten_face(row["faces"][0])
    assert list(flat) == [c for c in parquet.columns(CLASSES) if c not in parquet.FRAME_COLUMNS]


def test_parquet(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    log = tmp_path / LOG
    lines = [file_row("a.jpg", frame_result("x", 2), CLASSES)]
    lines += [file_row("b.jpg", frame_result("x", 0), CLASSES)]
    lines += [failed(FileItem("c.jpg", "c.jpg"), "truncated").lines]
    log.write_bytes(b"".join(lines))
    parquet.write_parquet(log, tmp_path / parquet.NAME, CLASSES)
    rows = pq.read_table(tmp_path / parquet.NAME).to_pylist()
    assert list(rows[0]) == list(parquet.columns(CLASSES))
    assert [row["source"] for row in rows] == ["a.jpg", "a.jpg", "b.jpg", "c.jpg"]
    assert [row["id"] for row in rows] == [1, 2, None, None]
    assert rows[0]["smoothed_happy"] == 0.75 and rows[0]["image_width"] == 64
    assert rows[3]["error"] == "truncated" and rows[3]["frame"] is None
    with pytest.raises(UserError, match=r"Cannot write .*All results are in"):
        parquet.write_parquet(log, tmp_path / "none" / "x.parquet", CLASSES)
