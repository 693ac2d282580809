"""Draws what is known of a frame: boxes, labels, bars, speed and a timeline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import unknown
from emotion_lab.video.anonymize import Anonymizer
from emotion_lab.video.overlay.fonts import choose_font, plain_font
from emotion_lab.video.overlay.primitives import (
    BLACK,
    DIM,
    UNCERTAIN,
    WHITE,
    Colour,
    OverlayScale,
    Rect,
    TextBitmap,
    TextRenderer,
    class_colours,
    fill,
    ink_on,
    place,
    shade,
    write,
)
from emotion_lab.video.overlay.timeline import LabelHistory, draw_strip
from emotion_lab.video.overlay.translations import load_words
from emotion_lab.video.types import Face, FrameResult

#: What ``overlay.<key>`` may set.
DEFAULTS: dict[str, Any] = {
    "bars": "auto",  # auto (all, top 3 or none, as there is room), all, top3, none
    "timeline_s": 30.0,  # seconds in the strip along the bottom; 0 hides it
    "scale": 1.0,  # of text and lines; 1 is 13 px text on a picture of 640x360
    "font": None,  # a font file, where none of this machine has the letters of the language
}
BARS = ("auto", "all", "top3", "none")
_COVER = 0.2  # of a panel may hide something else, else auto leaves it out


class Overlay:
    """Draws results on frames; holds the timeline, so use one for each source.

    Args:
        cfg: :data:`DEFAULTS`, any of them left out.
        classes: Class names in the checkpoint's order.
        language: Code or file, see :func:`emotion_lab.video.overlay.translations.load_words`.
        anonymize: ``none``, or ``blur`` to hide the faces under everything drawn. What this class
            returns is what is shown and stored, so that no sink can store a face by mistake.

    Attributes:
        words: What is written; its notes have been printed on standard error.
        colours: RGB of each class.

    Raises:
        UserError: For a setting, language, font or mode that does not exist.
    """

    def __init__(
        self,
        cfg: dict[str, Any],
        classes: Sequence[str],
        language: str = "en",
        anonymize: str = "none",
    ) -> None:
        for key in cfg:
            if key not in DEFAULTS:
                raise unknown("overlay key", key, DEFAULTS, "Set it with overlay.<key>=<value>.")
        settings = {**DEFAULTS, **cfg}
        if settings["bars"] not in BARS:
            raise unknown("overlay.bars", settings["bars"], BARS, "Set it with overlay.bars=.")
        self.classes = list(classes)
        self.bars = settings["bars"]
        self.scale = float(settings["scale"])
        self.colours = class_colours(classes)
        self.words, font = choose_font(load_words(language, classes), classes, settings["font"])
        for note in self.words.notes:
            print(note, file=sys.stderr)
        self.pen = TextRenderer(font, plain_font())
        self.history = LabelHistory(float(settings["timeline_s"]))
        self.anonymizer = Anonymizer(anonymize)
        self._spots: dict[tuple[str, int], int] = {}

    def draw(
        self, image: np.ndarray, result: FrameResult, info: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Return a drawn copy of the frame.

        Args:
            image: uint8 (H, W, 3) RGB, not changed.
            result: What is known of it.
            info: May hold ``fps`` (frames a second), ``selected`` (id of the face whose timeline
                is shown; the first otherwise), ``detector`` (name), ``paused``, ``still`` (a photo
                has no speed) and ``debug``
                (bool: stage times, detector scores, the unsmoothed probabilities).

        Returns:
            uint8 (H, W, 3) RGB.
        """
        info = info or {}
        out = np.ascontiguousarray(self.anonymizer(image, result))
        height, width = out.shape[:2]
        sizes = OverlayScale.of(width, height, self.scale)
        self.history.add(result)
        debug = bool(info.get("debug"))
        for face in result.faces:
            self._box(out, sizes, face)
        strip = draw_strip(
            out, sizes, self.pen, self.history, result, info.get("selected"), self._look
        )
        free = (width, height - strip[3])
        taken = [(_rect(face), 1.5) for face in result.faces]
        taken.append((self._corner(out, sizes, result, info), 2.0))
        for face in result.faces:
            taken.append((self._tag(out, sizes, face, taken, free, debug), 2.0))
        if self.bars != "none":
            for face in result.faces:
                self._panel(out, sizes, face, taken, free, len(result.faces), debug)
        self._spots = {
            key: spot
            for key, spot in self._spots.items()
            if any(face.id == key[1] for face in result.faces)
        }
        return out

    def _colour(self, label: int | None) -> Colour:
        return UNCERTAIN if label is None else self.colours[label]

    def _look(self, label: int | None) -> tuple[str, Colour]:
        return self.words.label(label), self._colour(label)

    def _box(self, out: np.ndarray, sizes: OverlayScale, face: Face) -> None:
        x, y, w, h = _rect(face)
        # A dark rim keeps a yellow box visible on a white wall.
        cv2.rectangle(out, (x, y), (x + w, y + h), BLACK, sizes.line + 2 * max(1, sizes.line // 2))
        cv2.rectangle(out, (x, y), (x + w, y + h), self._colour(face.label), sizes.line)

    def _tag(
        self,
        out: np.ndarray,
        sizes: OverlayScale,
        face: Face,
        taken: list[tuple[Rect, float]],
        free: tuple[int, int],
        debug: bool,
    ) -> Rect:
        """Write id, label and confidence on a plate of the label's colour."""
        colour = self._colour(face.label)
        ink = ink_on(colour)
        parts = [
            self.pen.text(f"{face.id}", sizes.small, ink, "numbers"),
            self.pen.text(self.words.label(face.label), sizes.text, ink),
        ]
        if face.label is not None:
            share = f"{face.smoothed[face.label] * 100:.0f}%"
            parts.append(self.pen.text(share, sizes.text, ink, "numbers"))
        if debug:
            parts.append(self.pen.text(f"{face.score:.2f}", sizes.small, ink, "numbers"))
        gap = 2 * sizes.pad
        size = (
            sum(p.width for p in parts) + gap * (len(parts) + 1) - sizes.pad,
            sizes.text * 3 // 2,
        )
        x, y, w, h = _rect(face)
        edge = sizes.line
        spots = [
            (x - edge, y - size[1]),
            (x - edge, y + h),
            (x + w - size[0], y - size[1]),
            (x - edge, y - 2 * size[1]),  # above a neighbour's tag
            (x - edge, y + h + size[1]),
            (x - edge, y),
        ]
        spot, rect, _ = place(spots, size, free, taken, self._spots.get(("tag", face.id)))
        self._spots["tag", face.id] = spot
        fill(out, rect, colour)
        pen = rect[0] + gap - sizes.pad // 2
        for part in parts:
            write(out, part, pen, rect[1] + round(size[1] * 0.74))
            pen += part.width + gap
        return rect

    def _panel(
        self,
        out: np.ndarray,
        sizes: OverlayScale,
        face: Face,
        taken: list[tuple[Rect, float]],
        free: tuple[int, int],
        count: int,
        debug: bool,
    ) -> None:
        """Draw the probabilities as bars beside the face; ``auto`` leaves out what has no room."""
        every = list(range(len(self.classes)))
        top = sorted(every, key=lambda k: -float(face.smoothed[k]))[:3]
        choices = {"all": [every], "top3": [top]}.get(self.bars)
        if choices is None:
            choices = [every, top] if count <= 3 else [top]
        x, y, w, h = _rect(face)
        for rows in choices:
            names = [
                self.pen.text(self.words.labels[k], sizes.small, WHITE if k == face.label else DIM)
                for k in rows
            ]
            column = max(name.width for name in names)
            size = (column + sizes.bar + 3 * sizes.pad, sizes.row * len(rows) + sizes.pad)
            gap = sizes.line + 1
            spots = [
                (x + w + gap, y),
                (x - size[0] - gap, y),
                (x, y + h + gap),
                (x + w + gap, y + h - size[1]),
                (x - size[0] - gap, y + h - size[1]),
                (x, y - size[1] - 2 * sizes.text),
            ]
            key = (f"panel{len(rows)}", face.id)
            spot, rect, share = place(spots, size, free, taken, self._spots.get(key))
            fits = size[0] <= out.shape[1] // 2 and size[1] <= out.shape[0] // 2
            if self.bars == "auto" and (share > _COVER or not fits):
                continue
            self._spots[key] = spot
            self._rows(out, sizes, face, rect, rows, names, column, debug)
            taken.append((rect, 2.0))
            return

    def _rows(
        self,
        out: np.ndarray,
        sizes: OverlayScale,
        face: Face,
        rect: Rect,
        rows: list[int],
        names: list[TextBitmap],
        column: int,
        debug: bool,
    ) -> None:
        shade(out, rect)
        left = rect[0] + 2 * sizes.pad + column
        thick = max(3, round(sizes.row * 0.55))
        for line, (k, name) in enumerate(zip(rows, names, strict=True)):
            top = rect[1] + sizes.pad // 2 + line * sizes.row
            write(out, name, rect[0] + sizes.pad, top + round(sizes.row * 0.76))
            top += (sizes.row - thick) // 2
            fill(out, (left, top, sizes.bar, thick), (70, 70, 70))
            long = round(float(face.smoothed[k]) * sizes.bar)
            fill(out, (left, top, long, thick), self.colours[k])
            if debug:  # this frame's own probability, before smoothing
                mark = left + round(float(face.probabilities[k]) * (sizes.bar - 1))
                fill(out, (mark, top - 1, max(1, sizes.line // 2), thick + 2), WHITE)

    def _corner(
        self, out: np.ndarray, sizes: OverlayScale, result: FrameResult, info: dict[str, Any]
    ) -> Rect:
        """Write speed and state in the upper left corner."""
        first = []
        if info.get("fps") is not None:
            first.append((f"{info['fps']:.0f} fps", "numbers"))
        if not info.get("still"):
            first.append((f"{result.latency_ms:.0f} ms", "numbers"))
        if not result.faces:
            first.append((self.words.no_face, "words"))
        if info.get("paused"):
            first.append((self.words.paused, "words"))
        lines = [first]
        if info.get("debug"):
            name = f"{info['detector']}  " if info.get("detector") else ""
            where = f"#{result.frame}  {result.time_s:.2f} s"
            lines.append([(f"{name}{result.size[0]}x{result.size[1]}  {where}", "numbers")])
            stages = "  ".join(f"{stage} {ms:.1f}" for stage, ms in result.stages_ms.items())
            lines.append([(f"{stages} ms", "numbers")] if stages else [])
        if not any(lines):
            return 0, 0, 0, 0
        patches = [
            [self.pen.text(t, sizes.small, WHITE, kind) for t, kind in line] for line in lines
        ]
        gap = 3 * sizes.pad
        width = max(sum(p.width + gap for p in line) - gap for line in patches) + 2 * sizes.pad
        rect = (0, 0, width, sizes.row * len(lines) + sizes.pad)
        shade(out, rect)
        for row, line in enumerate(patches):
            pen = sizes.pad
            for patch in line:
                write(out, patch, pen, sizes.pad // 2 + row * sizes.row + round(sizes.row * 0.76))
                pen += patch.width + gap
        return rect


def _rect(face: Face) -> Rect:
    x, y, w, h = face.box
    return round(x), round(y), max(1, round(w)), max(1, round(h))
