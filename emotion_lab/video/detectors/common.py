"""What all face detectors share: fitting the image, suppressing doubles, finding model files.

A detector fits the image once (:func:`fit`), finds corners and scores in the fitted image and
hands them to :func:`collect`, which brings them back to source pixels.
"""

from __future__ import annotations

import hashlib
import http.client
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write, cache_root, file_hash
from emotion_lab.video.sources.video_file import quiet
from emotion_lab.video.types import DETECTORS, Detections, Detector

#: More candidates than this are cut to the best before suppression, which takes quadratic time.
MAX_CANDIDATES = 5000


def build_detector(cfg: dict[str, Any]) -> Detector:
    """Build the detector that ``cfg["name"]`` says, from ``conf/detector/<name>.yaml``.

    Raises:
        UserError: For an unknown name, or a model file that is missing, wrong or unreadable.
    """
    quiet()
    return DETECTORS.get(cfg["name"])(cfg)


# --- images -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LetterboxedImage:
    """An image scaled onto a canvas, and the way back.

    Attributes:
        image: uint8 (h, w, 3) RGB, contiguous.
        scale: Fitted pixels per source pixel, across and down; they differ by rounding only.
        offset: Where the source's top left corner lies: x, y in fitted pixels.
        source: Width and height of the source.
    """

    image: np.ndarray
    scale: tuple[float, float]
    offset: tuple[int, int]
    source: tuple[int, int]

    def back(self, points: np.ndarray) -> np.ndarray:
        """Bring (..., 2) points from fitted to source pixels, as float32."""
        points = np.asarray(points, np.float64)
        return ((points - self.offset) / self.scale).astype(np.float32)


