"""Copy the sound of a clip to the video made from it, where ffmpeg is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_LIMIT_S = 300


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ffmpeg", "-nostdin", "-hide_banner", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_LIMIT_S,
    )


def copy_sound(video: Path, clip: str | Path) -> str:
    """Add the sound of ``clip`` to ``video`` in place, without encoding the pictures again.

    The sound is copied as it is where the container takes it, else encoded with the container's
    usual codec. Whatever goes wrong, ``video`` stays playable.

    Returns:
        One line that says what was done.
    """
    if shutil.which("ffmpeg") is None:
        return f"{video.name} has no sound: ffmpeg is not installed"
    part = video.with_name(f".{video.stem}.sound{video.suffix}")
    try:
        if not re.search(r"Stream #0.*: Audio:", _run("-i", str(clip)).stderr):
            return f"{video.name} has no sound: the clip has none"
        pictures = ["-y", "-v", "error", "-i", str(video), "-i", str(clip)]
        pictures += ["-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy"]
        # A run that was stopped is shorter than the clip; its sound ends with it.
        for sound in (["-c:a", "copy"], []):
            done = _run(*pictures, *sound, "-shortest", str(part))
            if done.returncode == 0 and part.stat().st_size > 0:
                part.replace(video)
                return f"{video.name} has the sound of {Path(clip).name}"
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"{video.name} has no sound: ffmpeg failed ({reason})"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{video.name} has no sound: {' '.join(str(error).split())}"
    finally:
        part.unlink(missing_ok=True)
