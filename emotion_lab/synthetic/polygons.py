"""Filled polygons in layers, with a simple 3-D rotation.

Coordinates are in face units: origin between nose and eyes, 1 = half the height of the head, y
pointing down.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from emotion_lab.synthetic.spec import Colour, FaceSpec

Point = tuple[float, float]

_ANGLES = np.linspace(0.0, 2 * np.pi, 32, endpoint=False)
#: Points of the unit circle, float (32, 2).
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
#: x coordinates -1..1 across a feature, and a parabola over them.
U = np.linspace(-1.0, 1.0, 15)
ARC = 1.0 - U**2
BACK, SKIN, MASK, FRONT = range(4)  # layers, in painting order
_SHIFT = 4  # fractional bits of cv2's fixed-point coordinates


def luma(colour: Colour) -> float:
    """Return the grey level of an RGB colour (ITU-R BT.601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """Interpolate two colours; ``t`` is 0 for ``a`` and 1 for ``b``."""
    return (a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2]))


class PolygonCanvas:
    """Collects polygons in face units and projects all of them at once.

    One projection for all polygons keeps the time of a small image near one millisecond.
    """

    def __init__(self) -> None:
        self.points: list[np.ndarray] = []
        self.shapes: list[tuple[Colour, float, float, int]] = []
        self.layer = BACK

    def fill(
        self, points: np.ndarray, colour: Colour, depth: float = 1.0, lift: float = 0.0
    ) -> None:
        """Add a polygon (N, 2); ``depth`` is 0 at the silhouette and 1 at the front of the head."""
        self.points.append(points)
        self.shapes.append((colour, depth, lift, self.layer))

    def oval(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, depth: float = 1.0
    ) -> None:
        """Add an ellipse with centre (x, y) and radii (rx, ry)."""
        points = np.empty_like(CIRCLE)
        points[:, 0] = CIRCLE[:, 0] * rx + x
        points[:, 1] = CIRCLE[:, 1] * ry + y
        self.fill(points, colour, depth)

    def band(
        self, x: np.ndarray, upper: np.ndarray, lower: np.ndarray, colour: Colour, lift: float = 0.0
    ) -> None:
        """Fill between two curves (N,) over the same ``x`` (N,)."""
        n = len(x)
        points = np.empty((2 * n, 2))
        points[:n, 0], points[:n, 1] = x, upper
        points[n:, 0], points[n:, 1] = x[::-1], lower[::-1]
        self.fill(points, colour, 1.0, lift)

    def crease(self, a: Point, b: Point, c: Point, width: float, colour: Colour) -> None:
        """Add a tapering wrinkle from ``a`` over ``b`` to ``c``."""
        nx, ny = a[1] - c[1], c[0] - a[0]
        norm = width / max(math.hypot(nx, ny), 1e-6)
        nx, ny = nx * norm, ny * norm
        near, far = (b[0] + nx, b[1] + ny), (b[0] - nx, b[1] - ny)
        self.fill(np.array([a, near, c, far]), colour)

    def project(
        self, spec: FaceSpec, unit: float, centre: Point
    ) -> list[tuple[int, np.ndarray, Colour]]:
        """Return (layer, fixed-point polygon int32 (N, 2), colour) in drawing order.

        Args:
            unit: Pixels per face unit.
            centre: Pixel position of the face origin.
        """
        lengths = [len(p) for p in self.points]
        x, y = np.concatenate(self.points).T
        depth, lift = np.repeat(np.array([s[1:3] for s in self.shapes]), lengths, axis=0).T
        # The head is an ellipsoid; only points in front of the silhouette are rotated.
        z = depth * np.sqrt(np.maximum(0.05, 1 - 0.9 * x * x - 0.4 * y * y)) * 0.55 + lift
        px = x * (1 - depth * (1 - math.cos(spec.yaw))) + z * math.sin(spec.yaw)
        py = y * (1 - depth * (1 - math.cos(spec.pitch))) + z * math.sin(spec.pitch)
        subpixels = 1 << _SHIFT
        c, s = math.cos(spec.roll) * unit * subpixels, math.sin(spec.roll) * unit * subpixels
        fixed = np.empty((len(x), 2), np.int32)
        fixed[:, 0] = c * px - s * py + centre[0] * subpixels
        fixed[:, 1] = s * px + c * py + centre[1] * subpixels
        polygons, start = [], 0
        for length, (colour, _, _, layer) in zip(lengths, self.shapes, strict=True):
            polygons.append((layer, fixed[start : start + length], colour))
            start += length
        return polygons


def paint(target: np.ndarray, shapes: list[tuple[int, np.ndarray, Colour]], layer: int) -> None:
    """Fill the polygons of one layer on ``target``, uint8 (H, W) or (H, W, 3)."""
    # No antialiasing of the skin, which is blurred, and of the mask, which is binary.
    line = cv2.LINE_AA if layer in (BACK, FRONT) else cv2.LINE_8
    for shape_layer, points, colour in shapes:
        if shape_layer == layer:
            ink = colour if target.ndim == 3 else luma(colour)
            cv2.fillPoly(target, [points], ink, line, _SHIFT)
