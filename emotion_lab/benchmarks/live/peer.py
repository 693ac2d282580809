"""Runs another program on the same frames.

The program is a command. Its standard input is one line of JSON, ``{"width": 640, "height": 360}``,
and then the frames, each ``width * height * 3`` bytes of RGB. Its standard output is lines of JSON:
``{"ready": true}`` when its model is loaded, then one line for each frame, ``{"faces": [{"label":
"happy"}, ...]}``. Its input ends after the last frame.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from emotion_lab.benchmarks.live.process import wait_or_kill
from emotion_lab.benchmarks.live.speed import run_decoded
from emotion_lab.core.errors import UserError
from emotion_lab.core.timing import per_second, summary
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.types import Closeable, Frame

#: Characters of a wrong line that an error shows.
_SHOWN = 80


class Peer(Closeable):
    """A running peer.

    Args:
        command: As typed in a shell.
        size: Width and height of the frames.
        timeout_s: Longest wait for one line.
    """

    def __init__(self, command: str, size: tuple[int, int], timeout_s: float) -> None:
        self.command, self.timeout_s = command, timeout_s
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (until close)
        self._number = self._frames = 0  # lines, and frames of which the labels are known
        self._failed = False
        try:
            self._process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
            )
        except (OSError, ValueError) as error:
            self._messages.close()
            raise UserError(f"peer={command} cannot be started: {error}.") from None
        threading.Thread(target=self._read, daemon=True).start()
        width, height = size
        self._send(json.dumps({"width": width, "height": height}).encode() + b"\n")
        try:
            if self._line().get("ready") is not True:
                raise self._error('its first line must be {"ready": true}')
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended; the next line tells why
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _send_all(self, images: Sequence[np.ndarray]) -> None:
        for image in images:
            self._send(np.ascontiguousarray(image).tobytes())

    def _line(self) -> dict[str, Any]:
        """Return the next line.

        Raises:
            UserError: If there is none in time, or it is no JSON object.
        """
        try:
            line = self._lines.get(timeout=self.timeout_s)
        except queue.Empty:
            raise self._error(
                f"no line for {self.timeout_s:g} s; set peer_timeout_s=<seconds>"
            ) from None
        if line is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            raise self._error(f"it ended with exit code {self._process.returncode}")
        self._number += 1
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError
        except ValueError:
            text = line.decode(errors="replace").strip()[:_SHOWN]
            raise self._error(f"line {self._number} is not a JSON object: {text}") from None
        return value

    def _error(self, reason: str) -> UserError:
        self._failed = True
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").strip().splitlines()
        last = f"; its last message is: {lines[-1][:200]}" if lines else ""
        return UserError(f"peer={self.command} failed after {self._frames} frames: {reason}{last}.")

    def labels(self, images: Sequence[np.ndarray]) -> list[list[str]]:
        """Return the labels of the faces of each image, uint8 (H, W, 3) RGB."""
        sender = threading.Thread(target=self._send_all, args=(images,), daemon=True)
        sender.start()
        found = []
        for _ in images:
            line = self._line()
            try:
                found.append([str(face["label"]).casefold() for face in line["faces"]])
            except (KeyError, TypeError):
                text = json.dumps(line)[:_SHOWN]
                raise self._error(
                    f"line {self._number} has no faces with a label each: {text}"
                ) from None
            self._frames += 1
        sender.join()
        return found

    def close(self) -> None:
        """End the input; a peer that failed, or does not end then, is killed."""
        if self._failed:
            self._process.kill()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        wait_or_kill(self._process)
        self._messages.close()


def _our_labels(pipeline: Pipeline, frames: Sequence[Frame]) -> list[list[str]]:
    """Return the most probable class of each face of each frame."""
    classes = pipeline.classes
    return [
        [classes[int(face.smoothed.argmax())].casefold() for face in pipeline(frame).faces]
        for frame in frames
    ]


def compare_peer(
    frames: Sequence[Frame], make_pipeline: Callable[[], Pipeline], cfg: dict[str, Any]
) -> dict[str, Any]:
    """Time a peer and ours in alternation, and compare the labels where both see one face.

    The peer gets at most ``peer_frames`` frames, evenly spread; each round gives it another part.

    Args:
        cfg: Of the benchmark: ``peer``, ``peer_frames``, ``peer_timeout_s``, ``rounds``.
    """
    step = max(1, -(-len(frames) // int(cfg["peer_frames"])))
    chosen = list(range(0, len(frames), step))
    rounds = min(int(cfg["rounds"]), len(chosen))
    height, width = frames[0].image.shape[:2]
    theirs: dict[int, list[str]] = {}
    rates: dict[str, list[float]] = {"peer": [], "ours": []}

    def ours() -> int:
        run_decoded(frames, make_pipeline())
        return len(frames)

    ours()
    with Peer(cfg["peer"], (width, height), float(cfg["peer_timeout_s"])) as peer:
        peer.labels([frames[0].image])  # the first call of a network is slow
        for turn in range(rounds):
            part = chosen[turn::rounds]
            begin = time.perf_counter()
            labels = peer.labels([frames[i].image for i in part])
            rates["peer"].append(len(part) / (time.perf_counter() - begin))
            theirs.update(zip(part, labels, strict=True))
            rates["ours"].append(per_second(ours))
            values = ", ".join(f"{name} {rate[-1]:,.1f}" for name, rate in rates.items())
            print(f"  round {turn + 1}/{rounds}: {values} frames/s", flush=True)
    own = _our_labels(make_pipeline(), frames)
    both = [i for i in chosen if len(theirs[i]) == len(own[i]) == 1]
    summaries = {name: summary(values) for name, values in rates.items()}
    return {
        "frames": len(chosen),
        "peer_fps": summaries["peer"]["median"],
        "ours_fps": summaries["ours"]["median"],
        "ratio": round(summaries["ours"]["median"] / summaries["peer"]["median"], 2),
        "peer_faces": round(statistics.mean(len(theirs[i]) for i in chosen), 3),
        "ours_faces": round(statistics.mean(len(own[i]) for i in chosen), 3),
        "both_one_face": len(both),
        "same_label": round(statistics.mean(theirs[i] == own[i] for i in both), 4)
        if both
        else None,
        "rounds": summaries,
    }
