"""Several sources in one process: isolation, outputs, refused lists."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf

from emotion_lab import live
from emotion_lab.core.errors import UserError
from emotion_lab.video import factory, several
from emotion_lab.video.anonymize import Anonymizer
from emotion_lab.video.detectors.full_frame import FullFrame
from emotion_lab.video.multi_runner import LoadMonitor, LostSourcesError, MultiRunner, raise_errors
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.recognizer import EmotionRecognizer
from emotion_lab.video.runner import PipelineRunner
from emotion_lab.video.sinks.video import VideoSink
from emotion_lab.video.sources.open import open_source
from emotion_lab.video.sources.several import named, open_all, source_list, source_names
from emotion_lab.video.sources.threaded import FrameSource
from emotion_lab.video.turns import Turns
from tests.conftest import composed
from tests.helpers_several import Greys, collected, make_runners
from tests.helpers_sinks import lines
from tests.helpers_sources import write_clip
from tests.helpers_web import SMOOTHING, FakeClassifier
from tests.video.test_pipeline import BrightnessClassifier
from tests.video.test_runner import Collector


def test_a_source_that_dies_or_stalls_harms_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    goes_on = threading.Event()

    def die(index: int) -> None:
        if index == 5:
            raise UserError("the cable is out")

    def stall(index: int) -> None:
        if index == 3:
            assert goes_on.wait(10)

    def release(index: int) -> None:
        if index == 39:  # the stalled source has held up nothing until here
            goes_on.set()

    readers = [Greys("dies", 9, wait=die), Greys("stalls", 6, True, stall)]
    runners = make_runners([*readers, Greys("good", 40, wait=release)], BrightnessClassifier())
    multi = MultiRunner(runners)
    multi.run()
    assert len(collected(runners["good"]).results) == 40
    assert collected(runners["stalls"]).results[-1].frame == 5  # it has come back
    assert len(collected(runners["dies"]).results) == 5
    assert all(collected(runner).closed for runner in runners.values())
    assert list(multi.errors) == ["dies"]
    assert "dies ended: the cable is out" in capsys.readouterr().err
    with pytest.raises(LostSourcesError, match=r"^1 of 3 sources .* dies: the cable is out$") as e:
        raise_errors(multi.errors, len(runners))
    assert e.value.exit_code == 1
    raise_errors({}, 3)
    # An unexpected error is printed when it comes, with its traceback, and once only.
    with pytest.raises(LostSourcesError, match="1 of 2 sources ended"):
        raise_errors({"dies": KeyError("frame")}, 2)


def test_a_camera_reconnects_beside_another_one(
    frame_counts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    frame_counts[:] = [31, 300, 31]  # both cameras, then the first one again; after that it is lost
    sources = [
        open_source({"source": 0, "reconnect_s": 0.2}),
        open_source({"source": 1, "max_frames": 120}),
    ]
    first = Pipeline(FullFrame({}), BrightnessClassifier(), SMOOTHING)
    sinks, turns = [Collector(), Collector()], Turns(2)
    runners = {
        name: PipelineRunner(source, first.clone(False), None, [sink], turns=turns)
        for name, source, sink in zip(("camera0", "camera1"), sources, sinks, strict=True)
    }
    multi = MultiRunner(runners)
    multi.run()
    assert len(sinks[1].results) == 120
    assert sinks[0].results[-1].frame > 31  # of the second connection
    assert list(multi.errors) == ["camera0"]
    errors = capsys.readouterr().err
    assert "Camera 0: reconnected after" in errors and "camera0 ended: Camera 0" in errors


def test_results_are_those_of_a_run_with_this_source_alone(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 40)

    def pipeline() -> Pipeline:
        smoothing = composed("smoothing=ema", entry="live")["smoothing"]
        return Pipeline(FullFrame({}), BrightnessClassifier(), smoothing, {"detect_every": 3})

    alone = Collector()
    PipelineRunner(open_source({"source": str(clip)}), pipeline(), None, [alone]).run()
    first, turns, sinks = pipeline(), Turns(2), [Collector() for _ in range(3)]
    opened = open_all({}, [str(clip), str(write_clip(tmp_path / "b.mp4", 30))])
    sources = [*opened, FrameSource(Greys("other", 50))]
    runners = {
        str(k): PipelineRunner(source, first.clone(False), None, [sinks[k]], turns=turns)
        for k, source in enumerate(sources)
    }
    MultiRunner(runners).run()
    assert [len(sink.results) for sink in sinks] == [40, 30, 50]
    for one, other in zip(alone.results, sinks[0].results, strict=True):
        assert (one.source, one.frame, one.time_s) == (other.source, other.frame, other.time_s)
        assert [f.id for f in one.faces] == [f.id for f in other.faces]
        assert [f.label for f in one.faces] == [f.label for f in other.faces]
        np.testing.assert_allclose(one.faces[0].smoothed, other.faces[0].smoothed, atol=1e-6)


def test_a_source_can_change_its_size(tmp_path: Path) -> None:
    readers = [Greys("cam", 40, sizes=[(64, 48), (128, 96)]), Greys("other", 40)]
    runners = make_runners(readers, BrightnessClassifier())
    anonymizer = Anonymizer("blur", [FullFrame({})])
    runners["cam"].overlay = Overlay({}, BrightnessClassifier.classes, "en", anonymizer)
    runners["cam"].sinks.append(VideoSink(tmp_path / "out.avi", 25.0))
    multi = MultiRunner(runners)
    multi.run()
    assert not multi.errors
    results = collected(runners["cam"]).results
    assert [result.size for result in results] == [(64, 48)] * 20 + [(128, 96)] * 20
    assert [face.id for result in results for face in result.faces] == [1] * 20 + [2] * 20
    assert results[20].faces[0].box == (0.0, 0.0, 128.0, 96.0)  # not smoothed over the change
    assert results[25].hidden
    with open_source({"source": str(tmp_path / "out.avi")}) as video:
        assert [frame.image.shape[:2] for frame in video] == [(48, 64)] * 40


def test_load_is_measured_for_live_sources_only() -> None:
    readers = [Greys("a", 1, live=True), Greys("b", 1, live=True), Greys("file", 1)]
    runners = make_runners(readers, BrightnessClassifier())
    before = dict.fromkeys(runners, (0, 0))
    slow = {"a": (50, 100), "b": (40, 110), "file": (500, 0)}
    assert LoadMonitor(runners)._report(before, slow, 5.0) == (
        "2 sources deliver 60 frames/s; this machine processes 18 of them, 9.0 frames/s of each "
        "source (8.0 to 10.0); for more, use fewer sources, smaller pictures or a larger "
        "tracking.detect_every."
    )
    good = {"a": (150, 0), "b": (149, 1), "file": (50, 0)}
    assert LoadMonitor(runners)._report(before, good, 5.0) == ""
    # On the page files have a pace too: 25 frames/s here.
    late = {"a": (150, 0), "b": (150, 0), "file": (50, 0)}
    report = LoadMonitor(runners, paced=True)._report(before, late, 5.0)
    assert report.startswith("3 sources deliver 85 frames/s; this machine processes 70")
    runners["file"].source.close()  # it has ended
    assert LoadMonitor(runners, paced=True)._report(before, late, 5.0) == ""
    runners["b"].paused = True  # on the page; its frames are dropped
    assert list(LoadMonitor(runners)._counts()) == ["a", "file"]
    paused = {"a": (150, 0), "file": (50, 0)}
    assert LoadMonitor(runners)._report(before, paused, 5.0) == ""


# --- list of sources, outputs ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "names no source"),
        ([["a", "b"]], "list within a list"),
        (["[0", "1]"], "list within a list"),  # [[0,1]] on the command line
        (["0", " "], "empty entry"),
        ([0, "00"], "same camera twice"),
        (["0", "/dev/video0"], "same camera twice"),
        (["clip.mp4", "./clip.mp4"], "same file twice"),
        (["clip.mp4", "link.mp4"], "same file twice"),
        (["RTSP://u:p@Host/a", "rtsp://host:554/a/"], "same address twice"),
        (["nowhere", "nowhere"], "same source twice"),
    ],
)
def test_lists_that_are_refused(
    sources: list[Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "link.mp4").symlink_to("clip.mp4")
    with pytest.raises(UserError, match=message) as error:
        source_list(sources)
    assert "u:p" not in str(error.value)


def test_names_of_sources_are_short_and_different(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    clips = []
    for folder in folders:
        folder.mkdir()
        clips.append(folder / "my clip.mp4")
        clips[-1].touch()
    address = "rtsp://user:p@secret@cam.local:554/door?x=1"  # the last @ ends the password
    sources = ["0", "/dev/video1", *map(str, clips), address, "synthetic", "synthetic"]
    assert source_list(sources) == sources
    names = ["camera0", "video1", "my_clip", "my_clip-2", "cam_local_554_door"]
    assert source_names(sources) == [*names, "synthetic", "synthetic-2"]
    assert named("out/log.jsonl", "door") == Path("out/log.door.jsonl")
    assert named("out/log", "door") == Path("out/log-door")
    assert source_list("3") == source_list(3) == source_list([3]) == ["3"]


def test_a_list_is_closed_if_one_source_cannot_be_opened(
    tmp_path: Path, no_capture_threads: None
) -> None:
    clip, photo = write_clip(tmp_path / "clip.mp4", 5), tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(UserError, match=r"no file, folder or camera 'nowhere\.mp4'"):
        open_all({}, [str(clip), "nowhere.mp4"])
    with pytest.raises(UserError, match=r"photo\.png is no camera or video"):
        open_all({}, [str(clip), str(photo)])


class Fake(FakeClassifier):
    data_name = None
    notes = ()


def live_config(**values: Any) -> dict[str, Any]:
    return {**composed(entry="live"), "display": "none", **values}


def test_every_source_has_its_own_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [str(write_clip(tmp_path / f"{name}.mp4", n)) for name, n in (("a", 12), ("b", 7))]
    model = EmotionRecognizer(Fake(), FullFrame({}), SMOOTHING)
    monkeypatch.setattr(factory, "build_recognizer", lambda cfg: model)
    outputs = {
        "record": str(tmp_path / "record"),
        "log": str(tmp_path / "log.jsonl"),
        "save": str(tmp_path / "out.avi"),
    }
    cfg = live_config(source=clips, **outputs)
    several.run_several(cfg, tmp_path / "run")
    for name, clip, count in (("a", clips[0], 12), ("b", clips[1], 7)):
        rows = lines(tmp_path / f"log.{name}.jsonl")
        assert [row["frame"] for row in rows] == list(range(count))
        assert {row["source"] for row in rows} == {clip}
        with open_source({"source": str(tmp_path / f"out.{name}.avi")}) as video:
            assert len(list(video)) == count
        assert len(lines(tmp_path / "record" / name / "recording.jsonl")) == count
        assert (tmp_path / "run" / name / "summary.csv").is_file()
        assert (tmp_path / "run" / name / "timeline.png").is_file()
    printed = capsys.readouterr().out.splitlines()
    assert printed.count(f"log of b: {tmp_path / 'log.b.jsonl'}") == 1
    assert sum(line.startswith("a: 12 frames, 12 of them with a face") for line in printed) == 1
    assert printed[-1] == str(tmp_path / "run")


def test_output_that_is_another_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = [write_clip(tmp_path / name, 3).name for name in ("a.mp4", "out.a.mp4")]
    monkeypatch.setattr(live.paths, "check_checkpoint", lambda *args, **kwargs: None)
    base = {**live_config(source=sources), "hydra": {"run": {"dir": str(tmp_path / "run")}}}

    def error(**values: Any) -> str:
        with pytest.raises(UserError) as caught:
            live.validate(OmegaConf.create({**base, **values}), [])
        return str(caught.value)

    assert "save of a and source 2 are the same file" in error(save="out.mp4", overwrite=True)
    same = {"save": "x.mp4", "log": "x.mp4"}
    assert "log of a and save of a are the same file" in error(**same)
    (tmp_path / "log.out_a.jsonl").touch()
    assert "log.out_a.jsonl exists already" in error(log="log.jsonl")
    assert "display=window shows one source" in error(display="window")
    assert "enrol_save= keeps the face" in error(
        display="web", enrol_save="me.json", enrol_reference="."
    )
    assert live.validate(OmegaConf.create({**base, "log": "new.jsonl"}), []) == []


def test_ctrl_c_completes_the_files_of_all_sources() -> None:
    runners = make_runners(
        [Greys(f"s{k}", 10_000, True, lambda index: time.sleep(0.002)) for k in range(3)],
        BrightnessClassifier(),
    )

    def interrupt(stats: Any) -> None:
        if stats.frames > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MultiRunner(runners).run(interrupt)
    assert all(collected(runner).closed for runner in runners.values())
    assert not [t for t in threading.enumerate() if t.name.startswith("source ")]
