"""Nine image corruptions, each at five severities.

Fixed corruptions and severities follow Hendrycks and Dietterich 2019, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations"; corruptions and strengths are chosen for face
crops. Severity 1 is mild; at severity 5 a person still recognises a face in most images.

Strengths are relative to the shorter side of the image: a face of 48 pixels and the same face at
224 pixels are corrupted about equally.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from emotion_lab.core.errors import unknown

#: Strengths in pixels refer to images of this side, the size of FER2013.
REFERENCE = 48
SEVERITIES = (1, 2, 3, 4, 5)

#: (image uint8 (H, W, C), severity 1..5, generator) -> a new image of that shape and dtype.
Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def _side(image: np.ndarray) -> int:
    return min(image.shape[:2])


def _to_uint8(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return float values as uint8 in the shape of ``like`` (OpenCV drops a single channel)."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8).reshape(like.shape)


def blur(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Blur with a Gaussian of 0.6 to 1.8 pixels (in an image of 48)."""
    sigma = (0.6, 0.8, 1.05, 1.4, 1.8)[severity - 1] * _side(image) / REFERENCE
    return cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape)


def noise(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise with a standard deviation of 6 to 32 grey levels.

    The grain is 1/48 of the image: finer noise would disappear when a large image is resized to
    the network input.
    """
    height, width, channels = image.shape
    coarse = max(1.0, _side(image) / REFERENCE)
    grid = (round(height / coarse), round(width / coarse), channels)
    grain = generator.standard_normal(grid, dtype=np.float32)
    enlarged = cv2.resize(grain, (width, height), interpolation=cv2.INTER_NEAREST)
    deviation = (6, 10, 15, 22, 32)[severity - 1]
    return _to_uint8(image + deviation * enlarged.reshape(image.shape), image)


def dark(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Scale the brightness to 65 to 15 %."""
    return _to_uint8(image * np.float32((0.65, 0.45, 0.32, 0.22, 0.15)[severity - 1]), image)


def bright(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Add 20 to 100 grey levels; values are clipped at 255."""
    return _to_uint8(image + np.float32((20, 40, 60, 80, 100)[severity - 1]), image)


def low_contrast(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Scale the contrast, the distance from the mean of the image, to 65 to 15 %."""
    factor = np.float32((0.65, 0.45, 0.32, 0.22, 0.15)[severity - 1])
    mean = image.mean(dtype=np.float32)
    return _to_uint8(mean + factor * (image - mean), image)


def occlusion(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Cover a square of 20 to 50 % of the side with grey, at a random position."""
    height, width, _ = image.shape
    size = max(1, round((0.2, 0.28, 0.36, 0.44, 0.5)[severity - 1] * _side(image)))
    down, right = generator.random(2)
    top, left = round(down * (height - size)), round(right * (width - size))
    result = image.copy()
    result[top : top + size, left : left + size] = 127
    return result


def jpeg(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Compress as JPEG of quality 40 to 8 (in an image of 48).

    JPEG blocks have 8 pixels, a smaller part of a larger image: the quality decreases with the
    square root of the size to compensate. At severity 5 the loss is about equal; at severity 1 a
    large image loses only half as much.
    """
    quality = (40, 25, 17, 12, 8)[severity - 1] * (REFERENCE / max(REFERENCE, _side(image))) ** 0.5
    grey = image.shape[2] == 1
    _, data = cv2.imencode(
        ".jpg",
        image if grey else cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, max(1, round(quality))],
    )
    decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded.reshape(image.shape) if grey else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def rotation(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Rotate by 8 to 45 degrees in a random direction; the border is mirrored."""
    height, width, _ = image.shape
    angle = (8, 15, 23, 33, 45)[severity - 1] * (1 if generator.random() < 0.5 else -1)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    turned = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return turned.reshape(image.shape)


def small_face(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Reduce the face to 32 to 13 pixels and enlarge it again.

    Images below 48 pixels are reduced by the same factor as images of 48 pixels.
    """
    height, width, _ = image.shape
    pixels = (32, 26, 21, 17, 13)[severity - 1] * min(1.0, _side(image) / REFERENCE)
    scale = pixels / _side(image)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return large.reshape(image.shape)


#: Name -> corruption, in display order.
CORRUPTIONS: dict[str, Corruption] = {
    function.__name__: function
    for function in (
        *(blur, noise, dark, bright, low_contrast),
        *(occlusion, jpeg, rotation, small_face),
    )
}


def corrupt(image: np.ndarray, name: str, severity: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Return a corrupted copy of an image.

    The same image, name and seed give the same noise, position or direction at every severity.

    Args:
        image: uint8 (H, W, 1) grey or (H, W, 3) RGB, of any size.
        name: One of :data:`CORRUPTIONS`.
        severity: 1 (mild) to 5 (strong).
        seed: Random seed; use a different one for each image.

    Returns:
        uint8 (H, W, C), a new array.
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise ValueError(f"expected a severity of 1 to 5, got {severity}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"expected uint8 (H, W, 1 or 3), got {image.dtype} {image.shape}")
    return CORRUPTIONS[name](image, severity, np.random.default_rng(seed))
