"""Warps of stacked images, compared with OpenCV on single images."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from emotion_lab.data import batch_warp
from emotion_lab.data.batch_warp import area_resize, warp


def make_images(n: int, height: int, width: int, channels: int) -> np.ndarray:
    """Return n different smooth images, uint8 (n, height, width, channels)."""
    noise = np.random.default_rng(0).integers(0, 256, (n, 12, 12, channels), dtype=np.uint8)
    large = [cv2.resize(p, (width, height), interpolation=cv2.INTER_CUBIC) for p in noise]
    return np.stack(large).reshape(n, height, width, channels)


def matrices(
    n: int, size: int, max_shift: float, degrees: float = 30, scale: tuple = (0.7, 1.4)
) -> np.ndarray:
    """Return maps with random rotation, scale and shift (up to ``max_shift`` pixels)."""
    rng = np.random.default_rng(1)
    maps = np.empty((n, 2, 3))
    for matrix in maps:
        angle, zoom = rng.uniform(-degrees, degrees), rng.uniform(*scale)
        matrix[:] = cv2.getRotationMatrix2D((size / 2 - 0.5,) * 2, angle, zoom)
        matrix[:, 2] += rng.uniform(-max_shift, max_shift, 2)
    return maps


def opencv_warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)


LARGE_SHIFTS = ((4, 24, 24, 3), 50, 70)


@pytest.mark.parametrize("max_rows", [batch_warp.MAX_STACK_ROWS, 700, 1])
@pytest.mark.parametrize(
    ("shape", "size", "max_shift"),
    [((9, 48, 48, 1), 48, 3), ((9, 48, 48, 3), 48, 3), ((5, 40, 60, 1), 32, 5), LARGE_SHIFTS],
)
def test_warp_matches_opencv(
    monkeypatch: pytest.MonkeyPatch, max_rows: int, shape: Any, size: int, max_shift: float
) -> None:
    monkeypatch.setattr(batch_warp, "MAX_STACK_ROWS", max_rows)
    images, maps = make_images(*shape), matrices(shape[0], size, max_shift)
    out = np.zeros((shape[0], size, size, shape[3]), np.uint8)
    warp(images, maps, out)
    for image, matrix, result in zip(images, maps, out, strict=True):
        expected = opencv_warp(image, matrix, size).reshape(result.shape)
        difference = np.abs(expected.astype(int) - result)
        # Both round coordinates to 1/32 pixel, but not the same coordinates.
        assert difference.max() <= 6 and difference.mean() < 0.5


@pytest.mark.parametrize(
    ("n", "side", "scale", "degrees", "max_shift"),
    [(256, 48, 0.1, 180, 48), (256, 48, 0.5, 180, 48), (64, 224, 0.25, 30, 20), (2, 4000, 1, 9, 9)],
)
def test_warp_of_extreme_settings(
    n: int, side: int, scale: float, degrees: float, max_shift: float
) -> None:
    """The stack stays below the size limit of OpenCV for all settings."""
    images = np.broadcast_to(make_images(1, side, side, 1), (n, side, side, 1))
    maps = matrices(n, side, max_shift, degrees, (1, 1 / scale))
    out = np.zeros((n, 48, 48, 1), np.uint8)
    warp(images, maps, out)
    for k in (0, n - 1):
        expected = opencv_warp(images[k], maps[k], 48)
        assert np.abs(expected.astype(int) - out[k, :, :, 0]).mean() < 1


def test_flips_are_exact() -> None:
    images = make_images(5, 48, 48, 1)
    maps = np.tile(np.eye(2, 3), (5, 1, 1))
    maps[[1, 3], 0] = [-1, 0, 47]
    maps[4, 0, 2] = 0.5  # the only image that is interpolated
    out = np.zeros_like(images)
    warp(images, maps, out)
    np.testing.assert_array_equal(out[[0, 2]], images[[0, 2]])
    np.testing.assert_array_equal(out[[1, 3]], images[[1, 3]][:, :, ::-1])
    halfway = (images[4, :, :-1].astype(int) + images[4, :, 1:]) / 2
    assert np.abs(out[4, :, :-1] - halfway).max() <= 1


def test_buffers_are_not_shared_with_results() -> None:
    """A second call reuses the buffers and leaves the first result unchanged."""
    maps = matrices(6, 48, 3)
    first, second = np.zeros((6, 48, 48, 1), np.uint8), np.zeros((3, 48, 48, 1), np.uint8)
    images = make_images(6, 48, 48, 1)
    warp(images, maps, first)
    original = first.copy()
    warp(255 - images[:3], maps[:3], second)
    np.testing.assert_array_equal(first, original)
    assert np.abs(255 - first[:3].astype(int) - second).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_area_resize_matches_opencv(channels: int) -> None:
    images = make_images(7, 48, 48, channels)
    result = area_resize(images, 32)
    for image, small in zip(images, result, strict=True):
        expected = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).reshape(small.shape)
        assert np.abs(expected.astype(int) - small).max() <= 1
