"""Copies the audio of the source file to the saved video, if ffmpeg is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_TIMEOUT_S = 300


def _ffmpeg(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ffmpeg", "-nostdin", "-hide_banner", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_S,
    )


def copy_audio(video: Path, source: str | Path) -> str:
    """Add the audio of ``source`` to ``video`` in place and return one line about the result.

    The pictures are not encoded again. The audio stream is copied if the container supports its
    codec, else encoded with its default codec. On any failure ``video`` is left unchanged.
    """
    if shutil.which("ffmpeg") is None:
        return f"{video.name} has no audio: ffmpeg is not installed"
    part = video.with_name(f".{video.stem}.audio{video.suffix}")
    try:
        if not re.search(r"Stream #0.*: Audio:", _ffmpeg("-i", str(source)).stderr):
            return f"{video.name} has no audio: the source has none"
        inputs = ["-y", "-v", "error", "-i", str(video), "-i", str(source)]
        inputs += ["-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy"]
        # -shortest: the video of an interrupted run is shorter than its source.
        for codec in (["-c:a", "copy"], []):
            process = _ffmpeg(*inputs, *codec, "-shortest", str(part))
            if process.returncode == 0 and part.stat().st_size > 0:
                part.replace(video)
                return f"{video.name} has the audio of {Path(source).name}"
        reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"{video.name} has no audio: ffmpeg failed ({reason})"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{video.name} has no audio: {' '.join(str(error).split())}"
    finally:
        part.unlink(missing_ok=True)
