"""Draws a pipeline result on its frame: boxes, labels, probability bars, speed and a timeline."""

from __future__ import annotations

import copy
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from emotion_lab.video.anonymize import Anonymizer
from emotion_lab.video.overlay.fonts import choose_font, default_font
from emotion_lab.video.overlay.primitives import (
    BLACK,
    DIM,
    UNCERTAIN,
    WHITE,
    Colour,
    OverlayScale,
    Rect,
    TextRenderer,
    class_colours,
    draw_text,
    fill,
    place_label,
    shade,
    text_colour_on,
)
from emotion_lab.video.overlay.timeline import LabelHistory, draw_strip
from emotion_lab.video.overlay.translations import load_translations
from emotion_lab.video.types import Face, FrameResult

#: Config keys ``overlay.<key>`` and their defaults.
DEFAULTS: dict[str, Any] = {
    "bars": "auto",  # auto (all, top 3 or none, depending on free space), all, top3, none
    "timeline_s": 30.0,  # seconds shown by the strip at the bottom; 0 hides it
    "scale": 1.0,  # of text and lines; 1 is 13 px text on a frame of 640x360
    "font": None,  # font file, if no installed font covers the language
}
_MAX_OVERLAP = 0.2  # share of a bar panel that may hide something else with bars=auto
_BAR_BACKGROUND: Colour = (70, 70, 70)


@dataclass
class _Canvas:
    """The frame being drawn.

    Attributes:
        image: uint8 (H, W, 3) RGB, drawn in place.
        debug: Whether detector scores, stage times and unsmoothed probabilities are drawn.
        area: Width and height of the part available for labels (without the timeline).
        occupied: Rectangles that labels should not hide, with weights.
    """

    image: np.ndarray
    scale: OverlayScale
    debug: bool
    area: tuple[int, int] = (0, 0)
    occupied: list[tuple[Rect, float]] = field(default_factory=list)


