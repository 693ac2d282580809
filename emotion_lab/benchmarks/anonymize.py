"""Benchmark of ``anonymize=``: how much of a moving face stays visible, by its size and speed.

Heads cut out of a photo move across a background without faces, so that their place is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.synthetic.photo import draw_group
from emotion_lab.video.anonymize import Anonymizer, build_sensitive_detectors
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.detectors.photo import PhotoDetector
from emotion_lab.video.sources.open import read_photo
from emotion_lab.video.types import Box, Frame, FrameResult

#: Width and height of the picture, frame rate and number of frames of a clip.
SIZE, FPS, FRAMES = (640, 360), 30.0, 60
#: Height of a face in pixels; pixels that it moves in a frame; faces of a clip.
HEIGHTS, SPEEDS, FACES = (20, 30, 50, 90, 140), (0, 4, 8, 16), 3
#: The bar: a face of which less than this share is hidden counts as visible.
HIDDEN = 0.95
#: Part of a head around its face, as a fraction of the face; smallest face that is cut out.
_AROUND, _MIN_FACE = 0.35, 40
#: Random paths of which those of a clip are chosen.
_TRIES = 50
#: Positions of a frame that are averaged, over half of its time, as a camera blurs motion.
_MOMENTS = np.linspace(-0.25, 0.25, 5)


def cut_heads(photo: np.ndarray, detector: dict[str, Any]) -> list[np.ndarray]:
    """Return the heads of a photo, uint8 (h, w, 3): a face and :data:`_AROUND` on every side."""
    heads = []
    for x, y, w, h in PhotoDetector(build_detector(detector))(photo).boxes:
        left, top = round(x - _AROUND * w), round(y - _AROUND * h)
        right, bottom = round(x + (1 + _AROUND) * w), round(y + (1 + _AROUND) * h)
        inside = left >= 0 and top >= 0 and right <= photo.shape[1] and bottom <= photo.shape[0]
        if inside and h >= _MIN_FACE:
            heads.append(photo[top:bottom, left:right])
    return heads


def path(rng: np.random.Generator, height: float, speed: float) -> np.ndarray:
    """Return centres (FRAMES, 2) of a face that moves straight on and turns at the borders."""
    low = height + speed / 2  # the whole head stays in the picture
    span = np.array(SIZE) - 2 * low
    angle = rng.uniform(0, 2 * np.pi)
    way = np.arange(FRAMES)[:, None] * speed * np.array([np.cos(angle), np.sin(angle)])
    phase = (rng.uniform(0, 2 * span, 2) + way) % (2 * span)
    return low + np.minimum(phase, 2 * span - phase)


def apart(rng: np.random.Generator, height: float, speed: float) -> list[np.ndarray]:
    """Return up to :data:`FACES` paths of faces that never cover one another."""
    ways: list[np.ndarray] = []
    for _ in range(_TRIES):
        way = path(rng, height, speed)
        if all(np.linalg.norm(way - other, axis=1).min() > 2 * height for other in ways):
            ways.append(way)
    return ways[:FACES]


def texture(seed: int) -> np.ndarray:
    """Return a background without faces: coloured noise of all sizes, uint8 (H, W, 3)."""
    rng, image = np.random.default_rng(seed), np.full((SIZE[1], SIZE[0], 3), 128.0)
    for cells in (4, 9, 20, 45, 100):
        noise = rng.normal(0, 80 / cells**0.5, (cells, 2 * cells, 3))
        image += cv2.resize(noise, SIZE, interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def _paste(canvas: np.ndarray, head: np.ndarray, centre: np.ndarray) -> None:
    """Draw a head, an ellipse with a soft border, at a position with fractions of pixels."""
    h, w = head.shape[:2]
    mask = cv2.ellipse(np.zeros((h, w), np.float32), ((w / 2, h / 2), (w, h), 0), 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), max(0.5, h / 30))
    corner = centre - (w / 2, h / 2)
    left, top = np.floor(corner).astype(int)
    shift = np.array([[1, 0, corner[0] - left], [0, 1, corner[1] - top]])
    alpha = cv2.warpAffine(mask, shift, (w + 1, h + 1))[..., None]
    moved = cv2.warpAffine(head, shift, (w + 1, h + 1), borderMode=cv2.BORDER_REPLICATE)
    part = canvas[top : top + h + 1, left : left + w + 1]
    part[:] = part * (1 - alpha) + moved * alpha


def clip(
    heads: Sequence[np.ndarray], background: np.ndarray, height: float, speed: float, seed: int
) -> Iterator[tuple[Frame, FrameResult, list[Box]]]:
    """Yield the frames of a clip with the true boxes of its faces."""
    rng = np.random.default_rng([seed, round(height), round(speed)])
    faces, sizes = [], []
    centres = apart(rng, height, speed)
    for number in range(len(centres)):
        head = heads[(seed + number) % len(heads)].astype(np.float32)
        scale = height * (1 + 2 * _AROUND) / head.shape[0]
        faces.append(cv2.resize(head, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        sizes.append(np.array(faces[-1].shape[1::-1]) / (1 + 2 * _AROUND))
    for index in range(FRAMES):
        moments = []
        for moment in _MOMENTS if speed else (0.0,):
            canvas = background.astype(np.float32)
            for face, way in zip(faces, centres, strict=True):
                step = way[index] - way[index - 1] if index else way[1] - way[0]
                _paste(canvas, face, way[index] + moment * step)
            moments.append(canvas)
        image = np.mean(moments, axis=0) + rng.normal(0, 2, background.shape)
        boxes = [
            (*(way[index] - size / 2), *size) for way, size in zip(centres, sizes, strict=True)
        ]
        frame = Frame(np.clip(np.rint(image), 0, 255).astype(np.uint8), index, index / FPS, 0.0)
        yield frame, FrameResult("clip", index, index / FPS, 0.0, SIZE), boxes


def hidden_share(face: Box, hidden: Sequence[Box]) -> float:
    """Return the share of the visible pixels of a face that are hidden."""
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    for x, y, w, h in hidden:
        rows = slice(max(0, int(np.floor(y))), max(0, int(np.ceil(y + h))))
        mask[rows, max(0, int(np.floor(x))) : max(0, int(np.ceil(x + w)))] = True
    x, y, w, h = face
    part = mask[max(0, round(y)) : max(0, round(y + h)), max(0, round(x)) : max(0, round(x + w))]
    return float(part.mean()) if part.size else 1.0


def measure(
    heads: Sequence[np.ndarray], background: np.ndarray, anonymizer: Anonymizer, **case: Any
) -> dict[str, Any]:
    """Return how well the faces of one clip are hidden; ``case``: height, speed and seed."""
    truth: dict[int, list[Box]] = {}

    def frames() -> Iterator[tuple[Frame, FrameResult]]:
        for frame, result, boxes in clip(heads, background, **case):
            truth[frame.index] = boxes
            yield frame, result

    shares, areas = [], []
    for frame, result in anonymizer.clone().process(frames(), stills=False, live=False):
        hidden = result.hidden or []
        shares += [hidden_share(box, hidden) for box in truth.pop(frame.index)]
        areas.append(hidden_share((0, 0, *SIZE), hidden))
    return {
        "height": case["height"],
        "speed": case["speed"],
        "faces": len(shares),
        "visible": sum(share < HIDDEN for share in shares),
        "least": round(min(shares), 4),
        "picture": round(float(np.mean(areas)), 4),
    }


def bench(cfg: dict[str, Any]) -> dict[str, Any]:
    """Run the benchmark on the heads of ``cfg["photo"]``, or on drawn ones."""
    if cfg["photo"] is None:
        photo = draw_group(EMOTIONS[:6], SIZE[1], seed=cfg["seed"])
    else:
        photo = read_photo(Path(cfg["photo"]).expanduser())
    heads = cut_heads(photo, cfg["detector"])
    if not heads:
        raise UserError(
            f"photo={cfg['photo']}: no face of {_MIN_FACE} pixels is wholly in the photo: name "
            "another photo."
        )
    background = texture(cfg["seed"])
    anonymizer = Anonymizer("blur", build_sensitive_detectors(cfg["detector"]))
    rows = []
    for height in HEIGHTS:
        for speed in SPEEDS:
            case = {"height": height, "speed": speed, "seed": cfg["seed"]}
            rows.append(measure(heads, background, anonymizer, **case))
            print(f"  {height} px, {speed} px a frame: least {rows[-1]['least']:.3f}", flush=True)
    return {
        "photo": None if cfg["photo"] is None else Path(cfg["photo"]).name,
        "heads": len(heads),
        "detector": anonymizer.detectors[0].name,
        "hidden": HIDDEN,
        "rows": rows,
    }
