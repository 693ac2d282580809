"""Many pictures warped at once are what OpenCV makes of each of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from emotion_lab.data import batch_warp
from emotion_lab.data.batch_warp import area_resize, warp


def pictures(n: int, height: int, width: int, channels: int) -> np.ndarray:
    """Return smooth pictures, uint8 (n, height, width, channels), each another."""
    noise = np.random.default_rng(0).integers(0, 256, (n, 12, 12, channels), dtype=np.uint8)
    large = [cv2.resize(p, (width, height), interpolation=cv2.INTER_CUBIC) for p in noise]
    return np.stack(large).reshape(n, height, width, channels)


def matrices(n: int, size: int, far: float) -> np.ndarray:
    """Return maps from output to input pixels: turned, scaled, shifted by up to ``far`` pixels."""
    rng = np.random.default_rng(1)
    maps = np.empty((n, 2, 3))
    for one in maps:
        centre = (size / 2 - 0.5, size / 2 - 0.5)
        one[:] = cv2.getRotationMatrix2D(centre, rng.uniform(-30, 30), rng.uniform(0.7, 1.4))
        one[:, 2] += rng.uniform(-far, far, 2)
    return maps


@pytest.mark.parametrize("max_rows", [batch_warp.MAX_STACK_ROWS, 700, 1])
@pytest.mark.parametrize(
    ("n", "height", "width", "channels", "size", "far"),
    [(9, 48, 48, 1, 48, 3), (9, 48, 48, 3, 48, 3), (5, 40, 60, 1, 32, 5), (4, 24, 24, 3, 50, 70)],
)
def test_as_opencv_warps_one(
    monkeypatch: pytest.MonkeyPatch,
    max_rows: int,
    n: int,
    height: int,
    width: int,
    channels: int,
    size: int,
    far: float,
) -> None:
    monkeypatch.setattr(batch_warp, "MAX_STACK_ROWS", max_rows)
    given, maps = pictures(n, height, width, channels), matrices(n, size, far)
    out = np.zeros((n, size, size, channels), np.uint8)
    warp(given, maps, out)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for picture, one, got in zip(given, maps, out, strict=True):
        expected = cv2.warpAffine(
            picture, one, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT
        ).reshape(got.shape)
        difference = np.abs(expected.astype(int) - got)
        # Both round places to a 32nd of a pixel, not the same ones.
        assert difference.max() <= 6 and difference.mean() < 0.5


@pytest.mark.parametrize(
    ("n", "side", "scale", "degrees", "far"),
    [(256, 48, 0.1, 180, 48), (256, 48, 0.5, 180, 48), (64, 224, 0.25, 30, 20), (2, 4000, 1, 9, 9)],
)
def test_whatever_may_be_set(n: int, side: int, scale: float, degrees: float, far: float) -> None:
    """The tower of a batch never passes what OpenCV takes, whatever is drawn."""
    given = np.broadcast_to(pictures(1, side, side, 1), (n, side, side, 1))
    maps = np.empty((n, 2, 3))
    rng = np.random.default_rng(0)
    for one in maps:
        turn, zoom = rng.uniform(-degrees, degrees), 1 / rng.uniform(scale, 1)
        one[:] = cv2.getRotationMatrix2D((side / 2 - 0.5,) * 2, turn, zoom)
        one[:, 2] += rng.uniform(-far, far, 2)
    out = np.zeros((n, 48, 48, 1), np.uint8)
    warp(given, maps, out)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for k in (0, n - 1):
        expected = cv2.warpAffine(
            given[k], maps[k], (48, 48), flags=flags, borderMode=cv2.BORDER_REFLECT
        )
        assert np.abs(expected.astype(int) - out[k, :, :, 0]).mean() < 1


def test_flips_are_exact() -> None:
    given = pictures(5, 48, 48, 1)
    maps = np.tile(np.eye(2, 3), (5, 1, 1))
    maps[[1, 3], 0] = [-1, 0, 47]
    maps[4, 0, 2] = 0.5  # the only one that is interpolated
    out = np.zeros_like(given)
    warp(given, maps, out)
    np.testing.assert_array_equal(out[[0, 2]], given[[0, 2]])
    np.testing.assert_array_equal(out[[1, 3]], given[[1, 3]][:, :, ::-1])
    halfway = (given[4, :, :-1].astype(int) + given[4, :, 1:]) / 2
    assert np.abs(out[4, :, :-1] - halfway).max() <= 1


def test_nothing_leaks_from_one_batch_to_the_next() -> None:
    """The buffers are kept; what comes out of them is the caller's own."""
    maps = matrices(6, 48, 3)
    first, second = np.zeros((6, 48, 48, 1), np.uint8), np.zeros((3, 48, 48, 1), np.uint8)
    given = pictures(6, 48, 48, 1)
    warp(given, maps, first)
    before = first.copy()
    warp(255 - given[:3], maps[:3], second)
    np.testing.assert_array_equal(first, before)
    assert np.abs(255 - first[:3].astype(int) - second).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_shrinking_together_is_shrinking_alone(channels: int) -> None:
    given = pictures(7, 48, 48, channels)
    got = area_resize(given, 32)
    for picture, small in zip(given, got, strict=True):
        expected = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA).reshape(small.shape)
        assert np.abs(expected.astype(int) - small).max() <= 1
