"""Builds pipeline, overlay and sinks from a composed config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError
from emotion_lab.data.images import is_image_name
from emotion_lab.inference.classifier import load_classifier
from emotion_lab.video.anonymize import Anonymizer, build_sensitive_detectors
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.pipeline import Pipeline
from emotion_lab.video.recognizer import EmotionRecognizer
from emotion_lab.video.sinks.base import Sink
from emotion_lab.video.sinks.image_folder import ImageFileSink, ImageFolderSink
from emotion_lab.video.sinks.recording import RecordingSink
from emotion_lab.video.sinks.video import CODECS, VideoSink
from emotion_lab.video.sources.threaded import FrameSource

log = logging.getLogger(__name__)


def build_recognizer(cfg: dict[str, Any]) -> EmotionRecognizer:
    """Load detector and checkpoint, and enrol the person that the config names."""
    detector = build_detector(cfg["detector"])
    classifier = load_classifier(cfg["ckpt"], cfg["backend"])
    model = EmotionRecognizer(
        classifier,
        detector,
        cfg["smoothing"],
        cfg["tracking"],
        cfg["align"],
        cfg.get("max_turn_deg"),  # bench has none
        classify=cfg["classify"],
    )
    enrolment = [cfg.get(key) for key in ("enrol", "enrol_reference", "enrol_save")]  # not in bench
    if any(value is not None for value in enrolment):
        model.enrol(*enrolment)
    return model


def print_model(cfg: dict[str, Any], model: EmotionRecognizer) -> None:
    """Print one line that names the model and its backend."""
    notes = model.classifier.notes
    choice = f" ({notes[0]})" if notes and notes[0].startswith("auto: ") else ""
    print(f"classifier: {cfg['ckpt']}, {model.classifier.runtime_name}{choice}", flush=True)
    if learned := model.classifier.quantities.learned:
        print(f"classifier: {', '.join(learned)} learned by the network", flush=True)
    for note in notes:
        log.info("classifier: %s", note)


def build_pipeline(cfg: dict[str, Any], stills: bool, synthetic: bool = False) -> Pipeline:
    """Load detector and checkpoint; print one line that names the model and its backend.

    Args:
        stills: Frames are unrelated photos.
        synthetic: Whether the frames show synthetic faces.
    """
    model = build_recognizer(cfg)
    print_model(cfg, model)
    return model.pipeline(stills, synthetic)


def build_overlay(cfg: dict[str, Any], classes: list[str]) -> Overlay:
    """Build the overlay from the keys ``overlay``, ``language`` and ``anonymize``."""
    anonymizer = None
    if cfg["anonymize"] != "none":
        anonymizer = Anonymizer(cfg["anonymize"], build_sensitive_detectors(cfg["detector"]))
    return Overlay(cfg["overlay"], classes, cfg["language"], anonymizer)


def check_recordable(cfg: dict[str, Any], source: FrameSource) -> None:
    """Refuse ``record=`` for a source whose frames are files already."""
    if cfg["record"] is not None and (source.kind == "recording" or source.stills):
        photos = "a photo" if source.kind == "photo" else "images"
        kind = photos if source.stills else "a recording"
        raise UserError(f"record= keeps the frames of cameras and videos: {source.name} is {kind}.")


def build_recording_sink(
    cfg: dict[str, Any], source: FrameSource, pipeline: Pipeline, run_dir: Path
) -> RecordingSink | None:
    """Build the sink for ``record=``, or that of the decisions of a replay in ``run_dir``."""
    is_replay = source.kind == "recording"
    if not is_replay and cfg["record"] is None:
        return None
    keys = (
        *("ckpt", "detector", "smoothing", "tracking", "classify"),
        *("align", "max_turn_deg", "enrol", "enrol_reference"),
    )
    header = {
        "source": source.name,
        "fps": source.fps,
        "truth": source.truth,
        "classes": pipeline.classes,
        "settings": {key: cfg[key] for key in keys},
        "replay_of": str(Path(source.name).resolve()) if is_replay else None,
    }
    if is_replay:
        return RecordingSink(run_dir, header, "none")
    folder = Path(str(cfg["record"])).expanduser()
    print(
        f"record: the {cfg['record_what']} of {source.name} are kept in {folder}. Everyone in view "
        "must have agreed; delete the folder to delete them.",
        flush=True,
    )
    return RecordingSink(folder, header, cfg["record_what"], cfg["record_format"])


def build_save_sink(cfg: dict[str, Any], source: FrameSource) -> Sink:
    """Build the sink for ``save=``.

    Videos and cameras are saved to a video file, images to a folder, one photo also to a file.
    """
    path = Path(str(cfg["save"])).expanduser()
    if source.stills:
        if is_image_name(path) and not path.is_dir() and source.kind == "photo":
            return ImageFileSink(path, cfg["overwrite"])
        if (path.suffix.lower() in CODECS or is_image_name(path)) and not path.is_dir():
            raise UserError(f"save={path}: images are saved to a folder, save=<folder>.")
        is_folder = source.kind == "folder"
        first = None if is_folder else source.name
        return ImageFolderSink(path, cfg["overwrite"], subfolders=is_folder, first=first)
    has_file = source.kind == "clip" and not source.live and not is_image_name(source.name)
    audio = source.name if has_file else None
    return VideoSink(
        path, source.fps, live=source.live, audio_from=audio, overwrite=cfg["overwrite"]
    )