class Overlay:
    """Draws results on frames. It holds the timeline, so use one instance per source.

    Args:
        cfg: Any of :data:`DEFAULTS`.
        language: Code or file, see :func:`load_translations`.
        anonymizer: Hides the faces below the drawing. Sinks store only frames returned by
            :meth:`draw`, so none can store a visible face by mistake.

    Attributes:
        translations: The drawn words; their notes have been printed on standard error.
    """

    def __init__(
        self,
        cfg: dict[str, Any],
        classes: Sequence[str],
        language: str = "en",
        anonymizer: Anonymizer | None = None,
    ) -> None:
        settings = {**DEFAULTS, **cfg}
        self.classes = list(classes)
        self.bars = settings["bars"]
        self.scale = float(settings["scale"])
        self.colours = class_colours(classes)
        self.translations, font = choose_font(
            load_translations(language, classes), classes, settings["font"]
        )
        for note in self.translations.notes:
            print(note, file=sys.stderr)
        self.renderer = TextRenderer(font, default_font())
        self.history = LabelHistory(float(settings["timeline_s"]))
        self.anonymizer = anonymizer
        # Candidate index of each label in the previous frame, by (kind, track id).
        self._positions: dict[tuple[str, int], int] = {}

    def clone(self) -> Overlay:
        """Return an overlay with the same settings and an empty timeline, for another source."""
        other = copy.copy(self)
        other.renderer = self.renderer.clone()
        other.history = LabelHistory(self.history.seconds)
        other.anonymizer = self.anonymizer and self.anonymizer.clone()
        other._positions = {}
        return other

    def draw(
        self,
        image: np.ndarray,
        result: FrameResult,
        fps: float | None = None,
        detector: str = "",
        debug: bool = False,
        live: bool = False,
    ) -> np.ndarray:
        """Return a drawn copy of the frame, uint8 (H, W, 3) RGB.

        Args:
            image: uint8 (H, W, 3) RGB, not modified.
            fps: Frames per second; None for a photo, which has no speed.
            detector: Name of the detector, drawn with ``debug``.
            debug: Also draw stage times, detector scores and unsmoothed probabilities.
            live: Whether the latency includes the time since the capture, as "delay".
        """
        hidden = self.anonymizer.hide(image, result) if self.anonymizer else image.copy()
        out = np.ascontiguousarray(hidden)
        height, width = out.shape[:2]
        face_width = math.inf  # in a video, a size that follows the faces would flicker
        if fps is None and result.faces:
            face_width = statistics.median(face.box[2] for face in result.faces)
        canvas = _Canvas(out, OverlayScale.of(width, height, self.scale, face_width), debug)
        self.history.add(result)
        for face in result.faces:
            self._box(canvas, face)
        strip = draw_strip(
            out, canvas.scale, self.renderer, self.history, result, self._label_style
        )
        canvas.area = (width, height - strip[3])
        canvas.occupied = [(_rect(face), 1.5) for face in result.faces]
        status = self._status(canvas, result, fps, detector, live)
        canvas.occupied.append((status, 20.0))  # a label goes elsewhere, even onto a face
        for face in result.faces:
            canvas.occupied.append((self._tag(canvas, face), 2.0))
        if self.bars != "none":
            for face in result.faces:
                self._panel(canvas, face, len(result.faces))
        ids = {face.id for face in result.faces}
        self._positions = {key: k for key, k in self._positions.items() if key[1] in ids}
        return out

    def _label_style(self, label: int | None) -> tuple[str, Colour]:
        colour = UNCERTAIN if label is None else self.colours[label]
        return self.translations.label(label), colour

    def _place(
        self,
        canvas: _Canvas,
        key: tuple[str, int],
        candidates: Sequence[tuple[int, int]],
        size: tuple[int, int],
    ) -> tuple[int, Rect, float]:
        previous = self._positions.get(key)
        return place_label(candidates, size, canvas.area, canvas.occupied, previous)

    def _box(self, canvas: _Canvas, face: Face) -> None:
        x, y, w, h = _rect(face)
        line = canvas.scale.line
        # A dark border keeps a yellow box visible on a white wall.
        border = line + 2 * max(1, line // 2)
        cv2.rectangle(canvas.image, (x, y), (x + w, y + h), BLACK, border)
        colour = self._label_style(face.label)[1]
        cv2.rectangle(canvas.image, (x, y), (x + w, y + h), colour, line)

    def _tag(self, canvas: _Canvas, face: Face) -> Rect:
        """Draw id, label and confidence on a background of the label's colour."""
        scale = canvas.scale
        label, colour = self._label_style(face.label)
        label = self.translations.turned_away if face.turned_away else label
        text_colour = text_colour_on(colour)
        parts = [
            self.renderer.text(f"{face.id}", scale.small, text_colour, "numbers"),
            self.renderer.text(label, scale.text, text_colour),
        ]
        if face.label is not None:
            share = f"{face.smoothed[face.label] * 100:.0f}%"
            parts.append(self.renderer.text(share, scale.text, text_colour, "numbers"))
        if canvas.debug:
            score = f"{face.score:.2f}"
            parts.append(self.renderer.text(score, scale.small, text_colour, "numbers"))
        gap = 2 * scale.pad
        width = sum(part.width for part in parts) + gap * (len(parts) + 1) - scale.pad
        height = scale.text * 3 // 2
        x, y, w, h = _rect(face)
        left = x - scale.line
        candidates = [
            (left, y - height),
            (left, y + h),
            (x + w - width, y - height),
            (left, y - 2 * height),  # above the tag of a neighbour
            (left, y + h + height),
            (left, y),
        ]
        key = ("tag", face.id)
        self._positions[key], rect, _ = self._place(canvas, key, candidates, (width, height))
        fill(canvas.image, rect, colour)
        pen_x = rect[0] + gap - scale.pad // 2
        for part in parts:
            draw_text(canvas.image, part, pen_x, rect[1] + round(height * 0.74))
            pen_x += part.width + gap
        return rect

    def _panel(self, canvas: _Canvas, face: Face, num_faces: int) -> None:
        """Draw the probabilities as bars next to the face; ``auto`` drops bars without space."""
        scale = canvas.scale
        every = list(range(len(self.classes)))
        top3 = sorted(every, key=lambda k: -float(face.smoothed[k]))[:3]
        options = {"all": [every], "top3": [top3]}.get(self.bars)
        if options is None:
            options = [every, top3] if num_faces <= 3 else [top3]
        x, y, w, h = _rect(face)
        gap = scale.line + 1
        for rows in options:
            names_width = max(
                self.renderer.text(self.translations.labels[k], scale.small).width for k in rows
            )
            width = names_width + scale.bar + 3 * scale.pad + self._id_width(canvas, face)
            height = scale.row * len(rows) + scale.pad
            candidates = [
                (x + w + gap, y),
                (x - width - gap, y),
                (x, y + h + gap),
                (x + w + gap, y + h - height),
                (x - width - gap, y + h - height),
                (x, y - height - 2 * scale.text),
            ]
            key = (f"panel{len(rows)}", face.id)
            index, rect, hidden = self._place(canvas, key, candidates, (width, height))
            fits = width <= canvas.image.shape[1] // 2 and height <= canvas.image.shape[0] // 2
            if self.bars == "auto" and (hidden > _MAX_OVERLAP or not fits):
                continue
            self._positions[key] = index
            self._bars(canvas, face, rect, rows, names_width)
            canvas.occupied.append((rect, 2.0))
            return

    def _id_width(self, canvas: _Canvas, face: Face) -> int:
        """Return the width of the coloured edge and the id in a panel of bars."""
        key = self.renderer.text(f"{face.id}", canvas.scale.small, WHITE, "numbers")
        return canvas.scale.line + canvas.scale.pad + key.width

    def _bars(
        self, canvas: _Canvas, face: Face, rect: Rect, rows: list[int], names_width: int
    ) -> None:
        scale, out = canvas.scale, canvas.image
        shade(out, rect)
        # The colour and the id of the label show which face the bars belong to.
        colour = self._label_style(face.label)[1]
        fill(out, (rect[0], rect[1], scale.line, rect[3]), colour)
        key = self.renderer.text(f"{face.id}", scale.small, WHITE, "numbers")
        names_left = rect[0] + self._id_width(canvas, face)
        row_baseline = scale.pad // 2 + round(scale.row * 0.76)
        draw_text(out, key, rect[0] + scale.line + scale.pad, rect[1] + row_baseline)
        left = names_left + 2 * scale.pad + names_width
        thickness = max(3, round(scale.row * 0.55))
        for line, k in enumerate(rows):
            top = rect[1] + scale.pad // 2 + line * scale.row
            colour = WHITE if k == face.label else DIM
            name = self.renderer.text(self.translations.labels[k], scale.small, colour)
            draw_text(out, name, names_left + scale.pad, top + round(scale.row * 0.76))
            top += (scale.row - thickness) // 2
            fill(out, (left, top, scale.bar, thickness), _BAR_BACKGROUND)
            length = round(float(face.smoothed[k]) * scale.bar)
            fill(out, (left, top, length, thickness), self.colours[k])
            if canvas.debug:  # probability of this frame, before smoothing
                mark = left + round(float(face.probabilities[k]) * (scale.bar - 1))
                fill(out, (mark, top - 1, max(1, scale.line // 2), thickness + 2), WHITE)

    def _status(
        self, canvas: _Canvas, result: FrameResult, fps: float | None, detector: str, live: bool
    ) -> Rect:
        """Draw speed and state in the upper left corner."""
        first = []
        if fps is not None:
            what = "delay" if live else "processing"
            first = [(f"{fps:.0f} fps  {what} {result.latency_ms:.0f} ms", "numbers")]
        if not result.faces:
            first.append((self.translations.no_face, "words"))
        lines = [first]
        if canvas.debug:
            size = f"{result.size[0]}x{result.size[1]}"
            position = f"#{result.frame}  {result.time_s:.2f} s"
            lines.append([("  ".join(filter(None, (detector, size, position))), "numbers")])
            stages = "  ".join(f"{stage} {ms:.1f}" for stage, ms in result.stages_ms.items())
            lines.append([(f"{stages} ms", "numbers")] if stages else [])
            lines += [[(_outputs_text(face), "numbers")] for face in result.faces]
        if not any(lines):
            return 0, 0, 0, 0
        scale = canvas.scale
        bitmaps = [
            [self.renderer.text(text, scale.small, WHITE, kind) for text, kind in line]
            for line in lines
        ]
        gap = 3 * scale.pad
        width = max(sum(b.width + gap for b in line) - gap for line in bitmaps) + 2 * scale.pad
        rect = (0, 0, width, scale.row * len(lines) + scale.pad)
        shade(canvas.image, rect)
        for row, line in enumerate(bitmaps):
            pen_x = scale.pad
            baseline = scale.pad // 2 + row * scale.row + round(scale.row * 0.76)
            for bitmap in line:
                draw_text(canvas.image, bitmap, pen_x, baseline)
                pen_x += bitmap.width + gap
        return rect


def _outputs_text(face: Face) -> str:
    """Return valence, arousal, intensity and the head pose of a face as one line."""
    parts = [f"{face.id}:"]
    for name, value in face.quantities.items():
        if value is not None and not name.endswith("_std"):
            std = face.quantities.get(f"{name}_std")
            text = f"{name} {value:.2f}" + ("" if std is None else f" ± {std:.2f}")
            learned = face.quantity_source.get(name) == "learned"
            parts.append(f"{text} (learned)" if learned else text)
    if face.pose is not None:
        pose = face.pose
        parts.append(f"yaw {pose.yaw:+.0f} pitch {pose.pitch:+.0f} roll {pose.roll:+.0f} deg")
    return "  ".join(parts)


def _rect(face: Face) -> Rect:
    x, y, w, h = face.box
    return round(x), round(y), max(1, round(w)), max(1, round(h))
