"""Render a `FaceSpec` as an image.

Faces are drawn with filled polygons in face units, independent of the image size. The effect of
each action unit follows the Facial Action Coding System (Ekman & Friesen 1978); the coefficients
were chosen by visual inspection.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

from emotion_lab.synthetic.polygons import (
    ARC,
    BACK,
    CIRCLE,
    FRONT,
    MASK,
    SKIN,
    PolygonCanvas,
    U,
    luma,
    mix,
    paint,
)
from emotion_lab.synthetic.spec import Colour, FaceSpec


def _add_back(canvas: PolygonCanvas, s: FaceSpec, shade: Colour) -> None:
    """Add long hair, neck, shoulders and ears, behind the face."""
    if s.hair_style in ("long", "curly"):
        drop = 1.0 if s.hair_style == "long" else 0.35
        canvas.fill(CIRCLE * (s.face_width + 0.2, 1.12 + drop / 2) + (0, drop / 2), s.hair, 0)
    if s.hair_style == "curly":
        for angle in np.linspace(math.pi * 0.95, math.pi * 2.05, 9):
            x, y = (s.face_width + 0.1) * math.cos(angle), 1.02 * math.sin(angle)
            canvas.oval(x, y, 0.24, 0.24, s.hair, 0)
    canvas.fill(np.array([(-0.42, 0.5), (0.42, 0.5), (0.46, 1.5), (-0.46, 1.5)]), shade, 0)
    canvas.fill(CIRCLE * (1.5, 0.9) + (0, 2.05), s.clothes, 0)
    for side in (-1, 1):
        canvas.oval(side * (s.face_width + 0.01), -0.02, 0.11, 0.2, shade, 0)


def _face_outline(s: FaceSpec) -> np.ndarray:
    down = np.maximum(0.0, CIRCLE[:, 1])
    x = s.face_width * CIRCLE[:, 0] * (1 + 0.22 * (1 - s.jaw) * down)
    return np.stack([x, CIRCLE[:, 1] * (0.97 + 0.13 * s.jaw_drop * (down > 0))], axis=1)


def _add_shading(canvas: PolygonCanvas, s: FaceSpec, shade: Colour, light: Colour) -> None:
    """Add the shading of the skin, which is blurred later."""
    canvas.fill(_face_outline(s) * 0.86, s.skin, 0.3)
    if s.beard:
        dark = mix(s.skin, mix(s.hair, (40, 35, 35), 0.5), 0.5 * s.beard)
        canvas.oval(0, 0.82, s.face_width * 0.95, 0.5, dark, 0.8)
        canvas.oval(0, 0.42, s.face_width * 0.55, 0.22, s.skin)
    lift = 0.1 * s.cheek_raise
    for side in (-1, 1):
        cheek = mix(mix(s.skin, light, 0.5), (235, 110, 100), 0.12)
        canvas.oval(side * 0.42, 0.22 - lift, 0.2, 0.15, cheek)
        canvas.oval(side * s.eye_distance, -0.14, 0.24, 0.15, mix(s.skin, shade, 0.55))
    canvas.oval(0, -0.66, 0.4, 0.16, light, 0.7)
    canvas.oval(0, 0.76 + 0.1 * s.jaw_drop, 0.3, 0.06, mix(s.skin, shade, 0.7))
    shadow = 1 if s.light_x <= 0 else -1
    canvas.oval(shadow * 0.1, 0.06, 0.07, 0.22, shade)
    canvas.oval(0, 0.0, 0.045, 0.24, light)


def _add_eyes(canvas: PolygonCanvas, s: FaceSpec, dark: Colour, shade: Colour) -> None:
    ew = 0.2 * s.eye_size
    opening = 1 + 0.6 * s.lid_raise - 0.35 * s.lid_tighten - 0.2 * s.cheek_raise
    upper = 0.115 * s.eye_size * opening * (1 - s.eye_closure)
    lower = 0.08 * s.eye_size * (1 - 0.55 * s.cheek_raise - 0.35 * s.lid_tighten)
    lower *= 1 + 0.3 * s.lid_raise
    droop = 0.35 * max(0.0, s.brow_inner_raise - s.brow_outer_raise) * (s.eye_closure > 0.1)
    frown = max(0.0, s.brow_lower - s.brow_inner_raise)
    slant = (-s.eye_slant + droop - 0.2 * frown) * 0.25
    for side in (-1, 1):
        cx, cy = side * s.eye_distance, -0.13
        x = cx + side * U * ew
        line = cy + slant * U
        top = line - upper * ARC**0.75
        bottom = line + lower * ARC
        canvas.band(x, top, bottom, (244, 240, 236))
        ix, radius = cx + 0.08 * s.gaze, 0.092 * s.eye_size
        for r, colour in ((radius, s.iris), (radius * 0.5, (12, 10, 10))):
            circle = CIRCLE * r + (ix, cy - 0.012)
            u = side * (circle[:, 0] - cx) / ew
            arc = np.maximum(1 - u * u, 0.0)
            rim = cy + slant * u  # the lids at the x positions of the circle
            low, high = rim - upper * arc**0.75, rim + lower * arc
            circle[:, 1] = np.minimum(np.maximum(circle[:, 1], low), high)
            canvas.fill(circle, colour)
        if upper > 0.07:
            canvas.oval(ix - 0.03, cy - 0.045, 0.022, 0.022, (250, 250, 250))
        canvas.band(x, top - 0.012 - 0.03 * ARC, top + 0.012, dark)
        canvas.band(x, bottom - 0.004, bottom + 0.014, mix(shade, dark, 0.45))
        fold = top - 0.05 - 0.02 * s.lid_raise
        canvas.band(x, fold - 0.012 * ARC, fold + 0.006 * ARC, shade)
        if s.cheek_raise > 0.3:  # eye bag and crow's feet of AU6
            canvas.band(x, bottom + 0.055, bottom + 0.055 + 0.018 * ARC, shade)
            for dy in (-0.05, 0.03):
                edge = cx + side * (ew + 0.03)
                tip = (edge + side * 0.1, cy + 2 * dy)
                canvas.crease(
                    (edge, cy + dy * 0.6), (edge + side * 0.05, cy + dy), tip, 0.012, shade
                )


def _add_brows(canvas: PolygonCanvas, s: FaceSpec, colour: Colour, shade: Colour) -> None:
    inner = 0.22 * s.brow_inner_raise - 0.17 * s.brow_lower - 0.05 * s.nose_wrinkle
    outer = 0.14 * s.brow_outer_raise + 0.03 * s.brow_lower
    # Corrugator against frontalis: sadness slants the brow.
    outer -= 0.09 * max(0.0, s.brow_inner_raise - s.brow_outer_raise)
    t = (U + 1) / 2
    arch = (0.055 + 0.02 * s.brow_outer_raise - 0.03 * s.brow_lower) * np.sin(np.pi * t**1.3)
    y = -0.385 - inner * (1 - t) - outer * t - arch
    width = 0.042 * s.brow_thickness * (1 - 0.75 * t**3)
    for side in (-1, 1):
        start = s.eye_distance - 0.21 - 0.05 * s.brow_lower
        canvas.band(side * (start + 0.45 * t), y - width, y + width, colour)
        frown = max(0.0, s.brow_lower - 0.5 * s.brow_inner_raise)
        if frown > 0.35:
            a, c = (side * 0.06, -0.24), (side * 0.055, -0.46)
            canvas.crease(a, (side * 0.085, -0.35), c, 0.022 * frown, shade)


def _add_nose_and_forehead(canvas: PolygonCanvas, s: FaceSpec, dark: Colour, shade: Colour) -> None:
    if s.brow_inner_raise - 0.4 * s.brow_lower > 0.4:  # forehead wrinkles of raised brows
        reach = 0.2 + 0.25 * s.brow_outer_raise
        for level in (-0.67, -0.74):
            canvas.band(U * reach, level - 0.016 * ARC, level + 0.006 * ARC, shade)
    tip = 0.06 + 0.18 * s.nose_length - 0.05 * s.nose_wrinkle
    wide = 0.085 * s.nose_width * (1 + 0.25 * s.nose_wrinkle)
    for side in (-1, 1):
        wing = [(side * wide * 1.2, tip - 0.09), (side * wide * 1.8, tip - 0.01)]
        canvas.crease(wing[0], wing[1], (side * wide * 0.9, tip + 0.04), 0.022, shade)
        canvas.oval(side * wide * 0.62, tip + 0.025, 0.042, 0.022, mix(shade, dark, 0.6))
        fold = max(s.corner_pull, 0.9 * s.nose_wrinkle, 0.8 * s.upper_lip_raise)
        if fold > 0.3:  # nasolabial
            bend = (side * (0.32 + 0.1 * s.corner_pull), tip + 0.13)
            end = (side * (0.38 + 0.1 * s.corner_pull), tip + 0.34)
            canvas.crease((side * wide * 1.7, tip - 0.05), bend, end, 0.022 * fold, shade)
        if s.nose_wrinkle > 0.35:
            for level in (-0.12, -0.03, 0.05):
                a, c = (0.0, level - 0.02), (side * 0.13, level + 0.05)
                canvas.crease(a, (side * 0.07, level), c, 0.02 * s.nose_wrinkle, shade)


def _add_mouth(
    canvas: PolygonCanvas, s: FaceSpec, lip: Colour, dark: Colour, shade: Colour
) -> None:
    half = 0.29 * s.mouth_width * (1 + 0.32 * s.corner_pull + 0.35 * s.lip_stretch)
    half *= 1 - 0.2 * s.lip_tighten - 0.22 * s.jaw_drop - 0.05 * s.chin_raise
    x = half * U
    level = 0.53 - 0.05 * s.upper_lip_raise + 0.05 * s.corner_pull - 0.04 * s.chin_raise
    corner = -0.2 * s.corner_pull + 0.17 * s.corner_depress + 0.05 * s.lip_stretch
    corner += 0.06 * s.upper_lip_raise
    middle = level + corner * U**2
    # The exponent sets the shape: a slot if the lips are stretched, an oval if the jaw drops.
    open_shape = 1 - np.abs(U) ** (2 + 5 * s.lip_stretch)
    open_shape **= 1 - 0.5 * s.jaw_drop
    up = 0.012 + 0.03 * s.lips_part + 0.09 * s.upper_lip_raise
    down = 0.012 + (0.1 + 0.05 * s.corner_pull) * s.lips_part + 0.32 * s.jaw_drop
    top, bottom = middle - up * open_shape, middle + down * open_shape
    full = s.lip_fullness * (1 - 0.6 * s.lip_tighten) * (1 - 0.3 * s.corner_pull)
    bow = 1 - 0.3 * np.exp(-((U / 0.2) ** 2))
    under = 0.085 * full * (1 + 0.3 * s.chin_raise)
    canvas.band(x, top - 0.07 * full * bow * ARC**0.7, bottom + under * ARC**0.7, lip)
    canvas.band(x, top, bottom, mix((60, 20, 24), dark, 0.3))
    gap = up + down
    if gap > 0.07:
        if s.jaw_drop > 0.4:
            canvas.oval(0, level + down * 0.75, half * 0.55, down * 0.22, (170, 70, 74))
        teeth = np.minimum(bottom, top + min(0.1, 0.75 * gap) * open_shape)
        canvas.band(x * 0.9, top, teeth, (238, 234, 224))
        if s.lip_stretch > 0.4:
            canvas.band(x * 0.85, bottom - 0.3 * gap * open_shape, bottom, (225, 220, 208))
    chin = 0.70 + 0.2 * s.jaw_drop - 0.03 * s.chin_raise
    canvas.band(U * 0.14, chin - 0.012 * ARC, chin + 0.012 * ARC, shade)
    for side in (-1, 1):
        edge = (side * (half + 0.02), level + corner)
        if s.corner_depress > 0.35:
            b = (edge[0] + side * 0.04, edge[1] + 0.05)
            canvas.crease(edge, b, (edge[0] + side * 0.03, edge[1] + 0.14), 0.018, shade)


def _add_hair(canvas: PolygonCanvas, s: FaceSpec) -> None:
    if s.hair_style != "bald":
        angles = np.linspace(math.pi * 0.98, math.pi * 2.02, 15)
        outer = np.stack([(s.face_width + 0.05) * np.cos(angles), 1.06 * np.sin(angles)], 1)
        level = {"fringe": -0.62, "short": -0.78}.get(s.hair_style, -0.74)
        part = 0.22 * U if s.hair_style == "side" else 0.05 * np.cos(9 * U)
        line = np.stack([-(s.face_width - 0.02) * U, level + part + 0.62 * np.abs(U) ** 7], 1)
        canvas.fill(np.concatenate([outer, line]), s.hair, 0.12)


def _add_covers(canvas: PolygonCanvas, s: FaceSpec) -> None:
    """Add glasses and the occluder, in front of the face."""
    if s.glasses:
        for side in (-1, 1):
            ring = np.concatenate([CIRCLE, CIRCLE[:1], CIRCLE[:1] * 0.87, CIRCLE[::-1] * 0.87])
            canvas.fill(
                ring * (0.27, 0.21) + (side * s.eye_distance, -0.1), (30, 28, 30), 1.0, 0.05
            )
        canvas.band(U * 0.09, ARC * 0 - 0.16, ARC * 0 - 0.13, (30, 28, 30), 0.05)
    x, y, r = s.occlusion_x, s.occlusion_y, s.occlusion_size
    if s.occlusion == "hand":
        palm = mix(s.skin, (90, 50, 40), 0.18)
        x, y = math.copysign(0.45 + 0.3 * abs(x), x), max(y, 0.1)
        canvas.fill(CIRCLE * (r * 1.2, r * 1.5) + (x, y + 2.2 * r), palm, 0)
        for finger in range(4):
            fx = x + (finger - 1.5) * r * 0.58
            canvas.fill(CIRCLE * (r * 0.27, r * 1.3) + (fx, y + r * 0.6), mix(palm, s.skin, 0.4), 0)
    elif s.occlusion == "hair":
        strand = [(0.1, -1.05), (0.9, -0.7), (0.85, 0.5), (0.62, 0.6), (0.45, -0.1), (0.3, -0.5)]
        canvas.fill(np.array(strand) * (math.copysign(1.0, x), 1), s.hair, 0)
    elif s.occlusion == "scarf":
        edge = 0.62 + 0.15 * y
        outline = np.stack([np.r_[U, 1, -1], np.r_[edge + 0.1 * ARC, 1.7, 1.7]], 1)
        canvas.fill(outline, s.occlusion_colour, 0)
    elif s.occlusion == "block":
        box = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (r, r * 0.8)
        canvas.fill(box + np.array((x, y)), s.occlusion_colour, 0)


def _background(s: FaceSpec, height: int, width: int, channels: int) -> np.ndarray:
    """Return the background, uint8 (H, W) or (H, W, 3)."""
    rng = np.random.default_rng(s.background_seed)
    level, std = rng.uniform(30, 225), (12 if s.background == "plain" else 55)
    cells = level + rng.normal(0, std, (4, 4, 1)) + rng.normal(0, 0.45 * std, (4, 4, 3))
    canvas: np.ndarray = np.clip(cells, 0, 255).astype(np.uint8)
    if channels == 1:
        canvas = cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)
    canvas = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_LINEAR)
    if s.background == "shapes":
        boxes = (rng.uniform(-0.1, 1.0, (5, 2, 2)) * (width, height)).astype(int).tolist()
        colours = (rng.uniform(0, 255, (5, 1)) + rng.normal(0, 25, (5, 3))).clip(0, 255).tolist()
        for (a, b), colour in zip(boxes, colours, strict=True):
            ink = colour if channels == 3 else luma(colour)
            cv2.rectangle(canvas, a, (a[0] + b[0] // 2, a[1] + b[1]), ink, -1)
    return canvas


def draw_face(spec: FaceSpec, size: int | tuple[int, int] = 48, channels: int = 1) -> np.ndarray:
    """Draw one face, uint8 (H, W, channels).

    Args:
        size: Height and width in pixels, or ``(height, width)``.
        channels: 1 (grey) or 3 (RGB).
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    height, width = (size, size) if isinstance(size, int) else size
    # Supersampling, averaged down below; a factor of 2 is sufficient for large images.
    factor = 3 if max(height, width) <= 256 else 2
    h, w = height * factor, width * factor
    short = min(h, w)
    unit = 0.45 * short * spec.scale
    centre = (w / 2 + spec.shift_x * short, h / 2 + spec.shift_y * short)
    dark = mix(spec.skin, (24, 12, 12), 0.85)
    shade = mix(spec.skin, (70, 25, 20), 0.38)
    light = mix(spec.skin, (255, 245, 230), 0.2)
    lip = mix(spec.skin, (150, 40, 52), 0.55)
    brow = mix(mix(spec.hair, (20, 14, 12), 0.45), dark, 0.35)

    polygons = PolygonCanvas()
    _add_back(polygons, spec, mix(spec.skin, shade, 0.6))
    polygons.layer = SKIN
    polygons.fill(CIRCLE * 9, mix(spec.skin, shade, 0.75), 0)
    _add_shading(polygons, spec, shade, light)
    polygons.layer = MASK
    polygons.fill(_face_outline(spec), (255, 255, 255), 0)
    polygons.layer = FRONT
    _add_nose_and_forehead(polygons, spec, dark, shade)
    _add_mouth(polygons, spec, lip, dark, shade)
    _add_eyes(polygons, spec, dark, shade)
    _add_hair(polygons, spec)
    _add_brows(polygons, spec, brow, shade)
    _add_covers(polygons, spec)

    # Grey images are drawn in grey: a third of the work.
    canvas = _background(spec, h, w, channels)
    soft, mask = np.empty_like(canvas), np.zeros((h, w), np.uint8)
    shapes = polygons.project(spec, unit, centre)
    paint(canvas, shapes, BACK)
    paint(soft, shapes, SKIN)
    paint(mask, shapes, MASK)
    kernel = max(3, int(0.13 * unit) | 1)
    cv2.copyTo(cv2.blur(soft, (kernel, kernel)), mask, canvas)
    paint(canvas, shapes, FRONT)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return _expose(small.reshape(height, width, channels), spec)


@lru_cache(maxsize=8)
def _ramp(length: int) -> np.ndarray:
    return np.linspace(-1.0, 1.0, length, dtype=np.float32)


def _expose(image: np.ndarray, s: FaceSpec) -> np.ndarray:
    """Apply lighting, blur and sensor noise to uint8 (H, W, C)."""
    height, width, channels = image.shape
    x, y = np.float32(s.light_x) * _ramp(width), np.float32(s.light_y) * _ramp(height)
    # gain and contrast in one pass: (gain * image - 128) * contrast + 128
    factor = np.maximum(x + (y[:, None] + 1), 0.1) * np.float32(s.gain * s.contrast)
    out = image * factor[:, :, None]
    out += np.float32(128 * (1 - s.contrast))
    if s.blur > 0:
        sigma = s.blur * min(height, width) / 48
        out = cv2.GaussianBlur(out, (0, 0), sigma).reshape(height, width, channels)
    if s.noise > 0:
        grain = np.random.default_rng(s.noise_seed).standard_normal(out.shape, np.float32)
        out += np.float32(s.noise) * grain
    return cv2.convertScaleAbs(np.maximum(out, 0)).reshape(height, width, channels)
