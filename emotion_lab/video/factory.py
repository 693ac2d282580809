"""From a composed config to a source, a pipeline, an overlay and sinks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.inference.classifier import load_classifier
from emotion_lab.video.detectors.common import build_detector
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.sinks.image_folder import ImageFolderSink
from emotion_lab.video.sinks.video import CODECS, VideoSink
from emotion_lab.video.sources.open import IMAGES, open_source
from emotion_lab.video.sources.threaded import FrameSource


def build_source(cfg: dict[str, Any]) -> FrameSource:
    """Open ``source=``; it reads nothing ahead before the first frame is asked for.

    Raises:
        UserError: If there is none.
    """
    return open_source(cfg)


def build_pipeline(cfg: dict[str, Any], stills: bool) -> Pipeline:
    """Load detector and checkpoint.

    Raises:
        UserError: If one of them is missing or damaged.
    """
    detector = build_detector(cfg["detector"])
    classifier = load_classifier(cfg["ckpt"], cfg["backend"])
    tracking = cfg["tracking"]
    if cfg["anonymize"] != "none":
        # Between two looks a new face would be shown as it is.
        tracking = {**tracking, "detect_every": 1}
    return Pipeline(detector, classifier, cfg["smoothing"], tracking, cfg["align"], stills=stills)


def build_overlay(cfg: dict[str, Any], classes: list[str]) -> Overlay:
    """Return the overlay of ``language``, ``overlay`` and ``anonymize``."""
    return Overlay(cfg["overlay"], classes, cfg["language"], cfg["anonymize"])


def build_save(cfg: dict[str, Any], source: FrameSource) -> Sink:
    """Return what ``save=`` writes: a video of a clip or camera, pictures of images.

    Raises:
        UserError: If the file cannot be made or does not suit the source.
    """
    save = Path(str(cfg["save"])).expanduser()
    if source.stills:
        if save.suffix.lower() in {*CODECS, *IMAGES} and not save.is_dir():
            raise UserError(f"save={save}: images are saved to a folder, save=<folder>.")
        return ImageFolderSink(save, cfg["overwrite"])
    sound = source.name if source.kind == "clip" and not source.live else None
    return VideoSink(
        save, source.fps, live=source.live, sound_from=sound, overwrite=cfg["overwrite"]
    )
