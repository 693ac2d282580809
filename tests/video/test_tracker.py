"""Face tracker: stable ids, smooth boxes without lag, scheduling of detections."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest

from emotion_lab.video.tracker import _FORBIDDEN, FaceTracker, _costs
from emotion_lab.video.types import Detections, Track

SIZE = (640, 360)


def detected(*boxes: tuple[float, ...], landmarks: np.ndarray | None = None) -> Detections:
    """Return detections with boxes (x, y, width, height)."""
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32), landmarks
    )


def centre(box: np.ndarray) -> np.ndarray:
    return np.asarray(box[:2]) + np.asarray(box[2:]) / 2


def play(
    tracker: FaceTracker,
    faces: Callable[[float], list[tuple[float, ...]]],
    seconds: float,
    fps: float = 30.0,
    size: tuple[int, int] = SIZE,
) -> list[list[Track]]:
    """Run ``tracker`` as the pipeline does: detections only when needed."""
    rows = []
    for i in range(round(seconds * fps)):
        now = i / fps
        needed = tracker.needs_detection(now)
        rows.append(tracker.update(detected(*faces(now)) if needed else None, now, size))
    return rows


def test_ids_are_never_reused() -> None:
    tracker = FaceTracker()
    first = tracker.update(detected((100, 100, 50, 50), (300, 100, 50, 50)), 0.0, SIZE)
    assert [track.id for track in first] == [1, 2]
    assert [track.box.tolist() for track in first] == [[100, 100, 50, 50], [300, 100, 50, 50]]
    assert all(track.detected and track.box.dtype == np.float32 for track in first)
    again = tracker.update(detected((303, 100, 50, 50), (102, 101, 50, 50)), 0.1, SIZE)
    assert [track.id for track in again] == [1, 2]
    assert again[0].box[0] == pytest.approx(102, abs=1)
    assert tracker.update(Detections.none(), 5.0, SIZE) == [] and tracker.ids == set()
    assert [t.id for t in tracker.update(detected((100, 100, 50, 50)), 5.1, SIZE)] == [3]
    tracker.reset()
    assert [t.id for t in tracker.update(detected((100, 100, 50, 50)), 0.0, SIZE)] == [4]


def test_new_face_gets_a_new_id() -> None:
    tracker = FaceTracker()
    tracker.update(detected((100, 100, 80, 80)), 0.0, SIZE)
    tracks = tracker.update(detected((400, 90, 80, 80), (101, 100, 80, 80)), 0.1, SIZE)
    assert [(t.id, round(float(t.box[0]), -1)) for t in tracks] == [(1, 100), (2, 400)]


def test_crossing_faces_keep_their_ids() -> None:
    def faces(now: float) -> list[tuple[float, ...]]:
        right, left = (100 + 200 * now, 140, 60, 70), (500 - 200 * now, 150, 62, 72)
        # The order of the detections must not matter.
        return [right, left] if now < 1 else [left, right]

    rows = play(FaceTracker(), faces, 2.0)
    last = {track.id: centre(track.box)[0] for track in rows[-1]}
    assert set(last) == {1, 2}
    assert last[1] > 480 and last[2] < 160
    assert all({track.id for track in row} == {1, 2} for row in rows)


def test_crossing_with_occlusion() -> None:
    def faces(now: float) -> list[tuple[float, ...]]:
        right, left = (100 + 200 * now, 140, 60, 70), (500 - 200 * now, 150, 62, 72)
        return [left] if abs(right[0] - left[0]) < 40 else [right, left]

    rows = play(FaceTracker(), faces, 2.0)
    assert {track.id: centre(track.box)[0] > 320 for track in rows[-1]} == {1: True, 2: False}


@pytest.mark.parametrize("fps", [10, 30, 60])
def test_short_miss_keeps_id_and_velocity(fps: int) -> None:
    def faces(now: float) -> list[tuple[float, ...]]:
        return [] if 1.0 <= now < 1.3 else [(50 + 150 * now, 100, 60, 60)]

    tracker = FaceTracker()
    rows = play(tracker, faces, 2.0, fps)
    assert all([track.id for track in row] == [1] for row in rows)
    index = round(1.25 * fps)
    lost = rows[index][0]
    assert not lost.detected and lost.seen_s < 1.0
    assert centre(lost.box)[0] == pytest.approx(80 + 150 * index / fps, abs=6)
    assert rows[-1][0].seen_s > 1.6


def test_missed_face_is_hidden_then_removed() -> None:
    tracker = FaceTracker()
    rows = play(tracker, lambda now: [(200, 100, 60, 60)] if now < 1 else [], 3.0)
    shown = [i / 30 for i, row in enumerate(rows) if row]
    assert 1.0 < max(shown) <= 1.0 + 0.1 + tracker.coast_s
    assert tracker.ids == set()
    # Found again while hidden, it keeps its id.
    tracker = FaceTracker()
    rows = play(tracker, lambda now: [] if 1 < now < 1.7 else [(200, 100, 60, 60)], 2.5)
    assert rows[round(1.6 * 30)] == [] and [track.id for track in rows[-1]] == [1]


def test_face_outside_the_image_is_removed_at_once() -> None:
    tracker = FaceTracker()
    play(tracker, lambda now: [(500 + 200 * now, 100, 60, 60)] if now < 0.5 else [], 0.6)
    assert tracker.ids == set()


def test_boxes_are_extrapolated_and_smoothed() -> None:
    rng = np.random.default_rng(0)
    detection_errors: list[tuple[float, float]] = []

    def faces(now: float) -> list[tuple[float, ...]]:
        x, y, w, h = np.array([100 + 100 * now, 120, 80, 90]) + rng.normal(0, 3, 4)
        detection_errors.append((now, x + w / 2 - (140 + 100 * now)))
        return [(x, y, w, h)]

    tracker = FaceTracker()
    rows = play(tracker, faces, 4.0)
    raw = np.std([error for now, error in detection_errors if now > 1])
    tracks = [(i / 30, row[0]) for i, row in enumerate(rows) if i > 30]
    errors = [centre(track.box)[0] - (140 + 100 * now) for now, track in tracks]
    assert np.std(errors) < 0.8 * raw
    assert abs(np.mean(errors)) < 1.0  # no lag at constant velocity
    widths = [track.box[2] for _, track in tracks]
    assert np.std(widths) < 0.7 * 3 and np.mean(widths) == pytest.approx(80, abs=1.5)
    # Three detections in nine frames; the box moves in each of them.
    assert sum(track.detected for _, track in tracks[:9]) == 3
    assert len({round(float(track.box[0]), 3) for _, track in tracks[:9]}) == 9
    # The box of a still face changes less from frame to frame than its detections.
    rng = np.random.default_rng(1)
    still = FaceTracker({"detect_every": 1})
    raws, boxes = [], []
    for i in range(120):
        box = np.array([200, 120, 80, 90]) + rng.normal(0, 3, 4)
        raws.append(box)
        boxes.append(still.update(detected(tuple(box)), i / 30, SIZE)[0].box)
    steps = [np.abs(np.diff(np.array(rows)[30:], axis=0)).mean() for rows in (boxes, raws)]
    assert steps[0] < 0.4 * steps[1]


def test_smoothing_does_not_depend_on_the_frame_rate() -> None:
    """The step response after 0.2 s is equal at 15 and 60 frames per second."""
    settled = []
    for fps in (15, 30, 60):
        tracker = FaceTracker({"detect_every": 1})
        for i in range(2 * fps):
            # The face moves 20 px to the right at 1 s.
            box = (200 + 20 * (i > fps), 100, 80, 80)
            now = i / fps
            (track,) = tracker.update(detected(box), now, SIZE)
            if i == fps + round(0.2 * fps):
                settled.append(float(track.box[0]) - 200)
    assert max(settled) - min(settled) < 2.0 and min(settled) > 12
    assert track.box[0] == pytest.approx(220, abs=1.5)


def test_zero_time_constant_disables_smoothing() -> None:
    tracker = FaceTracker({"box_time_constant_s": 0})
    for i, x in enumerate((100, 108, 103, 111)):
        (track,) = tracker.update(detected((x, 50, 60, 60)), i / 10, SIZE)
        assert track.box.tolist() == [x, 50, 60, 60]


def test_small_fast_face_is_matched_without_overlap() -> None:
    tracker = FaceTracker()
    tracker.update(detected((100, 100, 30, 30)), 0.0, SIZE)
    tracker.update(detected((122, 100, 30, 30)), 0.2, SIZE)
    (track,) = tracker.update(detected((160, 100, 30, 30)), 0.4, SIZE)
    assert track.id == 1


@pytest.mark.parametrize("box", [(160, 100, 60, 60), (100, 100, 140, 140), (100, 100, 20, 20)])
def test_distant_or_differently_sized_box_is_a_new_face(box: tuple[float, ...]) -> None:
    tracker = FaceTracker()
    tracker.update(detected((100, 100, 60, 60)), 0.0, SIZE)
    tracks = tracker.update(detected(box), 0.05, SIZE)
    assert [(track.id, track.detected) for track in tracks] == [(1, False), (2, True)]


def test_landmarks_follow_the_box() -> None:
    points = np.array([[[110, 115], [130, 115], [120, 125], [112, 135], [128, 135]]], np.float32)
    tracker = FaceTracker()
    (track,) = tracker.update(detected((100, 100, 40, 50), landmarks=points), 0.0, SIZE)
    assert track.landmarks.dtype == np.float32 and track.landmarks == pytest.approx(points[0])
    tracker.update(detected((110, 100, 40, 50), landmarks=points + np.array([10, 0])), 0.1, SIZE)
    (track,) = tracker.update(None, 0.15, SIZE)
    assert track.box[0] == pytest.approx(115, abs=0.5) and not track.detected
    assert track.landmarks == pytest.approx(points[0] + [15, 0], abs=0.5)
    (track,) = tracker.update(detected((115, 100, 40, 50)), 0.2, SIZE)
    assert track.landmarks is None


def test_invalid_boxes_are_ignored() -> None:
    boxes = [(np.nan, 0, 10, 10), (0, 0, 0, 10), (5, 5, -3, 10), (0, 0, np.inf, 9), (9, 9, 20, 20)]
    tracks = FaceTracker().update(detected(*boxes), 0.0, SIZE)
    assert [track.box.tolist() for track in tracks] == [[9, 9, 20, 20]]


def test_detection_schedule() -> None:
    tracker = FaceTracker({"detect_every": 5, "detect_every_s": 0.5})
    needed = []
    for i in range(11):
        needed.append(tracker.needs_detection(i / 30))
        tracker.update(detected((100, 100, 50, 50)) if needed[-1] else None, i / 30, SIZE)
    assert needed == [i % 5 == 0 for i in range(11)]
    # Dropped frames: the time limit applies.
    assert not tracker.needs_detection(11 / 30) and tracker.needs_detection(0.9)
    # A missed face: detect on every frame while it is returned.
    tracker.update(Detections.none(), 0.9, SIZE)
    assert tracker.needs_detection(0.93)
    tracker.update(Detections.none(), 0.93, SIZE)
    tracker.update(Detections.none(), 1.3, SIZE)
    assert not tracker.needs_detection(1.33)
    # No faces: every fifth frame.
    assert not any(tracker.needs_detection(1.33) for _ in range(3))
    for i in range(4):
        tracker.update(None, 1.34 + i / 100, SIZE)
    assert tracker.needs_detection(1.39)


def test_slow_source_detects_on_every_frame() -> None:
    rows = play(FaceTracker(), lambda now: [(20 + 120 * now, 100, 60, 60)], 4.0, fps=4)
    assert all([(track.id, track.detected) for track in row] == [(1, True)] for row in rows)


def test_equal_times() -> None:
    tracker = FaceTracker()
    for x in (100, 104, 108):
        (track,) = tracker.update(detected((x, 100, 50, 50)), 1.0, SIZE)
    assert track.id == 1 and np.isfinite(track.box).all()


def test_deterministic_and_fast() -> None:
    rng = np.random.default_rng(2)
    steps = rng.normal(0, 2, (400, 6, 4)).astype(np.float32)
    start = np.array([(60 + 100 * i, 100, 60, 70) for i in range(6)], np.float32)

    def run() -> tuple[list[list[float]], float]:
        tracker, boxes, spent = FaceTracker({"detect_every": 1}), [], []
        for i, step in enumerate(steps):
            detections = detected(*(start + step))
            start_time = time.process_time()
            tracks = tracker.update(detections, i / 30, SIZE)
            spent.append(time.process_time() - start_time)
            boxes.append([float(v) for track in tracks for v in (track.id, *track.box)])
        assert tracker.ids == set(range(1, 7))
        return boxes, float(np.median(spent))

    first, cost = run()
    assert run()[0] == first
    assert cost < 0.003  # 0.2 ms on an idle core; the margin is for busy machines


def test_assignment_has_the_lowest_total_cost() -> None:
    """Compare with all permutations; first as many pairs as possible, then the lowest cost."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        known, count = rng.integers(1, 4, 2).tolist()
        boxes = np.hstack(
            [rng.uniform(0, 120, (known + count, 2)), np.full((known + count, 2), 50)]
        )
        tracker = FaceTracker()
        tracker.update(detected(*boxes[:known]), 0.0, SIZE)
        tracks = tracker.update(detected(*boxes[known:]), 0.1, SIZE)
        costs = _costs(boxes[:known], boxes[known:], tracker.max_match_distance)
        padded = np.full((known + count, count), _FORBIDDEN)
        padded[:known] = costs
        best = min(
            padded[list(rows), range(count)].sum()
            for rows in itertools.permutations(range(known + count), count)
        )
        # Without an earlier velocity, a matched face is centred at its detection.
        total = _FORBIDDEN * count
        for track in tracks:
            if track.id <= known and track.detected:
                distances = np.abs(boxes[known:, :2] - track.box[:2]).sum(1)
                total += costs[track.id - 1, distances.argmin()] - _FORBIDDEN
        assert total == pytest.approx(best, abs=1e-3)
