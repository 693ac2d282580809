"""Comparison of smoothers on clips with known labels: accuracy, flicker and delay.

Intervals are those of a bootstrap over clips; differences are paired: both smoothers are scored on
the same resampled clips.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.progress import track
from emotion_lab.core.tables import TextTable
from emotion_lab.data.types import Split
from emotion_lab.evaluation.statistics import ROUNDS, SEED, interval
from emotion_lab.experiments.compare.enrolled_looks import EnrolledLooks
from emotion_lab.video.classify_schedule import DEFAULTS, ClassifySchedule, Look
from emotion_lab.video.smoothing import TrackSmoother

#: Suffix of a smoother with the neutral baseline.
ENROLLED = ", enrolled"
#: With fewer clips, the bootstrap interval over them is too narrow.
_FEW = 10
#: Measure -> (title, decimals).
MEASURES = {
    "accuracy": ("frame accuracy", 4),
    "flicker_hz": ("label changes per s", 3),
    "delay_s": ("median delay in s", 3),
}


@dataclass(frozen=True)
class _ClipScores:
    """What one smoother showed on one clip.

    Attributes:
        correct: Looks with the true label; uncertain ones are wrong.
        looks: All looks.
        changes: Changes of the label, those to and from uncertain included.
        seconds: Time that was watched.
        delays: For each true change the seconds until the new label was shown; if it was not, the
            duration of the true label, a lower bound.
        missed: True changes that were not shown.
    """

    correct: int
    looks: int
    changes: int
    seconds: float
    delays: np.ndarray
    missed: int


def _score_track(shown: np.ndarray, labels: np.ndarray, times: np.ndarray) -> _ClipScores:
    """Score the labels shown on one track, int64 (N,), -1 while uncertain."""
    starts = np.flatnonzero(np.diff(labels)) + 1
    ends = [*starts, len(labels)][1:]
    delays, missed = [], 0
    for start, end in zip(starts, ends, strict=True):
        hits = np.flatnonzero(shown[start:end] == labels[start])
        missed += not len(hits)
        until = times[start + hits[0]] if len(hits) else times[end - 1]
        delays.append(until - times[start])
    return _ClipScores(
        correct=int((shown == labels).sum()),
        looks=len(labels),
        changes=int((np.diff(shown) != 0).sum()),
        seconds=float(times[-1] - times[0]),
        delays=np.array(delays),
        missed=missed,
    )


def _add(parts: list[_ClipScores]) -> _ClipScores:
    """Return the sum over tracks or clips."""
    return _ClipScores(
        sum(part.correct for part in parts),
        sum(part.looks for part in parts),
        sum(part.changes for part in parts),
        sum(part.seconds for part in parts),
        np.concatenate([part.delays for part in parts]),
        sum(part.missed for part in parts),
    )


def show_labels(
    probabilities: np.ndarray,
    split: Split,
    smoothing: dict[str, Any],
    classify: dict[str, Any] | None,
    title: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that a smoother shows, as ``live`` would, and the looks it classified.

    The boxes of the faces are not known: they do not move.

    Args:
        probabilities: float32 (N, K) of the frame network.
        split: Images of clips.
        smoothing: ``conf/smoothing/<name>.yaml`` as a dict.
        classify: See :class:`ClassifySchedule`.
        title: Of the progress bar.

    Returns:
        Labels, int64 (N,), -1 while uncertain; bool (N,), false where the probabilities of an
        earlier look were used.
    """
    looks = split.looks
    if looks is None:
        raise UserError(
            "smoothers are compared on clips, and this data has single images: set data=clips "
            "data.path=<folder>, or data=synthetic_clips."
        )
    shown, classified = np.full(len(split), -1, np.int64), np.zeros(len(split), bool)
    schedule, box, nothing = ClassifySchedule(classify), np.array([0.0, 0.0, 1.0, 1.0]), np.empty(0)
    starts = np.diff(looks.tracks, prepend=looks.tracks[:1] - 1) != 0
    look: Look | None = None
    for i in track(range(len(split)), title, len(split)):
        time_s, (picture,) = float(looks.times[i]), schedule.pictures([split.image(i)])
        if starts[i]:
            smoother, look = TrackSmoother(smoothing, probabilities.shape[1]), None
        if look is None or schedule.is_due(look, smoother, time_s, box, picture):
            look = schedule.look(time_s, box, picture, probabilities[i], nothing)
            classified[i] = True
        label = smoother.update(look.probabilities, time_s)[1]
        shown[i] = -1 if label is None else label
    return shown, classified


