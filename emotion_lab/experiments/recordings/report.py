"""Report of a comparison on a recording: terminal lines, a timeline and an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import atomic_write
from emotion_lab.core.progress import track
from emotion_lab.core.tables import TextTable
from emotion_lab.experiments.recordings.load import Decisions, Look
from emotion_lab.experiments.recordings.result import UNCERTAIN, largest_disagreements, summaries
from emotion_lab.reports import html
from emotion_lab.video.overlay.primitives import UNCERTAIN as GREY
from emotion_lab.video.overlay.primitives import class_colours
from emotion_lab.video.sinks.timeline_figure import draw_timeline
from emotion_lab.video.sources.recording import RecordingReader

#: Height of the pictures on the page, and what they show: sides of the face around its centre.
_HEIGHT, _VIEW = 200, 1.7
#: Probabilities of a class below this are not listed.
_LISTED = 0.05
#: Faces in the timeline, those visible longest.
_MAX_FACES = 6


def _number(value: float | None, text: str) -> str:
    return "-" if value is None else text.format(value)


def score_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return rows of text: measure, a, b."""
    sides = [result["a"], result["b"]]
    latencies = [side["latency_ms"] or {} for side in sides]
    return [
        ["faces tracked", *(f"{side['faces']}" for side in sides)],
        ["uncertain", *(_number(side["uncertain"], "{:.1%}") for side in sides)],
        [
            "label switches per minute",
            *(_number(side["switches_per_min"], "{:.1f}") for side in sides),
        ],
        ["latency, median", *(_number(values.get("p50"), "{:.1f} ms") for values in latencies)],
        ["latency, 95 %", *(_number(values.get("p95"), "{:.1f} ms") for values in latencies)],
    ]


def agreement_line(result: dict[str, Any]) -> str:
    """Return how often both models show the same label."""
    values = result["agreement"]
    if values["value"] is None:
        return "no face has a label of both models"
    looks = f"of {values['n']:,} looks with a label of both"
    if values["ci95"] is None:
        return f"the same label in {values['value']:.1%} {looks} (too short for an interval)"
    low, high = (f"{end:.1%}" for end in values["ci95"])
    return (
        f"the same label in {values['value']:.1%} [{low}, {high}] {looks} (95 % interval over "
        f"{values['seconds']} seconds)"
    )


def delay_line(result: dict[str, Any]) -> str:
    """Return how much earlier or later b shows the changes that both show."""
    values = result["delay"]
    counts = f"label changes: {values['changes_a']} of a, {values['changes_b']} of b"
    if values["median_s"] is None:
        return f"{counts}; no change in common"
    order = "later" if values["median_s"] >= 0 else "earlier"
    return (
        f"{counts}, {values['common']} in common, which b shows {abs(values['median_s']):.2f} s "
        f"{order} (median)"
    )


def side_line(side: dict[str, Any]) -> str:
    """Return folder and settings of a model."""
    kind = "replay" if side["is_replay"] else "recorded live"
    return f"{side['folder']} ({kind}: {side['ckpt']}, smoothing={side['smoothing']})"


def lines(result: dict[str, Any]) -> list[str | TextTable]:
    """Return the printed comparison."""
    return [
        *(f"{key}: {side_line(result[key])}" for key in "ab"),
        f"{result['frames']:,} frames of {result['source']}, {result['looks']:,} looks at a face",
        "",
        TextTable(["", "a", "b"], score_rows(result)),
        "",
        agreement_line(result),
        delay_line(result),
    ]


def timeline(a: Decisions, b: Decisions, looks: Sequence[Look]) -> bytes:
    """Draw the labels of both models over time, two rows for each face, as PNG."""
    classes = list(dict.fromkeys([*a.classes, *b.classes]))
    faces = {"a": summaries(a, classes), "b": summaries(b, classes)}
    partner = {look.a["id"]: look.b["id"] for look in looks}
    longest = sorted(partner, key=lambda key: -faces["a"][key].frames)[:_MAX_FACES]
    runs = {}
    for key in sorted(longest):
        runs[f"face {key}, a"] = faces["a"][key].runs
        runs[f"face {key}, b"] = faces["b"][partner[key]].runs
    times = [row["time_s"] for row in a.rows.values()]
    return draw_timeline(runs, classes, "labels over time", times[0], max(times[-1], times[0] + 1))


def _crop(image: np.ndarray, look: Look) -> bytes:
    """Return the face with its surroundings as PNG."""
    x, y, w, h = np.mean([look.a["box"], look.b["box"]], axis=0)
    half = _VIEW * max(w, h) / 2
    height, width = image.shape[:2]
    left, top = (max(0, int(centre - half)) for centre in (x + w / 2, y + h / 2))
    right, bottom = min(width, int(x + w / 2 + half)), min(height, int(y + h / 2 + half))
    crop = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    size = (max(1, round(_HEIGHT * crop.shape[1] / crop.shape[0])), _HEIGHT)
    crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))[1].tobytes()


def pictures(recording: Path, moments: Sequence[Look]) -> list[str | None]:
    """Return the pictures of moments as data URIs; None if the recording is gone."""
    try:
        images = RecordingReader(recording).images(look.frame for look in moments)
        pairs = zip(images, moments, strict=True)
        return [html.png(_crop(image, look)) for image, look in track(list(pairs), "pictures")]
    except UserError:
        return [None] * len(moments)


def _moment(look: Look, picture: str | None, colours: dict[str, str]) -> dict[str, Any]:
    """Return what the page shows of a moment."""

    def side(face: dict[str, Any]) -> dict[str, Any]:
        values = sorted(face["smoothed"].items(), key=lambda item: -item[1])
        label = face["label"] or UNCERTAIN
        bars = [(name, value) for name, value in values if value >= _LISTED][:3]
        return {"label": label, "colour": colours[label], "bars": bars}

    return {
        "time_s": look.time_s,
        "frame": look.frame,
        "id": look.a["id"],
        "picture": picture,
        "sides": {"a": side(look.a), "b": side(look.b)},
    }


def write_page(
    folder: Path, result: dict[str, Any], a: Decisions, b: Decisions, looks: Sequence[Look]
) -> None:
    """Write ``compare.html``, a self-contained page."""
    moments = largest_disagreements(looks)
    classes = list(dict.fromkeys([*a.classes, *b.classes]))
    rgb = {**dict(zip(classes, class_colours(classes), strict=True)), UNCERTAIN: GREY}
    colours = {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in rgb.items()}
    shown = [
        _moment(look, picture, colours)
        for look, picture in zip(moments, pictures(a.recording, moments), strict=True)
    ]
    names = [*classes, UNCERTAIN]
    table = result["agreement"]["table"]
    template = html.environment("emotion_lab.experiments.recordings").get_template(
        "recordings.html"
    )
    page = template.render(
        r=result,
        rows=score_rows(result),
        agreement=agreement_line(result),
        delay=delay_line(result),
        sides={key: side_line(result[key]) for key in "ab"},
        moments=shown,
        timeline=html.png(timeline(a, b, looks)) if looks else None,
        names=[
            name for name in names if name in table or any(name in row for row in table.values())
        ],
    )
    atomic_write(folder / "compare.html", page.encode("utf-8", "backslashreplace"))
