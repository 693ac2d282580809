"""Commands live and predict: outputs, errors, interruption."""

from __future__ import annotations

import csv
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab import live
from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from tests.conftest import TINY, command, composed, make_checkpoint
from tests.helpers_detectors import MEDIA, PHOTOS, YUNET, shared
from tests.helpers_sinks import lines as read_rows

#: Needs no model file and no optional package.
QUICK = ("detector=haar", "backend=torch", "backend.threads=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run directory of an untrained network with confident outputs."""
    folder = tmp_path_factory.mktemp("run")
    make_checkpoint(composed(*TINY), folder / "checkpoints" / "best.ckpt", list(EMOTIONS))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a synthetic clip of 60 frames with a face that Haar detects."""
    from emotion_lab.synthetic.video import render_video

    path = tmp_path_factory.mktemp("clip") / "synthetic face=1 [x].mp4"
    render_video(path, [(1.2, "happy"), (1.2, "sad")], fps=25, size=(320, 240), seed=1)
    return path


@pytest.fixture
def main_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function that runs ``live`` in this process and returns its one-line error."""

    def run_main(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        for name in ("HYDRA_FULL_ERROR", "EMOTION_LAB_FULL_ERROR"):
            monkeypatch.setenv(name, "0")  # restores the value that main sets
        monkeypatch.setattr(sys, "argv", ["live", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            live.main()
        assert exit_info.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    return run_main


def test_live_writes_video_log_and_summary(run: Path, clip: Path, tmp_path: Path) -> None:
    done = command(
        *(f"ckpt={run}", f"source={clip}", *QUICK, "display=none"),
        *(f"save={tmp_path / 'out.avi'}", f"log={tmp_path / 'out.jsonl'}"),
        f"hydra.run.dir={tmp_path / 'live'}",
        module="emotion_lab.live",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "out.jsonl")
    assert [row["frame"] for row in rows] == list(range(60))
    assert all(row["source"] == str(clip) and row["size"] == [320, 240] for row in rows)
    faces = [face for row in rows for face in row["faces"]]
    assert len(faces) > 30
    for face in faces:
        assert list(face["probabilities"]) == list(EMOTIONS)
        assert sum(face["smoothed"].values()) == pytest.approx(1, abs=1e-4)
        assert face["label"] is None or face["label"] in EMOTIONS
    video = cv2.VideoCapture(str(tmp_path / "out.avi"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 60
    with (tmp_path / "live" / "summary.csv").open(newline="") as file:
        summary = list(csv.DictReader(file))
    assert {row["id"] for row in summary} == {str(face["id"]) for face in faces}
    assert (tmp_path / "live" / "timeline.png").stat().st_size > 1000
    assert "60 frames" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "live")


def test_predict_on_a_folder(run: Path, clip: Path, tmp_path: Path) -> None:
    photos = tmp_path / "my photos"
    (photos / "inner").mkdir(parents=True)
    video = cv2.VideoCapture(str(clip))
    for name in ("b.png", "inner/a.jpg"):
        _, image = video.read()
        cv2.imwrite(str(photos / name), image)
    cv2.imwrite(str(photos / "grey.png"), np.full((1, 1), 9, np.uint8))
    (photos / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    arguments = (f"ckpt={run}", f"source={photos}", "detector=full_frame", "backend=torch")
    arguments += (f"out={out}", f"save={out / 'drawn'}")
    done = command(*arguments, module="emotion_lab.predict", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_rows(out / "predictions.jsonl")
    assert sorted(row["source"] for row in rows) == ["b.png", "grey.png", "inner/a.jpg"]
    assert all(len(row["faces"]) == 1 for row in rows)
    # Photos are independent, so nothing is smoothed.
    for row in rows:
        assert row["faces"][0]["probabilities"] == row["faces"][0]["smoothed"]
    assert (out / "drawn" / "inner" / "a.jpg.png").is_file()
    assert "left out 1, neither photo nor clip: notes.txt" in done.stderr
    done = command(*arguments, module="emotion_lab.predict", cwd=tmp_path)
    assert done.returncode == 2 and "exists already" in done.stderr


ERRORS = [
    ("live", ("ckpt=null", "source=0"), "ckpt is missing"),
    ("predict", ("ckpt=RUN",), "source is missing"),
    ("predict", ("ckpt=RUN", "source=0"), "emotion_lab.live source=0"),
    ("predict", ("ckpt=RUN", "source=nowhere.jpg"), "no file, folder or camera"),
    ("live", ("ckpt=[a,b]", "source=0"), 'ckpt=["a", "b"] is not valid'),
    ("live", ("ckpt=nowhere", "source=0"), "no such checkpoint"),
    ("live", ("ckpt=RUN", "source=97", "display=none"), "camera"),
    ("live", ("ckpt=RUN", "display=windw"), "expected one of auto, window, web"),
    ("live", ("ckpt=RUN", "detector=yunett"), "Did you mean 'yunet'"),
    ("live", ("ckpt=RUN", "smoothing=emma"), "Did you mean 'ema'"),
    ("live", ("ckpt=RUN", "source=CLIP", "display=none", "detector.file=no.onnx"), "no.onnx"),
    (
        "live",
        ("ckpt=RUN", "source=CLIP", "display=none", "language=xx", "detector=haar"),
        "language",
    ),
    (
        "live",
        ("ckpt=RUN", "source=CLIP", "save=CLIP", "overwrite=true", "display=none"),
        "save and source are the same file",
    ),
    (
        "live",
        ("ckpt=RUN", "source=CLIP", "save=a.mp4", "log=a.mp4", "display=none"),
        "log and save are the same file",
    ),
    ("live", ("ckpt=RUN", "source=CLIP", "log=.", "display=none"), "log=. is a folder"),
    ("live", ("ckpt=RUN", "display=web", "web.port=99999"), "from 0 to 65535"),
]


@pytest.mark.parametrize(("module", "arguments", "message"), ERRORS)
def test_error_is_one_line(
    module: str, arguments: tuple[str, ...], message: str, run: Path, clip: Path, tmp_path: Path
) -> None:
    overrides = [text.replace("RUN", str(run)).replace("CLIP", str(clip)) for text in arguments]
    done = command(*overrides, module=f"emotion_lab.{module}", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_failed_start_keeps_an_existing_log(run: Path, clip: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("kept\n")
    done = command(
        *(f"ckpt={run}", f"source={clip}", *QUICK, "display=none", f"log={log}"),
        *(f"save={tmp_path / 'x.txt'}", "overwrite=true"),
        module="emotion_lab.live",
        cwd=tmp_path,
    )
    assert done.returncode == 2 and "video format" in done.stderr
    assert log.read_text() == "kept\n"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_completes_all_files(run: Path, clip: Path, tmp_path: Path) -> None:
    log, video = tmp_path / "log.jsonl", tmp_path / "out.avi"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "emotion_lab.live", f"ckpt={run}", f"source={clip}"),
            *(*QUICK, "display=none", "loop=true", "realtime=true", f"log={log}", f"save={video}"),
            f"hydra.run.dir={tmp_path / 'live'}",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not (
            log.exists() and log.read_text().count("\n") > 10
        ):
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    rows = read_rows(log)
    assert len(rows) > 10
    assert cv2.VideoCapture(str(video)).read()[0]
    assert (tmp_path / "live" / "summary.csv").is_file()
    assert str(tmp_path / "live") in output


@pytest.mark.shared
@pytest.mark.parametrize(("name", "count"), PHOTOS.items())
def test_number_of_faces_in_real_photos(name: str, count: int, run: Path, tmp_path: Path) -> None:
    done = command(
        *(f"ckpt={run}", f"source={shared(MEDIA / name)}", f"detector.file={YUNET}"),
        *("backend=torch", f"out={tmp_path / 'out'}"),
        module="emotion_lab.predict",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (row,) = read_rows(tmp_path / "out" / "predictions.jsonl")
    assert len(row["faces"]) == count


def test_missing_files_and_folders_are_reported_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(*overrides: str) -> None:
        live.validate(compose.precheck("live", [f"ckpt={run}", *overrides]), list(overrides))

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^detector\.file=no\.onnx does not exist"):
        validate("detector.file=no.onnx")
    for key, name in (("log", "out.jsonl"), ("save", "out.mp4")):
        message = f"^{key}=missing/{name}: folder missing does not exist"
        with pytest.raises(UserError, match=message):
            validate(f"{key}=missing/{name}")
    # save=<folder> for images, and the folder of a photo, are created later.
    validate("save=new/drawn.jpg")
    validate("save=new/drawn", "log=out.jsonl", "detector=haar")


def test_config_of_another_version_is_one_line(
    main_error: Callable[..., str], tmp_path: Path
) -> None:
    text = "ckpt: x\nsmoothing:\n  name: ema\n  threshold: 0.3\n  tau_s: 0.15\n  margin: 0.1\n"
    (tmp_path / "old.yaml").write_text(text)
    line = main_error(f"--config-path={tmp_path}", "--config-name=old")
    assert line.startswith(
        "error: this config lacks smoothing.switch_evidence_s, smoothing.space: another"
    )
    assert "smoothing/ema.yaml" in line


def test_disk_full_at_the_start_is_one_line(
    main_error: Callable[..., str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hydra.core.utils._save_config", full)
    line = main_error(f"ckpt={run}", "source=0", "display=none")
    assert line.startswith("error: the disk is full")


def test_port_in_use_is_reported_before_the_checkpoint_is_loaded(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.zeros((8, 8, 3), np.uint8))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        web = {"host": "127.0.0.1", "port": port, "token": None}
        # Has no key that a later step needs.
        cfg = {"display": "web", "source": str(photo), "web": web, "record": None}
        with pytest.raises(UserError, match=f"Port {port} is in use by another program"):
            live.run_live(cfg, tmp_path)


def test_a_recording_is_replayed_with_equal_results(run: Path, clip: Path, tmp_path: Path) -> None:
    def live_run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = command(
            *(f"ckpt={run}", *QUICK, "display=none", f"hydra.run.dir={tmp_path / name}"),
            *arguments,
            module="emotion_lab.live",
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return done

    recording = tmp_path / "rec"
    record = (f"source={clip}", "max_frames=20", f"record={recording}", "record_format=png")
    assert "Everyone in view must have agreed" in live_run("live", *record).stdout
    for name in ("a", "b"):
        live_run(name, f"source={recording}", f"log={tmp_path / name}.jsonl")
    rows = [(tmp_path / name).read_bytes() for name in ("a.jsonl", "b.jsonl")]
    rows += [(tmp_path / name / "recording.jsonl").read_bytes() for name in "ab"]
    assert len(set(rows)) == 1
    # The same model on lossless frames decides as in the live run.
    recorded, replayed = read_rows(recording / "recording.jsonl"), read_rows(tmp_path / "a.jsonl")
    assert [row["faces"] for row in replayed] == [row["faces"] for row in recorded]
    assert [row["wall"] for row in replayed] == [row["wall"] for row in recorded]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("anonymize=blur",), "keeps recognisable faces, which anonymize=blur forbids"),
        (("loop=true",), "set loop=false"),
        (("record=full",), "record=full exists and is not empty"),
        (("record_what=boxes",), "record_what=boxes is not valid: expected one of frames, faces"),
    ],
)
def test_recordings_that_are_refused(
    arguments: tuple[str, ...],
    message: str,
    run: Path,
    tmp_path: Path,
    main_error: Callable[..., str],
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    line = main_error(f"ckpt={run}", "source=synthetic", "record=rec", *arguments)
    assert message in line
    assert not (tmp_path / "rec").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("enrol=face.png",), "enrol= needs the average neutral face of the model"),
        (("enrol_save=me.json",), "enrol_save= needs the average neutral face of the model"),
        (("enrol=other.png",), "enrol=other.png does not exist"),
        (("enrol_reference=none",), "enrol_reference=none does not exist"),
        (("enrol_save=face.png",), "face.png exists already"),
        (("smoothing=temporal",), "smoothing.ckpt is missing"),
        (("display=web", "web.host=0.0.0.0"), "set a secret, web.token=<word>"),
        (
            ("enrol_save=me.json", "enrol_reference=face.png", "display=none"),
            "enrol_save= keeps a face that is measured, and here none is",
        ),
        (
            ("enrol_save=me.json", "enrol_reference=face.png", "enrol=you.json"),
            "enrol= is a saved face already",
        ),
        (("source=[]",), "source=[] names no source"),
        (("source=[[0,1],2]",), "source= is a list within a list"),
        (("source=[face.png,./face.png]",), "source= names the same file twice"),
        (("source=[0,1]", "display=window"), "display=window shows one source"),
    ],
)
def test_options_that_are_refused_before_anything_is_loaded(
    arguments: tuple[str, ...],
    message: str,
    run: Path,
    tmp_path: Path,
    main_error: Callable[..., str],
) -> None:
    for name in ("face.png", "you.json"):
        (tmp_path / name).touch()
    assert message in main_error(f"ckpt={run}", "source=synthetic", *arguments)
