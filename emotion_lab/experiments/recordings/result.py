"""Compute the content of ``compare.json`` for two models on one recording.

There is no truth: the numbers are the agreement of both models, the label switches of each, and
the delay of one behind the other. Looks at a face in neighbouring frames are not independent, so
that the interval of the agreement is bootstrapped over seconds.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from emotion_lab.evaluation.statistics import ROUNDS, interval
from emotion_lab.experiments.recordings.load import Decisions, Look, matched_looks
from emotion_lab.video.sinks.summary import MAX_FRAME_S, FaceSummary

#: Number of moments of largest disagreement, and their least distance for one face, seconds.
NUM_MOMENTS, APART_S = 12, 1.0
#: A change of one model is the same as that of the other within this time, seconds.
SAME_CHANGE_S = 2.0
#: A shorter recording has no interval of the agreement, seconds.
MIN_SECONDS = 5
UNCERTAIN = "uncertain"


def summaries(side: Decisions, classes: Sequence[str]) -> dict[int, FaceSummary]:
    """Return the runs of labels of each track of one model."""
    faces: dict[int, FaceSummary] = {}
    present: set[int] = set()
    rows = list(side.rows.values())
    last_s = rows[-1]["time_s"] if rows else 0.0
    for number, row in enumerate(rows):
        time_s = row["time_s"]
        next_s = rows[number + 1]["time_s"] if number + 1 < len(rows) else last_s
        for face in row["faces"]:
            summary = faces.setdefault(face["id"], FaceSummary())
            label = None if face["label"] is None else classes.index(face["label"])
            summary.add_label(time_s, label, face["id"] in present)
            summary.runs[-1][1] = min(next_s, time_s + MAX_FRAME_S)
        is_near = next_s - time_s <= MAX_FRAME_S
        present = {face["id"] for face in row["faces"]} if is_near else set()
    return faces


def _changes(side: Decisions) -> dict[int, list[tuple[float, str]]]:
    """Return the changes to another label, (seconds, label), of each track."""
    changes: dict[int, list[tuple[float, str]]] = defaultdict(list)
    shown: dict[int, str] = {}
    for row in side.rows.values():
        for face in row["faces"]:
            key, label = face["id"], face["label"]
            if label is None:
                continue
            if shown.get(key, label) != label:
                changes[key].append((row["time_s"], label))
            shown[key] = label
    return changes


def delay(a: Decisions, b: Decisions, looks: Sequence[Look]) -> dict[str, Any]:
    """Return how much later b shows the changes that both models show.

    Returns:
        ``median_s`` (b - a; None without a common change), ``changes_a``, ``changes_b``, and
        ``common``, the number of changes to the same label within two seconds.
    """
    pairs: dict[int, Counter[int]] = defaultdict(Counter)
    for look in looks:
        pairs[look.a["id"]][look.b["id"]] += 1
    changes_a, changes_b = _changes(a), _changes(b)
    delays = []
    for key, changes in changes_a.items():
        partner = pairs[key].most_common(1)
        open_changes = list(changes_b.get(partner[0][0], ())) if partner else []
        for time_s, label in changes:
            near = [c for c in open_changes if c[1] == label and abs(c[0] - time_s) < SAME_CHANGE_S]
            if near:
                nearest = min(near, key=lambda change: abs(change[0] - time_s))
                open_changes.remove(nearest)
                delays.append(nearest[0] - time_s)
    return {
        "median_s": round(statistics.median(delays), 3) if delays else None,
        "common": len(delays),
        "changes_a": sum(map(len, changes_a.values())),
        "changes_b": sum(map(len, changes_b.values())),
    }


def _latency(side: Decisions) -> dict[str, float] | None:
    """Return the median and the 95th percentile of the milliseconds from frame to label."""
    values = [row["latency_ms"] for row in side.rows.values() if row["latency_ms"] is not None]
    if not values:
        return side.header.get("latency_ms")
    p50, p95 = np.percentile(values, (50, 95)).round(3).tolist()
    return {"p50": p50, "p95": p95}


def describe_side(side: Decisions) -> dict[str, Any]:
    """Return the numbers of one model: label switches, uncertain looks, latency."""
    faces = summaries(side, side.classes)
    seconds = sum(sum(face.seconds_by_label().values()) for face in faces.values())
    looks = sum(face.frames for face in faces.values())
    switches = sum(face.switches for face in faces.values())
    settings = side.header["settings"]
    return {
        "folder": str(side.folder),
        "ckpt": settings.get("ckpt"),
        "smoothing": (settings.get("smoothing") or {}).get("name"),
        "detector": (settings.get("detector") or {}).get("name"),
        "is_replay": side.header["replay_of"] is not None,
        "frames": len(side.rows),
        "faces": len(faces),
        "looks": looks,
        "uncertain": sum(face.counts[None] for face in faces.values()) / looks if looks else None,
        "switches": switches,
        "switches_per_min": round(60 * switches / seconds, 2) if seconds else None,
        "latency_ms": _latency(side),
    }


def agreement(looks: Sequence[Look]) -> dict[str, Any]:
    """Return how often both models show the same label.

    Returns:
        ``n`` (looks with a label of both), ``value`` (None without them), ``ci95``
        (bootstrap of ``seconds``, None below :data:`MIN_SECONDS`), ``table`` (label of a -> label
        of b -> looks, with uncertain).
    """
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for look in looks:
        table[look.a["label"] or UNCERTAIN][look.b["label"] or UNCERTAIN] += 1
    both = [look for look in looks if look.a["label"] and look.b["label"]]
    content: dict[str, Any] = {"n": len(both), "value": None, "ci95": None, "seconds": 0}
    content["table"] = {label: dict(row) for label, row in sorted(table.items())}
    if not both:
        return content
    same = np.array([look.a["label"] == look.b["label"] for look in both])
    seconds = np.unique([int(look.time_s) for look in both], return_inverse=True)[1].reshape(-1)
    counts, hits = np.bincount(seconds), np.bincount(seconds, same)
    content |= {"value": float(same.mean()), "seconds": len(counts)}
    if len(counts) < MIN_SECONDS:
        return content
    draws = np.random.default_rng(0).integers(0, len(counts), (ROUNDS, len(counts)))
    values = hits[draws].sum(1) / counts[draws].sum(1)
    return content | {"ci95": interval(values)}


def distance(look: Look) -> float:
    """Return the total variation distance of the smoothed probabilities, 0..1."""
    a, b = look.a["smoothed"], look.b["smoothed"]
    return 0.5 * sum(abs(a.get(name, 0.0) - b.get(name, 0.0)) for name in a.keys() | b.keys())


def largest_disagreements(looks: Sequence[Look]) -> list[Look]:
    """Return the looks at which both models differ most, different labels first, sorted by that.

    Two looks at the same face are at least a second apart.
    """
    chosen: list[Look] = []
    for look in sorted(looks, key=lambda k: (k.a["label"] == k.b["label"], -distance(k))):
        near = (
            other.a["id"] == look.a["id"] and abs(other.time_s - look.time_s) < APART_S
            for other in chosen
        )
        if distance(look) > 0 and not any(near):
            chosen.append(look)
        if len(chosen) == NUM_MOMENTS:
            break
    return chosen


def compare(a: Decisions, b: Decisions) -> tuple[dict[str, Any], list[Look]]:
    """Return the content of ``compare.json``, and all faces that both models saw."""
    looks = matched_looks(a, b)
    result = {
        "recording": str(a.recording),
        "source": a.header["source"],
        "frames": len(a.rows.keys() & b.rows.keys()),
        "looks": len(looks),
        "a": describe_side(a),
        "b": describe_side(b),
        "agreement": agreement(looks),
        "mean_distance": float(np.mean([distance(look) for look in looks])) if looks else None,
        "delay": delay(a, b, looks),
        "moments": [
            {
                "frame": look.frame,
                "time_s": look.time_s,
                "distance": round(distance(look), 4),
                **{
                    side: {"id": face["id"], "label": face["label"], "smoothed": face["smoothed"]}
                    for side, face in (("a", look.a), ("b", look.b))
                },
            }
            for look in largest_disagreements(looks)
        ],
    }
    return result, looks
