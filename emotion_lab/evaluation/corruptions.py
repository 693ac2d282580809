"""Images made worse in nine ways, each in five severities.

The idea of fixed kinds and severities is from Hendrycks and Dietterich 2019, "Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations"; kinds and strengths here are chosen
for crops of faces. Severity 1 is mild, at severity 5 a person still sees a face in most of them.

Strengths are relative to the image's size (its shorter side), so that a face of 48 pixels and the
same face at 224 pixels are spoilt about equally.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from emotion_lab.core.errors import unknown

#: The strengths that count pixels are given for images of this size, the size of FER2013.
REFERENCE = 48
SEVERITIES = (1, 2, 3, 4, 5)

#: (image uint8 (H, W, C), severity 1..5, generator) -> a new image of that shape and dtype.
Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def _side(image: np.ndarray) -> int:
    return min(image.shape[:2])


def _whole(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return float values as uint8 in the shape of ``like`` (OpenCV drops a single channel)."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8).reshape(like.shape)


def blur(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Blur with a Gaussian of 0.6 to 1.8 pixels (in an image of 48)."""
    sigma = (0.6, 0.8, 1.05, 1.4, 1.8)[severity - 1] * _side(image) / REFERENCE
    return cv2.GaussianBlur(image, (0, 0), sigma).reshape(image.shape)


def noise(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise with a standard deviation of 6 to 32 grey levels.

    The grain is 1/48 of the image: finer noise would vanish when a large image is shrunk to the
    network's input.
    """
    height, width, channels = image.shape
    coarse = max(1.0, _side(image) / REFERENCE)
    grid = (round(height / coarse), round(width / coarse), channels)
    grain = generator.standard_normal(grid, dtype=np.float32)
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_NEAREST)
    deviation = (6, 10, 15, 22, 32)[severity - 1]
    return _whole(image + deviation * grain.reshape(image.shape), image)


def dark(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Keep 65 to 15 % of the light."""
    return _whole(image * np.float32((0.65, 0.45, 0.32, 0.22, 0.15)[severity - 1]), image)


def bright(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Add 20 to 100 grey levels; what is above 255 is lost."""
    return _whole(image + np.float32((20, 40, 60, 80, 100)[severity - 1]), image)


def low_contrast(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Keep 65 to 15 % of each value's distance from the image's mean."""
    share = np.float32((0.65, 0.45, 0.32, 0.22, 0.15)[severity - 1])
    mean = image.mean(dtype=np.float32)
    return _whole(mean + share * (image - mean), image)


def occlusion(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Cover a square of 20 to 50 % of the side with mid-grey, anywhere inside the image."""
    height, width, _ = image.shape
    size = max(1, round((0.2, 0.28, 0.36, 0.44, 0.5)[severity - 1] * _side(image)))
    down, right = generator.random(2)
    top, left = round(down * (height - size)), round(right * (width - size))
    result = image.copy()
    result[top : top + size, left : left + size] = 127
    return result


def jpeg(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Compress as JPEG of quality 40 to 8 (in an image of 48).

    JPEG works on blocks of 8 pixels, which are a smaller part of a larger image: quality falls
    with the square root of the size to make up for that. It does so at the strong end; at the
    mild end a large image still loses only half as much.
    """
    quality = (40, 25, 17, 12, 8)[severity - 1] * (REFERENCE / max(REFERENCE, _side(image))) ** 0.5
    grey = image.shape[2] == 1
    _, data = cv2.imencode(
        ".jpg",
        image if grey else cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, max(1, round(quality))],
    )
    decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    return decoded.reshape(image.shape) if grey else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def rotation(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Turn about the centre by 8 to 45 degrees to either side; the border is mirrored."""
    height, width, _ = image.shape
    angle = (8, 15, 23, 33, 45)[severity - 1] * (1 if generator.random() < 0.5 else -1)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    turned = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return turned.reshape(image.shape)


def small_face(image: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Show the face as if it had been 32 to 13 pixels wide: shrunk, then enlarged again.

    An image below 48 pixels is shrunk by the same share as one of 48.
    """
    height, width, _ = image.shape
    pixels = (32, 26, 21, 17, 13)[severity - 1] * min(1.0, _side(image) / REFERENCE)
    scale = pixels / _side(image)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return large.reshape(image.shape)


#: Name -> corruption, in the order they are shown.
CORRUPTIONS: dict[str, Corruption] = {
    "blur": blur,
    "noise": noise,
    "dark": dark,
    "bright": bright,
    "low_contrast": low_contrast,
    "occlusion": occlusion,
    "jpeg": jpeg,
    "rotation": rotation,
    "small_face": small_face,
}


def corrupt(image: np.ndarray, name: str, severity: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Return a corrupted copy of an image.

    The same image, name and seed give the same noise, place or direction at every severity.

    Args:
        image: uint8 (H, W, 1) grey or (H, W, 3) RGB, of any size.
        name: One of :data:`CORRUPTIONS`.
        severity: 1 (mild) to 5 (strong).
        seed: Of the random part; best another one for each image.

    Returns:
        uint8 (H, W, C), a new array.

    Raises:
        UserError: For an unknown name.
        ValueError: If the severity is not 1..5, or the image is not uint8 (H, W, 1 or 3).
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise ValueError(f"expected a severity of 1 to 5, got {severity}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"expected uint8 (H, W, 1 or 3), got {image.dtype} {image.shape}")
    return CORRUPTIONS[name](image, severity, np.random.default_rng(seed))
