"""Synthetic video of one person whose emotion follows a timeline, with ground truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.errors import UserError, unknown
from emotion_lab.core.io import native_path
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.synthetic.polygons import mix
from emotion_lab.synthetic.render import draw_face
from emotion_lab.synthetic.spec import FaceSpec, blend, sample_face

_BLINK_PERIOD_S, _BLINK_S = 3.7, 0.16


def _sample_person(seed: int) -> tuple[FaceSpec, dict[str, FaceSpec]]:
    """Return a frontal face, and for each emotion a spec with its action units."""
    rng = np.random.default_rng(seed)
    person = sample_face(rng, "neutral", 0.0)
    # More contrast between features and skin than in the image dataset, so that Haar cascades
    # find the face in most frames.
    person = replace(
        person,
        skin=mix(person.skin, (236, 196, 166), 0.6),
        hair=mix(person.hair, (50, 34, 26), 0.6),
        scale=0.55,  # the head is 0.9 * 0.55 of the frame height: about half
        background="cloud",
        noise=2.5,
    )
    return person, {name: sample_face(rng, name, 0.25, 0.95) for name in EMOTIONS}


def _animate(face: FaceSpec, time_s: float, frame: int) -> FaceSpec:
    """Return ``face`` with head motion and blinks at ``time_s``, and new sensor noise."""
    w = 2 * math.pi * time_s
    blink = max(0.0, 1 - abs(time_s % _BLINK_PERIOD_S - 1.5) / (_BLINK_S / 2))
    return replace(
        face,
        yaw=0.16 * math.sin(0.23 * w) + 0.05 * math.sin(0.61 * w),
        pitch=0.06 * math.sin(0.31 * w + 1),
        roll=0.07 * math.sin(0.17 * w + 2),
        shift_x=0.05 * math.sin(0.13 * w),
        shift_y=0.02 * math.sin(0.29 * w + 0.5),
        gaze=0.3 * math.sin(0.19 * w + 1),
        eye_closure=max(face.eye_closure, 0.95 * blink),
        noise_seed=frame,
    )


def render_video(
    path: str | Path,
    timeline: Sequence[tuple[float, str]],
    fps: float = 25.0,
    size: tuple[int, int] = (640, 360),
    seed: int = 0,
    transition_s: float = 0.3,
) -> list[dict]:
    """Write an MP4 (MPEG-4 part 2) of one synthetic person.

    Args:
        path: Output file in an existing folder.
        timeline: ``(seconds, emotion)`` of each segment.
        seed: Random seed of the person and the background.
        transition_s: Duration of a change of expression in seconds, centred at the boundary.

    Returns:
        ``{"frame": int, "time_s": float, "emotion": str}`` for each frame; the stronger emotion
        during a transition.
    """
    if not timeline:
        raise UserError(
            "The video timeline is empty. Give at least one pair of seconds and emotion."
        )
    for seconds, emotion in timeline:
        if emotion not in EMOTIONS:
            raise unknown("emotion", emotion, EMOTIONS, "Set it in the video timeline.")
        if not (math.isfinite(seconds) and seconds > 0):
            raise UserError(f"Video timeline: {emotion} has {seconds} s; give more than 0 s.")
    if not fps > 0 or min(size) < 32:
        raise UserError(f"A video needs fps > 0 and sides >= 32 px, not {fps} fps and {size}.")
    person, faces = _sample_person(seed)
    faces = {name: blend(person, face, 1.0) for name, face in faces.items()}
    ends = np.cumsum([seconds for seconds, _ in timeline])
    emotions = [emotion for _, emotion in timeline]
    width, height = size
    with native_path(path) as name:
        writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        raise UserError(f"Cannot write the video {path}. Give an .mp4 file in an existing folder.")
    truth: list[dict] = []
    try:
        for frame in range(max(1, round(float(ends[-1]) * fps))):
            time_s = frame / fps
            face, segment = expression_at(faces, emotions, ends, time_s, transition_s)
            image = draw_face(_animate(face, time_s, frame), (height, width), 3)
            writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            truth.append({"frame": frame, "time_s": time_s, "emotion": emotions[segment]})
    finally:
        writer.release()
    return truth


def expression_at(
    faces: dict[str, FaceSpec],
    emotions: list[str],
    ends: np.ndarray,
    time_s: float,
    transition_s: float,
) -> tuple[FaceSpec, int]:
    """Return the face at ``time_s`` and the index of its segment.

    Near a boundary the face is blended with that of the adjacent segment.

    Args:
        faces: The face of each emotion.
        emotions: Emotion of each segment.
        ends: End of each segment in seconds, rising.
        transition_s: Duration of a change in seconds, centred at the boundary.
    """
    segment = min(int(np.searchsorted(ends, time_s, side="right")), len(emotions) - 1)
    face, half = faces[emotions[segment]], transition_s / 2
    since_start = time_s - (ends[segment - 1] if segment else -math.inf)
    to_end = (ends[segment] if segment + 1 < len(emotions) else math.inf) - time_s
    if since_start < min(half, to_end):
        previous = faces[emotions[segment - 1]]
        return blend(previous, face, _ease(0.5 + 0.5 * since_start / half)), segment
    if to_end < half:
        following = faces[emotions[segment + 1]]
        return blend(face, following, _ease(0.5 - 0.5 * to_end / half)), segment
    return face, segment


def _ease(t: float) -> float:
    """Smoothstep, 0..1."""
    return t * t * (3 - 2 * t)
