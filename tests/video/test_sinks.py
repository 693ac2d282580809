"""JSON lines log and summary: content, full disks, interrupted runs, existing files."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.inference.derived import QUANTITIES
from emotion_lab.video.head_pose import HeadPose
from emotion_lab.video.sinks import base, timeline_figure
from emotion_lab.video.sinks.jsonl import JsonlSink
from emotion_lab.video.sinks.summary import SummarySink
from tests.helpers_sinks import CLASSES, HAPPY, ROOT, SAD, face, frame, frames_of, lines, result

# --- JSONL ----------------------------------------------------------------------------------------


def test_jsonl_has_one_complete_row_per_frame(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with JsonlSink(path, CLASSES) as sink:
        sink.write(frame(), result(0, 0.0, [face(), face(None, 2)]), None)
        sink.write(frame(), result(1, 0.04), None)
    first, second = lines(path)
    assert set(first) == {"source", "frame", "time_s", "wall", "size", "faces", "latency_ms"}
    assert first["source"] == "clip.mp4" and first["size"] == [320, 240]
    assert first["latency_ms"] == 4.5 and first["wall"] == 1.7e9
    happy, uncertain = first["faces"]
    assert happy["id"] == 1 and happy["box"] == [10.25, 20.5, 30.0, 40.0]
    assert happy["score"] == 0.91 and happy["label"] == "happy"
    assert list(happy["probabilities"]) == CLASSES and list(happy["smoothed"]) == CLASSES
    assert happy["probabilities"]["happy"] == 0.6 and happy["smoothed"]["happy"] == 0.4
    assert sum(happy["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert uncertain["id"] == 2 and uncertain["label"] is None
    assert second["faces"] == [] and second["frame"] == 1 and second["time_s"] == 0.04


def test_quantities_and_pose_are_written(tmp_path: Path) -> None:
    seen, empty = face(), face(None, 2)
    seen.quantities = {"valence": 0.123456, "valence_std": 0.2, "intensity": None}
    seen.quantity_source = {"valence": "derived", "intensity": "learned"}
    seen.pose, seen.turned_away = HeadPose(-12.3456, 4.0, 0.5), True
    with JsonlSink(tmp_path / "log.jsonl", CLASSES) as sink:
        sink.write(frame(), result(0, 0.0, [seen, empty]), None)
    first, second = lines(tmp_path / "log.jsonl")[0]["faces"]
    assert first["quantities"] == {"valence": 0.1235, "valence_std": 0.2, "intensity": None}
    assert first["quantity_source"] == {"valence": "derived", "intensity": "learned"}
    assert first["pose"] == {"yaw": -12.35, "pitch": 4.0, "roll": 0.5} and first["turned_away"]
    assert second["pose"] is None and second["turned_away"] is False


def test_summary_has_the_means_of_the_quantities(tmp_path: Path) -> None:
    with SummarySink(tmp_path / "run", CLASSES) as sink:
        for index, intensity in enumerate([0.2, None, 0.6]):
            seen = face()
            seen.quantities = {"valence": 0.1 * index, "valence_std": 9.0, "intensity": intensity}
            seen.quantity_source = {"valence": "derived", "intensity": "learned"}
            sink.write(frame(), result(index, index / 25, [seen]))
    (row,) = read_summary(tmp_path / "run")
    assert [row[name] for name in QUANTITIES] == ["0.100", "", "0.400"]
    assert [row[f"{name}_source"] for name in QUANTITIES] == ["derived", "", "learned"]


def test_jsonl_overwrites_only_with_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("mine\n")
    with pytest.raises(UserError, match=r"exists already.*overwrite=true"):
        JsonlSink(path, CLASSES)
    assert path.read_text() == "mine\n"
    with JsonlSink(path, CLASSES, overwrite=True) as sink:
        sink.write(frame(), result())
    assert len(lines(path)) == 1
    with pytest.raises(UserError, match="does not exist"):
        JsonlSink(tmp_path / "none" / "log.jsonl", CLASSES)
    with pytest.raises(UserError, match="is a folder"):
        JsonlSink(tmp_path, CLASSES)


def test_jsonl_refuses_nan(tmp_path: Path) -> None:
    bad = face()
    bad.smoothed = np.full(7, np.nan, np.float32)
    with JsonlSink(tmp_path / "log.jsonl", CLASSES) as sink:
        with pytest.raises(ValueError, match="JSON compliant"):
            sink.write(frame(), result(0, 0, [bad]))
        sink.write(frame(), result(1))
    assert [row["frame"] for row in lines(tmp_path / "log.jsonl")] == [1]


def test_disk_full_within_a_line_leaves_complete_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = 3000
    write = os.write

    def full(file: int, data: bytes) -> int:
        nonlocal free_bytes
        if free_bytes == 0:
            raise OSError(28, "No space left on device")
        written = write(file, data[:free_bytes])
        free_bytes -= written
        return written

    sink = JsonlSink(tmp_path / "log.jsonl", CLASSES)
    with monkeypatch.context() as patch, sink:
        patch.setattr(os, "write", full)
        with pytest.raises(UserError, match=r"No space left on device\. It contains \d complete"):
            for index in range(100):
                sink.write(frame(), result(index, 0, [face()]))
        free_bytes = 10**9
        sink.write(frame(), result(100))  # replaces the incomplete line
    rows = lines(tmp_path / "log.jsonl")
    assert [row["frame"] for row in rows] == [*range(len(rows) - 1), 100] and len(rows) > 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full exists on Linux only")
def test_full_disk_error_is_one_line() -> None:
    sink = JsonlSink("/dev/full", CLASSES, overwrite=True)
    with sink, pytest.raises(UserError, match="No space left on device") as info:
        sink.write(frame(), result())
    assert "\n" not in str(info.value)


_ENDLESS_RUN = """
import sys
from emotion_lab.video.sinks.jsonl import JsonlSink
from emotion_lab.video.sinks.video import VideoSink
from tests.helpers_sinks import CLASSES, face, frame, picture, result
with JsonlSink(sys.argv[1], CLASSES) as log, VideoSink(sys.argv[2], 25) as video:
    index = 0
    while True:
        log.write(frame(), result(index, index / 25, [face()]))
        video.write(frame(), result(index, index / 25), picture(value=index % 200))
        index += 1
        if index == 20:
            print("started", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_leaves_complete_lines_and_a_playable_video(
    tmp_path: Path, kind: signal.Signals
) -> None:
    log, clip = tmp_path / "log.jsonl", tmp_path / "out.mp4"
    process = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS_RUN, str(log), str(clip)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"started\n"
        process.send_signal(kind)
        process.wait(timeout=60)
    finally:
        process.kill()
    rows = lines(log)
    assert len(rows) >= 20 and [row["frame"] for row in rows] == [*range(len(rows))]
    assert log.read_bytes().endswith(b"}\n")
    if kind == signal.SIGINT:  # the index of an MP4 is written on closing
        assert abs(len(list(frames_of(clip))) - len(rows)) <= 1


# --- summary --------------------------------------------------------------------------------------


def read_summary(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_seconds_of_each_label_are_exact(tmp_path: Path) -> None:
    """25 fps: face 1 happy 1 s, uncertain 0.4 s, sad 0.6 s, away 1 s, happy 0.2 s; face 2 once."""
    plan: list[int | str | None] = [HAPPY] * 25 + [None] * 10 + [SAD] * 15 + ["away"] * 25
    plan += [HAPPY] * 5
    with SummarySink(tmp_path / "run", CLASSES) as sink:
        for index, label in enumerate(plan):
            faces = [] if label == "away" else [face(label, 1)]
            if 10 <= index < 20:
                faces.append(face(None, 2))
            sink.write(frame(), result(index, index / 25, faces))
    first, second = read_summary(tmp_path / "run")
    expected = {"id": "1", "first_s": "0.000", "last_s": "3.200", "seconds_seen": "2.200"}
    expected |= {"frames": "55", "dominant": "happy", "switches": "2", "happy_s": "1.200"}
    expected |= {"sad_s": "0.600", "uncertain_s": "0.400", "angry_s": "0.000"}
    assert {key: first[key] for key in expected} == expected
    expected = {"id": "2", "first_s": "0.400", "last_s": "0.800", "seconds_seen": "0.400"}
    expected |= {"frames": "10", "dominant": "uncertain", "switches": "0", "uncertain_s": "0.400"}
    assert {key: second[key] for key in expected} == expected
    assert list(first)[7:15] == [*(f"{name}_s" for name in CLASSES), "uncertain_s"]
    runs = [(round(a, 6), round(b, 6), k) for a, b, k in sink.faces[1].runs]
    assert runs == [(0, 1, HAPPY), (1, 1.4, None), (1.4, 2, SAD), (3, 3.2, HAPPY)]


def test_break_counts_for_one_second_at_most(tmp_path: Path) -> None:
    with SummarySink(tmp_path, CLASSES) as sink:
        for index, time_s in enumerate((0.0, 0.5, 60.0, 60.5)):
            sink.write(frame(), result(index, time_s, [face()]))
    (row,) = read_summary(tmp_path)
    assert row["seconds_seen"] == "2.500"  # 0.5 + 1 + 0.5 + 0.5
    assert [(a, b) for a, b, _ in sink.faces[1].runs] == [(0.0, 1.5), (60.0, 61.0)]


def test_clip_in_a_loop(tmp_path: Path) -> None:
    with SummarySink(tmp_path, CLASSES) as sink:
        for index, time_s in enumerate((0.0, 0.5, 0.0, 0.5)):
            sink.write(frame(), result(index, time_s, [face()]))
    (row,) = read_summary(tmp_path)
    assert (row["seconds_seen"], row["first_s"], row["last_s"]) == ("2.000", "0.000", "1.000")


def test_timeline_bars_are_proportional_to_time(tmp_path: Path) -> None:
    from emotion_lab.video.overlay.primitives import COLOURS

    with SummarySink(tmp_path, CLASSES) as sink:
        for index in range(100):
            label = HAPPY if index < 75 else SAD
            sink.write(frame(), result(index, index / 25, [face(label)]))
    image = cv2.cvtColor(cv2.imread(str(tmp_path / "timeline.png")), cv2.COLOR_BGR2RGB)
    counts = {}
    for name in ("happy", "sad", "fear"):
        matches = np.abs(image.astype(int) - np.array(COLOURS[name])).max(axis=2) <= 2
        counts[name] = int(matches.sum(axis=1).max())  # the longest row: the bar, not the legend
    assert counts["happy"] / counts["sad"] == pytest.approx(3, rel=0.05)
    assert counts["fear"] < 0.1 * counts["happy"]  # the legend only


@pytest.mark.parametrize("frames", [0, 1])
def test_run_without_a_face_writes_an_empty_summary(tmp_path: Path, frames: int) -> None:
    with SummarySink(tmp_path, CLASSES) as sink:
        for index in range(frames):
            sink.write(frame(), result(index))
    assert read_summary(tmp_path) == [] and (tmp_path / "timeline.png").stat().st_size > 1000


def test_summary_overwrites_nothing_and_reports_write_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "summary.csv").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        SummarySink(tmp_path, CLASSES)
    with pytest.raises(UserError, match="Cannot create the folder"):
        SummarySink(tmp_path / "summary.csv" / "x", CLASSES)
    sink = SummarySink(tmp_path, CLASSES, overwrite=True)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(base.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        sink.close()
    assert (tmp_path / "summary.csv").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.csv"]


def test_constant_label_is_one_run(tmp_path: Path) -> None:
    sink, image, faces = SummarySink(tmp_path, CLASSES), frame(), [face()]
    for index in range(20_000):
        sink.write(image, result(index, index / 25, faces))
    assert len(sink.faces[1].runs) == 1
    assert sink.faces[1].runs[0][1] == pytest.approx(19_999 / 25)


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0.0, 12.0, ["0", "2", "4", "6", "8", "10", "12"]),
        (0.0, 0.3, ["0.00", "0.05", "0.10", "0.15", "0.20", "0.25", "0.30"]),
        (95.0, 101.0, ["95", "96", "97", "98", "99", "100", "101"]),
        (0.0, 3600.0, ["0", "500", "1000", "1500", "2000", "2500", "3000", "3500"]),
    ],
)
def test_ticks_of_the_timeline(first: float, last: float, expected: list[str]) -> None:
    ticks = timeline_figure._ticks(first, last)
    assert [text for _, text in ticks] == expected
    assert [position for position, _ in ticks] == pytest.approx([float(text) for text in expected])
