"""live and predict against what users do: mistakes, old configs, a stop in the middle."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from emotion_lab import live
from emotion_lab.bench import live_lines
from emotion_lab.config import compose
from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core import distributed, timing
from emotion_lab.core.errors import UserError, unknown_key
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.video import factory
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.runner import RunStats
from emotion_lab.video.sources.open import open_source
from emotion_lab.video.web.uploads import BrowserCameraReader
from tests.conftest import TINY, composed, make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of an untrained network."""
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    return make_checkpoint(composed(*TINY), path, list(EMOTIONS))


def refused(checkpoint: Path, *overrides: str) -> str:
    """Return what live says before anything is loaded or made."""
    cfg = compose.precheck("live", [f"ckpt={checkpoint}", *overrides])
    with pytest.raises(UserError) as error:
        live.validate(cfg, list(overrides))
    return str(error.value)


def test_what_is_missing_is_said_before_anything_is_loaded(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = refused(checkpoint, "detector.file=no.onnx")
    assert text.startswith("detector.file=no.onnx does not exist")
    for key, name in (("log", "out.jsonl"), ("save", "out.mp4")):
        text = refused(checkpoint, f"{key}=nowhere/{name}")
        assert text == f"{key}=nowhere/{name}: there is no folder nowhere. Make it first."
    # Pictures of images go to a folder, which is made.
    given = ["save=new/drawn", "log=out.jsonl", "detector=haar"]
    live.validate(compose.precheck("live", [f"ckpt={checkpoint}", *given]), given)


def test_any_hash_is_accepted_when_asked() -> None:
    cfg = compose.precheck("live", ["detector.file=other.onnx", "detector.sha256=null"])
    assert cfg.detector.sha256 is None


def test_a_key_is_compared_with_keys_and_not_with_its_group() -> None:
    known = ["smoothing", "smoothing.name", "smoothing.switch_evidence_s", "smoothing.space", "optim.lr"]
    text = str(unknown_key("smoothing.margin", known))
    assert text == (
        "Unknown option 'smoothing.margin'. "
        "Available: smoothing.switch_evidence_s, smoothing.name, smoothing.space."
    )
    assert "Did you mean 'smoothing.switch_evidence_s'?" in str(unknown_key("smoothing.switch_evidens_s", known))
    assert "Did you mean 'smoothing.switch_evidence_s'?" in str(unknown_key("smothing.switch_evidence_s", known))


def test_a_config_of_another_version_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "ckpt: x\nsmoothing:\n  name: ema\n  threshold: 0.3\n  tau_s: 0.15\n  margin: 0.1\n"
    (tmp_path / "old.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    # Set by run; put back afterwards.
    for name in ("HYDRA_FULL_ERROR", "EMOTION_LAB_FULL_ERROR"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(sys, "argv", ["live", f"--config-path={tmp_path}", "--config-name=old"])
    with pytest.raises(SystemExit) as left:
        live.main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: this config lacks smoothing.switch_evidence_s, smoothing.space: another")
    assert "smoothing/ema.yaml" in line


def test_a_disk_that_is_full_at_the_start_is_one_line(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    for name in ("HYDRA_FULL_ERROR", "EMOTION_LAB_FULL_ERROR"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr("hydra.core.utils._save_config", full)
    monkeypatch.setattr(sys, "argv", ["live", f"ckpt={checkpoint}", "source=0", "display=none"])
    with pytest.raises(SystemExit) as left:
        live.main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: the disk is full")


def test_a_damaged_checkpoint_gives_no_answers(checkpoint: Path, tmp_path: Path) -> None:
    data = bytearray(checkpoint.read_bytes())
    weight = ckpt.read(checkpoint)["state_dict"]
    longest = max((value for value in weight.values()), key=lambda value: value.numel())
    place = data.index(longest.numpy().tobytes())
    data[place : place + 8] = bytes(8)
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(data)
    with pytest.raises(UserError, match=r"bad.ckpt is damaged"):
        ckpt.read(bad)


def test_a_picture_is_saved_to_a_folder(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.zeros((8, 8, 3), np.uint8))
    with open_source({"source": str(photo)}) as source:
        for name in ("drawn.png", "drawn.mp4"):
            with pytest.raises(UserError, match="images are saved to a folder"):
                factory.build_save({"save": tmp_path / name, "overwrite": False}, source)
        (tmp_path / "mine.png").mkdir()
        factory.build_save({"save": tmp_path / "mine.png", "overwrite": False}, source)


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(
    checkpoint: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.zeros((8, 8, 3), np.uint8))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        web = {"host": "127.0.0.1", "port": port, "token": None}
        # No key of what comes later is there.
        cfg = {"display": "web", "source": str(photo), "web": web}
        with pytest.raises(UserError, match=f"Port {port} is taken by another program"):
            live.watch(cfg, tmp_path)


def test_opencv_adds_no_lines_of_its_own() -> None:
    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_INFO)
    try:
        build_detector(composed("detector=full_frame", entry="live")["detector"])
        assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT
    finally:
        cv2.utils.logging.setLogLevel(before)


def test_a_picture_of_too_many_pixels_is_no_image() -> None:
    _, png = cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))
    head = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = bytearray(png.tobytes())
    data[12:33] = head + struct.pack(">I", zlib.crc32(head))
    with pytest.raises(UserError, match="sent no image"):
        BrowserCameraReader("camera").put(bytes(data))


def test_one_is_not_many() -> None:
    one = RunStats(frames=1, with_faces=1, ids=1, seconds=1.0, last_faces=1)
    assert one.lines(True) == ["1 image, 1 of them with a face; 1 face; 1 images/s"]
    two = RunStats(frames=2, with_faces=2, ids=2, seconds=1.0, last_faces=1)
    assert two.lines(False) == ["2 frames, 2 of them with a face; 2 faces followed; 2 frames/s"]


WORK = """
import time
from emotion_lab.core import distributed
try:
    with distributed.stoppable():
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("closed", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_closed_terminal_ends_like_ctrl_c(name: str) -> None:
    number = getattr(signal, name)
    process = subprocess.Popen(
        [sys.executable, "-c", WORK],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.kill(process.pid, number)
    assert process.communicate(timeout=30)[0] == "closed\n"
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
def test_what_was_ignored_stays_ignored_and_all_is_put_back() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ended = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with distributed.stoppable():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # as nohup does
            assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGTERM, ended)


def test_the_table_of_bench_live_speaks_of_what_was_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    part = {"frames": 72, "size": [640, 360], "seed_fps": 4.0, "ours_fps": 132.0, "ratio": 33.0}
    part |= {"seed_faces": 1.0, "ours_faces": 1.0}
    row = {"switches_per_min": 25.7, "fewer_switches": 6.2, "flicker_per_min": 10.9}
    row |= {"delay_ms_median": 266.7, "followed": 52, "changes": 78}
    unseen = dict.fromkeys(row) | {"followed": 0, "changes": 78}
    found = {"detector": "yunet", "runtime": "torch", "one_face": part}
    text = "\n".join(live_lines({**found, "smoothing": {"ema": row, "none": unseen}}))
    assert "clip (72 frames of 640x360): plain (Haar and PyTorch, face by face) 4 fr" in text
    assert "seed" not in text and "one_face" not in text
    head, ema, none = text.splitlines()[-3:]
    assert "flicker/min" in head and "52 of 78" in ema
    for number, word in (("25.7", "switches/min"), ("10.9", "flicker/min"), ("266.7", "delay ms")):
        assert ema.index(number) + len(number) == head.index(word) + len(word)
    assert none.count(" -") == 3
    timing.in_turn({"plain": lambda: 1}, 1, unit="frames")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("  warm-up plain: ") and first.endswith(" frames/s")
    assert second.startswith("  round 1/1 plain: ")