def _score_clips(shown: np.ndarray, split: Split, counts: np.ndarray) -> list[_ClipScores]:
    """Score the labels shown on the looks that count, one entry for each clip."""
    assert split.looks is not None
    clips: dict[str, list[_ClipScores]] = {}
    tracks = split.looks.tracks
    names = split.groups or [str(number) for number in tracks]
    starts = np.flatnonzero((np.diff(tracks) != 0) | np.diff(counts)) + 1
    for part in np.split(np.arange(len(tracks)), starts):
        if not counts[part[0]]:
            continue
        scored = _score_track(shown[part], split.labels[part], split.looks.times[part])
        clips.setdefault(names[part[0]], []).append(scored)
    return [_add(parts) for parts in clips.values()]


def _measures(clips: list[_ClipScores], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return every measure for each row of ``weights`` (R, clips), how often a clip counts."""
    correct, looks, changes, seconds = (
        weights @ np.array([getattr(clip, name) for clip in clips], np.float64)
        for name in ("correct", "looks", "changes", "seconds")
    )
    delays = np.concatenate([clip.delays for clip in clips])
    owner = np.repeat(np.arange(len(clips)), [len(clip.delays) for clip in clips])
    observed = float(np.median(delays)) if len(delays) else 0.0
    # A sample of few clips can lack changes.
    sampled = (np.repeat(delays, row[owner]) for row in weights)
    medians = [np.median(sample) if len(sample) else observed for sample in sampled]
    return {
        "accuracy": correct / looks,
        "flicker_hz": changes / np.maximum(seconds, 1e-9),
        "delay_s": np.array(medians),
    }


def _with_intervals(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return every measure with its interval; row 0 is the observed value."""
    result: dict[str, Any] = {}
    for name, rows in values.items():
        result[name], result[f"{name}_ci95"] = float(rows[0]), interval(rows[1:])
    return result


def _difference(b: dict[str, np.ndarray], a: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return b - a of every measure with its interval."""
    return _with_intervals({name: b[name] - a[name] for name in MEASURES})


def is_better(difference: dict[str, Any], own: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether a smoother beats another one.

    It has a higher accuracy at no longer median delay, or half the delay at no more flicker; the
    interval of the difference excludes 0.
    """
    accurate = difference["accuracy_ci95"][0] > 0 and difference["delay_s"] <= 0
    halved = own["delay_s"] <= other["delay_s"] / 2 and difference["delay_s_ci95"][1] < 0
    return accurate or (halved and difference["flicker_hz"] <= 0)


def compare_smoothers(
    probabilities: np.ndarray,
    split: Split,
    smoothers: dict[str, dict[str, Any]],
    over: str = "clips",
    classify: dict[str, Any] | None = None,
    enrolled: EnrolledLooks | None = None,
) -> dict[str, Any]:
    """Compare smoothers on the same clips; the last one is compared with each of the others.

    Args:
        probabilities: float32 (N, K) of the frame network.
        split: Images of clips, with labels.
        smoothers: Name -> ``conf/smoothing/<name>.yaml`` as a dict.
        over: What the groups of the split are: ``clips``, or ``groups`` with ``data.group``.
        classify: Which looks are classified, see :class:`ClassifySchedule`; None: all.
        enrolled: If given, every smoother is compared without and with the neutral baseline, on the
            looks that are scored in both.

    Returns:
        Builtins: ``clips`` (or groups), ``looks``, ``seconds``, ``changes`` (true ones),
        ``classify``, ``smoothers`` (name -> settings, measures with intervals, ``missed``,
        ``classified``: share of the looks), ``last``, ``differences`` (last - each other),
        ``beats`` (names that the last one beats), ``line`` and ``bootstrap``.
    """
    counts, runs = np.ones(len(split), bool), [("", probabilities)]
    if enrolled is not None:
        counts, runs = enrolled.scored, [*runs, (ENROLLED, enrolled.probabilities)]
    scored: dict[str, list[_ClipScores]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for (name, cfg), (suffix, values) in itertools.product(smoothers.items(), runs):
        name += suffix
        shown, chosen = show_labels(values, split, cfg, classify, f"{name} ")
        scored[name] = _score_clips(shown, split, counts)
        rows[name] = {"settings": cfg, "classified": float(chosen[counts].mean())}
    *others, last = scored
    n = len(scored[last])
    if n < 2:
        raise UserError(f"smoothers are compared over {over}, and this split has {n}.")
    draws = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), ROUNDS)
    weights = np.concatenate([np.ones((1, n), np.int64), draws])
    values = {name: _measures(scored[name], weights) for name in scored}
    for name, row in rows.items():
        row |= {**_with_intervals(values[name]), "missed": _add(scored[name]).missed}
    differences = {name: _difference(values[last], values[name]) for name in others}
    total = _add(scored[last])
    beats = [name for name in others if is_better(differences[name], rows[last], rows[name])]
    return {
        "clips": n,
        "looks": total.looks,
        "seconds": total.seconds,
        "changes": len(total.delays),
        "classify": {**DEFAULTS, **(classify or {})},
        "smoothers": rows,
        "last": last,
        "differences": differences,
        "beats": beats,
        "line": "; ".join(difference_line(last, name, differences[name]) for name in others),
        "bootstrap": {"rounds": ROUNDS, "seed": SEED, "over": over},
    }


def difference_line(last: str, other: str, difference: dict[str, Any]) -> str:
    """Return accuracy, flicker and delay of one difference with their intervals."""

    def signed(name: str, unit: str, scale: float = 1.0, digits: int = 2) -> str:
        low, high = (f"{scale * end:+.{digits}f}" for end in difference[f"{name}_ci95"])
        return f"{scale * difference[name]:+.{digits}f} {unit} [{low}, {high}]"

    return (
        f"{last} - {other}: accuracy {signed('accuracy', 'points', 100)}, label changes per s "
        f"{signed('flicker_hz', '')}, median delay {signed('delay_s', 's', digits=3)}"
    ).replace("  ", " ")


def lines(result: dict[str, Any]) -> list[str | TextTable]:
    """Return the printable report."""
    table = []
    for name, row in result["smoothers"].items():
        cells = [name]
        for measure, (_, digits) in MEASURES.items():
            low, high = (f"{end:.{digits}f}" for end in row[f"{measure}_ci95"])
            cells.append(f"{row[measure]:.{digits}f} [{low}, {high}]")
        table.append((*cells, row["missed"], f"{row['classified']:.0%}"))
    titles = [title for title, _ in MEASURES.values()]
    head = ["smoothing", *titles, "changes missed", "looks classified"]
    over = result["bootstrap"]["over"]
    text: list[str | TextTable] = [
        f"{result['clips']} {over}, {result['looks']:,} looks, {result['seconds']:.0f} s, "
        f"{result['changes']} changes of the true label; classify.when="
        f"{result['classify']['when']}; 95 % intervals over {over}",
        TextTable(head, table, left=range(4)),
    ]
    if result["clips"] < _FEW:
        text.append(f"warning: {result['clips']} {over} are few: the intervals are too narrow")
    for name, difference in result["differences"].items():
        verdict = "beats" if name in result["beats"] else "does not beat"
        text.append(difference_line(result["last"], name, difference))
        text.append(f"{result['last']} {verdict} {name}")
    return [*text, *(f"warning: {line}" for line in result.get("warnings", ()))]
