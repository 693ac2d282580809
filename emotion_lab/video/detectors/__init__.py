"""Face detectors, one file each."""

from __future__ import annotations

from typing import Any

from emotion_lab.video.sources.video_file import silence_opencv
from emotion_lab.video.types import DETECTORS, Detector


def build_detector(cfg: dict[str, Any]) -> Detector:
    """Build the detector ``cfg["name"]`` from ``conf/detector/<name>.yaml``, a plain dict."""
    silence_opencv()
    return DETECTORS.build(cfg["name"], cfg)