def _scaled(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return (height, width, 3); areas are averaged when shrinking, so that no row is skipped."""
    image = np.ascontiguousarray(image)
    if image.shape[:2] == (height, width):
        return image
    smaller = width * height < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def _inner(image: np.ndarray, width: float, height: float, enlarge: bool) -> tuple[int, int]:
    """Return the largest (width, height) of the image's shape within the limits."""
    h, w = image.shape[:2]
    ratio = min(width / w, height / h)
    if not enlarge:
        ratio = min(ratio, 1.0)
    return max(1, round(w * ratio)), max(1, round(h * ratio))


def shrink(
    image: np.ndarray, size: int | None, enlarge: bool = False, multiple: int = 1, least: int = 1
) -> LetterboxedImage:
    """Scale an image so that its longest side is ``size``; add black right and below.

    Args:
        image: uint8 (H, W, 3).
        size: Pixels of the longest side; None keeps the image as it is.
        enlarge: Whether a smaller image is enlarged; otherwise it keeps its size.
        multiple: Both sides of the result are multiples of this.
        least: Both sides of the result are at least this, in pixels.
    """
    limit = size or max(image.shape[:2])
    width, height = _inner(image, limit, limit, enlarge)
    canvas = tuple(-(-max(side, least) // multiple) * multiple for side in (width, height))
    return _place(image, (width, height), canvas, (0, 0), 0)


def letterbox(
    image: np.ndarray,
    width: int,
    height: int,
    pad: int = 114,
    centre: bool = True,
    enlarge: bool = False,
) -> LetterboxedImage:
    """Fit an image onto a canvas of a fixed size, its shape kept.

    Args:
        image: uint8 (H, W, 3).
        width: Of the canvas, pixels.
        height: Of the canvas, pixels.
        pad: Grey level 0..255 of the bars; 114 is what YOLO networks were trained with.
        centre: Put the image into the middle, else into the top left corner.
        enlarge: Whether an image smaller than the canvas is enlarged.
    """
    inner = _inner(image, width, height, enlarge)
    offset = (0, 0)
    if centre:
        offset = ((width - inner[0]) // 2, (height - inner[1]) // 2)
    return _place(image, inner, (width, height), offset, pad)


def _place(
    image: np.ndarray,
    inner: tuple[int, int],
    canvas: tuple[int, int],
    offset: tuple[int, int],
    pad: int,
) -> LetterboxedImage:
    h, w = image.shape[:2]
    result = _scaled(image, *inner)
    if inner != canvas:
        right, below = canvas[0] - inner[0] - offset[0], canvas[1] - inner[1] - offset[1]
        result = cv2.copyMakeBorder(
            result, offset[1], below, offset[0], right, cv2.BORDER_CONSTANT, value=(pad,) * 3
        )
    return LetterboxedImage(result, (inner[0] / w, inner[1] / h), offset, (w, h))


# --- boxes --------------------------------------------------------------------------------------


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> np.ndarray:
    """Return the indices that non-maximum suppression keeps, best first.

    Args:
        boxes: (N, 4) x, y, width, height.
        scores: (N,).
        overlap: Of two boxes with an IoU above this the weaker goes.
    """
    if not len(boxes):
        return np.zeros(0, np.int64)
    # OpenCV drops scores of 0, which are good scores here; adding to all leaves the order.
    raised = np.asarray(scores, np.float32) + 1
    keep = cv2.dnn.NMSBoxes(np.asarray(boxes, np.float64), raised, 0.0, overlap)
    return np.asarray(keep, np.int64).reshape(-1)


def collect(
    fitted: LetterboxedImage,
    corners: np.ndarray,
    scores: np.ndarray,
    landmarks: np.ndarray | None,
    cfg: dict[str, Any],
    nms: bool = True,
) -> Detections:
    """Make the result of a detector from what its network found in the fitted image.

    Faces below ``cfg["score_threshold"]``, doubles, boxes without an area and boxes whose centre lies
    outside of the image are left out. A box that reaches over the border is not cut: cut, the
    face would be distorted when it is scaled for the classifier.

    Args:
        fitted: The image the network saw.
        corners: (N, 4) left, top, right, bottom in fitted pixels.
        scores: (N,) 0..1.
        landmarks: (N, 5, 2) in fitted pixels, or None.
        cfg: The detector's config: ``score_threshold``, ``nms_threshold`` and ``max_faces`` are read.
        nms: False where the network suppresses doubles itself.

    Returns:
        Faces in source pixels, the best first, at most ``max_faces``.
    """
    corners = fitted.back(np.asarray(corners).reshape(-1, 2, 2)).reshape(-1, 4)
    scores = np.asarray(scores, np.float32).reshape(-1)
    with np.errstate(invalid="ignore", over="ignore"):
        size = corners[:, 2:] - corners[:, :2]
        middle = corners[:, :2] + size / 2
        good = (scores >= cfg["score_threshold"]) & (size > 0).all(1) & np.isfinite(corners).all(1)
        good &= ((middle >= 0) & (middle <= fitted.source)).all(1)
    index = np.flatnonzero(good)
    index = index[np.argsort(-scores[index], kind="stable")][:MAX_CANDIDATES]
    boxes = np.concatenate([corners[index, :2], size[index]], axis=1)
    if nms:
        keep = suppress(boxes, scores[index], cfg["nms_threshold"])
        index, boxes = index[keep], boxes[keep]
    index, boxes = index[: cfg["max_faces"]], boxes[: cfg["max_faces"]]
    if landmarks is not None:
        landmarks = fitted.back(np.asarray(landmarks).reshape(-1, 5, 2)[index])
    return Detections(boxes, np.clip(scores[index], 0, 1), landmarks)


# --- files --------------------------------------------------------------------------------------


def given_path(cfg: dict[str, Any], key: str, what: str, folder: bool = False) -> Path:
    """Return ``cfg[key]`` as the path of a file that exists.

    Args:
        cfg: The detector's config.
        key: ``"file"`` or ``"config"``.
        what: What the file is, for the message when none is set.
        folder: Whether a folder will do.

    Raises:
        UserError: If nothing is set, nothing is there, or it cannot be read.
    """
    name = cfg["name"]
    if not cfg.get(key):
        raise UserError(f"detector={name} needs {what}. Set detector.{key}=<path>.")
    path = Path(str(cfg[key])).expanduser()
    if not path.exists():
        raise UserError(f"No file at {path} for detector={name}. Set detector.{key}=<path>.")
    if path.is_dir() and not folder:
        raise UserError(f"detector.{key}={path} is a folder; detector={name} needs {what}.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read. Change its permissions, or detector.{key}=<path>.")
    return path


def find_file(cfg: dict[str, Any], what: str, url: str | None = None, folder: bool = False) -> Path:
    """Return the verified model file of a detector.

    ``cfg["file"]`` wins. Without it the cache folder is searched for the file ``url`` ends with,
    and only then it is fetched, once.

    Args:
        cfg: The detector's config: ``name``, ``file`` and ``sha256`` (null: any file) are read.
        what: What the file is, for messages.
        url: Official address; None where there is none.
        folder: Whether ``file`` may be a folder, which has no hash.

    Raises:
        UserError: If the file is missing, has another hash, or cannot be fetched within 20 s.
    """
    sha256 = cfg.get("sha256")
    if cfg.get("file") or url is None:
        path = given_path(cfg, "file", what, folder)
        if sha256 and path.is_file() and (found := file_hash(path)) != sha256:
            raise UserError(
                f"{path} is not the file expected (sha256 {found[:16]}..., expected "
                f"{sha256[:16]}...). Fetch it again, or set detector.sha256=null to use it."
            )
        return path
    path = cache_root() / os.path.basename(url)
    if path.is_file() and (not sha256 or file_hash(path) == sha256):
        return path
    return _fetch(url, path, sha256, what)


def _fetch(url: str, path: Path, sha256: str | None, what: str) -> Path:
    """Download ``url`` to ``path``; the file appears whole and verified, or not at all."""
    # Imported here: only a first use needs the network, and the module brings torch.
    from emotion_lab.models.pretrained import open_url

    by_hand = f"Fetch {url} elsewhere and set detector.file=<path>"
    try:
        with open_url(url) as response:
            data = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"Cannot fetch {what} ({reason}). {by_hand}.") from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256:
        raise UserError(
            f"{url} did not send the file expected (sha256 {found[:16]}..., expected "
            f"{sha256[:16]}...). Try again, or fetch it elsewhere and set detector.file=<path>."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, data)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror}. Set EMOTION_LAB_CACHE to a folder with room."
        ) from error
    return path
