"""Recording and replay: exact frames and times, faces alone, cut and damaged recordings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.recording import HEADER, PICTURES, ROWS
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sinks.recording import RecordingSink
from emotion_lab.video.sources.open import open_source
from emotion_lab.video.types import Frame, FrameResult
from tests.helpers_sinks import CLASSES, face, lines
from tests.video.test_pipeline import FACE, make_pipeline

#: Irregular, and with more digits than a row of the log has.
TIMES = [0.0, 1 / 30, 0.1234567891234, 0.9]


def noisy_frames() -> list[Frame]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(TIMES), 60, 120, 3), dtype=np.uint8)
    return [
        Frame(image, 3 * i, time_s, 1.7e9 + time_s, "camera 0")
        for i, (image, time_s) in enumerate(zip(images, TIMES, strict=True))
    ]


def record(folder: Path, what: str = "frames", pipeline: Pipeline | None = None) -> Path:
    """Record the noisy frames without loss; without a pipeline, each has one face."""
    header = {"source": "camera 0", "fps": None, "truth": [], "classes": CLASSES}
    header |= {"settings": {}, "replay_of": None}
    if pipeline is not None:
        header["classes"] = pipeline.classes
    with RecordingSink(folder, header, what, "png") as sink:
        for frame in noisy_frames():
            result = FrameResult("camera 0", frame.index, frame.time_s, frame.wall, (120, 60))
            result.faces = [face(box=(10.25, 20.5, 30.0, 20.0))]
            sink.write(frame, result if pipeline is None else pipeline(frame))
    return folder


def replay(folder: Path) -> list[Frame]:
    with open_source({"source": str(folder)}) as source:
        return list(source)


def change_row(folder: Path, number: int, **values: object) -> None:
    rows = lines(folder / ROWS)
    rows[number] |= values
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / ROWS).write_text(text, encoding="utf-8")


def test_replay_has_the_same_pixels_numbers_and_times(tmp_path: Path) -> None:
    frames = replay(record(tmp_path / "rec"))
    for original, frame in zip(noisy_frames(), frames, strict=True):
        assert np.array_equal(original.image, frame.image)
        assert (frame.index, frame.time_s, frame.name) == (
            *(original.index, original.time_s),
            original.name,
        )
        assert frame.wall == pytest.approx(original.wall, abs=1e-6)
        assert frame.tracks is None


def test_decisions_are_recorded_with_every_frame(tmp_path: Path) -> None:
    rows = lines(record(tmp_path / "rec") / ROWS)
    assert [row["time_s"] for row in rows] == TIMES
    assert all(row["faces"][0]["label"] == "happy" for row in rows)
    header = json.loads((tmp_path / "rec" / HEADER).read_text())
    assert header["frames"] == len(TIMES) and header["what"] == "frames"


def test_faces_alone_give_the_same_labels_without_a_detector(tmp_path: Path) -> None:
    boxes = [[FACE[0], (70.5, 20.25, 44, 36)]] * len(TIMES)  # the second one is cut by the border
    folder = record(tmp_path / "rec", "faces", make_pipeline(boxes, "smoothing=ema"))
    frames = replay(folder)
    assert not frames[0].image[57:, :40].any()  # black below the first face
    pipeline = make_pipeline([], "smoothing=ema")
    pipeline.detector = None  # not used
    results = [pipeline(frame) for frame in frames]
    for row, result in zip(lines(folder / ROWS), results, strict=True):
        replayed = [(face.id, face.smoothed.round(6).tolist()) for face in result.faces]
        recorded = [(face["id"], list(face["smoothed"].values())) for face in row["faces"]]
        assert len(recorded) == 2
        assert [key for key, _ in replayed] == [key for key, _ in recorded]
        for (_, ours), (_, theirs) in zip(replayed, recorded, strict=True):
            assert ours == pytest.approx(theirs, abs=2e-6)


def test_faces_alone_have_a_limited_margin(tmp_path: Path) -> None:
    (frame, *_) = replay(record(tmp_path / "rec", "faces"))
    pipeline = make_pipeline([])
    pipeline.align, pipeline.classifier.crop_margin = True, 0.2
    pipeline(frame)
    pipeline.classifier.crop_margin = 0.3
    with pytest.raises(UserError, match=r"needs 2\.26 times the size .* or align=false"):
        pipeline(frame)
    pipeline.align = False
    pipeline(frame)
    pipeline.classifier.crop_margin = 0.7
    with pytest.raises(UserError, match=r"needs 2\.40 times the size"):
        pipeline(frame)


def test_smoothing_starts_again_in_each_repetition_of_recorded_faces(tmp_path: Path) -> None:
    folder = record(tmp_path / "rec", "faces")
    pipeline = make_pipeline([], "smoothing=ema")
    with open_source({"source": str(folder), "loop": True, "max_frames": 8}) as source:
        results = [pipeline(frame) for frame in source]
    first, again = (results[i].faces[0].smoothed for i in (0, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, results[3].faces[0].smoothed)


def test_landmarks_are_kept_with_faces_alone(tmp_path: Path) -> None:
    points = np.random.default_rng(1).uniform(10, 50, (5, 2)).astype(np.float32)
    header = {"source": "camera 0", "fps": None, "truth": [], "classes": CLASSES}
    with RecordingSink(
        tmp_path / "rec", header | {"settings": {}, "replay_of": None}, "faces"
    ) as sink:
        (original, *_) = noisy_frames()
        result = FrameResult("camera 0", 0, 0.0, 0.0, (120, 60), [face()])
        result.faces[0].landmarks = points
        sink.write(original, result)
    (frame,) = replay(tmp_path / "rec")
    assert np.array_equal(frame.tracks[0].landmarks, points)
    assert np.array_equal(frame.tracks[0].box, np.float32(face().box))


def test_rows_of_a_replay_are_equal_in_every_run(tmp_path: Path) -> None:
    folder = record(tmp_path / "rec")
    contents = []
    for name in ("a", "b"):
        source = open_source({"source": str(folder)})
        pipeline = make_pipeline([FACE] * len(TIMES), "smoothing=ema")
        header = {"source": source.name, "fps": None, "truth": [], "classes": pipeline.classes}
        header |= {"settings": {}, "replay_of": str(folder)}
        sink = RecordingSink(tmp_path / name, header, "none")
        PipelineRunner(source, pipeline, sinks=[sink]).run()
        contents.append((tmp_path / name / ROWS).read_bytes())
        rows = lines(tmp_path / name / ROWS)
        assert [row["wall"] for row in rows] == [round(1.7e9 + t, 6) for t in TIMES]
        assert {row["latency_ms"] for row in rows} == {None}
        assert json.loads((tmp_path / name / HEADER).read_text())["latency_ms"]["p50"] > 0
    assert contents[0] == contents[1]
    with pytest.raises(UserError, match=rf"is a replay without pictures: set source={folder}"):
        open_source({"source": str(tmp_path / "a")})


def test_a_killed_recording_ends_with_its_last_whole_frame(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = record(tmp_path / "rec")
    header = json.loads((folder / HEADER).read_text()) | {"frames": None}
    (folder / HEADER).write_text(json.dumps(header))
    with (folder / ROWS).open("a") as file:
        file.write('{"source": "camera 0", "fra')
    assert len(replay(folder)) == 4
    assert "cut short; its 4 whole frames are replayed" in capsys.readouterr().err
    last = folder / PICTURES / "00000009_0.png"
    last.write_bytes(last.read_bytes()[:-9])
    assert [frame.index for frame in replay(folder)] == [0, 3, 6]
    assert "its 3 whole frames" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"time_s": 0.01}, "line 3: time_s goes back from 0.0333333 to 0.01"),
        ({"frame": 2}, "line 3: frame goes back from 3 to 2"),
        ({"time_s": "soon"}, "line 3 is damaged"),
        ({"wall": None}, "line 3 is damaged"),
        ({"pictures": [{"file": "a.png"}]}, "line 3 is damaged"),
    ],
)
def test_a_damaged_index_is_one_line(
    values: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = record(tmp_path / "rec")
    change_row(folder, 2, **values)
    with pytest.raises(UserError, match=message):
        open_source({"source": str(folder)})


def test_pictures_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = record(tmp_path / "rec")
    pictures = lines(folder / ROWS)[2]["pictures"]
    change_row(folder, 2, pictures=[pictures[0] | {"file": "../secret.png"}])
    with pytest.raises(UserError, match=r"line 3 is refused: it names the file '\.\./secret\.png'"):
        open_source({"source": str(folder)})


def test_missing_and_wrong_pictures_are_one_line(tmp_path: Path) -> None:
    folder = record(tmp_path / "rec")
    second = folder / PICTURES / "00000003_0.png"
    data = second.read_bytes()
    second.unlink()
    with pytest.raises(UserError, match="the picture of frame 3 is missing or incomplete"):
        open_source({"source": str(folder)})
    second.write_bytes(bytes(len(data)))
    with pytest.raises(UserError, match="is no picture of its size in the index"):
        replay(folder)
    for file in (folder / PICTURES).iterdir():
        file.unlink()
    with pytest.raises(UserError, match="holds no whole frame"):
        open_source({"source": str(folder)})


def test_damaged_headers_are_one_line(tmp_path: Path) -> None:
    folder = record(tmp_path / "rec")
    header = json.loads((folder / HEADER).read_text())
    for text, message in (
        ("{", "is not the header of a recording"),
        (json.dumps(header | {"format": 99}), "has format 99"),
        (json.dumps({"format": 1}), "what, source, .* is missing"),
    ):
        (folder / HEADER).write_text(text)
        with pytest.raises(UserError, match=message):
            open_source({"source": str(folder)})


def test_a_recording_cannot_drop_frames(tmp_path: Path) -> None:
    folder = record(tmp_path / "rec")
    with pytest.raises(UserError, match="set realtime=false"):
        open_source({"source": str(folder), "realtime": True})
