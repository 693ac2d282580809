"""Anonymization: faces cannot be recognized, and no frame shows one."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.video import anonymize
from emotion_lab.video.anonymize import (
    FILL_COLOUR,
    LIVE_DELAY_S,
    Anonymizer,
    build_sensitive_detectors,
    hide_regions,
)
from emotion_lab.video.detectors import build_detector
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.overlay.primitives import COLOURS
from emotion_lab.video.types import Box, Detections, Frame, FrameResult
from tests.helpers_detectors import MEDIA, YUNET, config, photo, shared
from tests.helpers_sinks import face, result

BOX = (250.0, 100.0, 120.0, 140.0)
FACES = [face(box=BOX)]
SIZE = (640, 360)


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


# --- regions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["blur", "fill"])
def test_only_the_region_is_hidden(mode: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    hidden = hide_regions(image, [BOX], mode)
    x, y, w, h = (round(v) for v in BOX)
    inner = (slice(y, y + h), slice(x, x + w))
    assert sharpness(hidden[inner]) < 0.002 * sharpness(image[inner])
    outside = np.ones((360, 640), bool)
    outside[inner] = False
    assert (hidden[outside] == image[outside]).all()
    assert mode == "blur" or (hidden[inner] == FILL_COLOUR).all()


def test_blur_removes_the_detail() -> None:
    """Two faces that differ in detail are as similar as two blurred copies of one of them."""
    rng = np.random.default_rng(1)
    coarse = cv2.resize(rng.integers(60, 190, (3, 3, 3), np.uint8), (120, 140))
    first, second = (
        np.clip(coarse.astype(int) + rng.integers(-50, 51, coarse.shape), 0, 255).astype(np.uint8)
        for _ in range(2)
    )

    def blurred(image: np.ndarray) -> np.ndarray:
        return hide_regions(image, [(0.0, 0.0, 120.0, 140.0)]).astype(int)

    copies = [np.abs(blurred(first) - blurred(first)).mean() for _ in range(20)]
    others = [np.abs(blurred(first) - blurred(second)).mean() for _ in range(20)]
    assert 3 < np.mean(copies) < 15  # noise
    assert np.mean(others) < 1.3 * np.mean(copies)


@pytest.mark.parametrize(
    "box", [(-50, -50, 80, 80), (630, 350, 99, 99), (900, 0, 9, 9), (5, 5, 1, 1), (0, 0, 0, 0)]
)
def test_any_region_is_accepted(box: Box) -> None:
    image = np.random.default_rng(2).integers(0, 256, (360, 640, 3), np.uint8)
    assert hide_regions(image, [box]).shape == image.shape


# --- frames ---------------------------------------------------------------------------------------


class Scripted:
    """Returns the boxes of each frame, which is numbered by its first pixels."""

    name = "scripted"

    def __init__(self, boxes: list[list[Box]], score: float = 0.6) -> None:
        self.boxes, self.score = boxes, score

    def __call__(self, image: np.ndarray) -> Detections:
        found = self.boxes[int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])]
        boxes = np.array(found, np.float32).reshape(-1, 4)
        return Detections(boxes, np.full(len(boxes), self.score, np.float32))


def texture(seed: int, width: int, height: int) -> np.ndarray:
    """Return a smooth random picture, uint8 (H, W, 3)."""
    grid = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def results(
    count: int,
    fps: float = 30.0,
    size: tuple[int, int] = SIZE,
    truth: list[list[Box]] | None = None,
) -> Iterator:
    """Yield frames, with a textured patch at each true box."""
    background = texture(3, *size)
    for i in range(count):
        image = background.copy()
        for k, (x, y, w, h) in enumerate(truth[i] if truth else ()):
            patch = texture(10 + k, round(w), round(h))
            shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
            part = cv2.warpAffine(patch, shift, size)
            mask = cv2.warpAffine(np.ones(patch.shape[:2], np.uint8), shift, size)
            image[mask > 0] = part[mask > 0]
        image[0, 0] = i % 256, i // 256, 0
        yield Frame(image, i, i / fps, 0.0, "clip"), FrameResult("clip", i, i / fps, 0.0, size)


def covered(truth: Box, hidden: list[Box] | None) -> float:
    """Return the share of the visible part of a face that is hidden; 1 outside of the image."""
    mask = np.zeros((SIZE[1], SIZE[0]), bool)

    def part(box: Box) -> tuple[slice, slice]:
        x, y, w, h = box
        return (
            slice(max(0, round(y)), max(0, round(y + h))),
            slice(max(0, round(x)), max(0, round(x + w))),
        )

    for box in hidden or []:
        mask[part(box)] = True
    visible = mask[part(truth)]
    return float(visible.mean()) if visible.size else 1.0


def moving_faces(seed: int, count: int) -> list[list[Box]]:
    """Return the true boxes of four faces of 20 to 140 px; they move by up to 16 px a frame."""
    rng = np.random.default_rng(seed)
    frames: list[list[Box]] = [[] for _ in range(count)]
    for _ in range(4):
        size = float(np.exp(rng.uniform(np.log(20), np.log(140))))
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, 16)
        x, y = rng.uniform(0, SIZE[0] - size), rng.uniform(0, SIZE[1] - size)
        vx, vy = speed * np.cos(angle), speed * np.sin(angle)
        for boxes in frames:
            boxes.append((x, y, 0.8 * size, size))
            x, y = x + vx, y + vy
            vx = -vx if x < 0 or x > SIZE[0] - size else vx
            vy = -vy if y < 0 or y > SIZE[1] - size else vy
    return frames


def imperfect(truth: list[list[Box]], seed: int, miss: float) -> list[list[Box]]:
    """Return detections with errors of 8 % of the size; some faces are missed."""
    rng = np.random.default_rng(seed)
    frames: list[list[Box]] = []
    for boxes in truth:
        found = [box for box in boxes if rng.random() >= miss]
        errors = rng.normal(0, 0.08, (len(found), 4))
        frames.append(
            [
                (x + dx * w, y + dy * h, w * (1 + dw), h * (1 + dh))
                for (x, y, w, h), (dx, dy, dw, dh) in zip(found, errors, strict=True)
            ]
        )
    return frames


@pytest.mark.parametrize("seed", range(6))
def test_no_frame_shows_a_moving_face_that_the_detector_misses_now_and_then(seed: int) -> None:
    truth = moving_faces(seed, 90)
    anonymizer = Anonymizer("blur", [Scripted(imperfect(truth, seed, miss=0.4))])
    decided = list(anonymizer.process(results(90, truth=truth), stills=False, live=False))
    assert [frame.index for frame, _ in decided] == list(range(90))
    shares = [covered(b, r.hidden) for _, r in decided for b in truth[r.frame]]
    assert min(shares) >= 0.95, min(shares)
    assert sum(result.held > 0 for _, result in decided) > 30


def test_a_face_is_hidden_a_second_before_its_first_and_after_its_last_detection() -> None:
    boxes: list[list[Box]] = [[] for _ in range(120)]
    boxes[50:60] = [[BOX]] * 10
    decided = list(Anonymizer("blur", [Scripted(boxes)]).process(results(120), False, False))
    shares = [covered(BOX, result.hidden) for _, result in decided]
    assert shares[21:89] == [1.0] * 68
    assert shares[:20] == [0.0] * 20 and shares[91:] == [0.0] * 29
    assert [result.held for _, result in decided][50:60] == [0] * 10
    assert decided[25][1].held == decided[80][1].held == 1
    first, near = decided[21][1].hidden, decided[49][1].hidden
    assert first and near and first[0][2] > 1.4 * near[0][2]  # grows with the time


@pytest.mark.parametrize(("number", "held"), [(1, 0), (3, 0), (10, 60)])
def test_weak_detections_are_held_only_if_they_repeat(number: int, held: int) -> None:
    boxes: list[list[Box]] = [[] for _ in range(120)]
    boxes[50 : 50 + number] = [[BOX]] * number
    decided = list(Anonymizer("blur", [Scripted(boxes, 0.3)]).process(results(120), False, False))
    shares = [covered(BOX, result.hidden) for _, result in decided]
    assert shares[50 : 50 + number] == [1.0] * number
    assert sum(share == 1.0 for share in shares) == pytest.approx(number + held, abs=5)


def test_a_face_that_is_lost_is_followed_where_it_moves() -> None:
    """It stops as soon as it is not detected any more; the region is small, and still hides it."""
    truth = [[(100 + 6 * min(i, 40) + 3 * max(0, i - 40), 120.0, 48.0, 60.0)] for i in range(90)]
    found = [boxes if 20 <= i <= 40 else [] for i, boxes in enumerate(truth)]
    stream = Anonymizer("blur", [Scripted(found)]).process(results(90, truth=truth), False, False)
    for _, output in stream:
        if not 0 <= output.frame <= 65:
            continue
        assert output.hidden and covered(truth[output.frame][0], output.hidden) >= 0.95
        assert max(box[2] for box in output.hidden) < 4 * 48


def test_a_live_source_is_delayed_by_a_few_frames() -> None:
    boxes: list[list[Box]] = [[] for _ in range(60)]
    boxes[30:] = [[BOX]] * 30
    taken: list[int] = []

    def camera() -> Iterator:
        for frame, output in results(60):
            taken.append(frame.index)
            yield frame, output

    stream = Anonymizer("blur", [Scripted(boxes)]).process(camera(), stills=False, live=True)
    frame, _ = next(stream)
    assert frame.index == 0 and taken[-1] == round(LIVE_DELAY_S * 30) == 6
    shares = {r.frame: covered(BOX, r.hidden) for _, r in stream}
    assert [shares[k] for k in range(25, 60)] == [1.0] * 35 and shares[20] == 0.0
    assert list(shares) == list(range(1, 60))


def test_faces_are_not_held_over_a_scene_cut() -> None:
    boxes: list[list[Box]] = [[BOX]] * 30 + [[]] * 30
    other = np.random.default_rng(9).integers(0, 256, (9, 16, 3), np.uint8)

    def clip() -> Iterator:
        for frame, output in results(60):
            first = frame.image[0, 0].copy()
            scene = other if frame.index >= 30 else other[::-1, ::-1]
            frame.image[:] = cv2.resize(scene, SIZE, interpolation=cv2.INTER_CUBIC)
            frame.image[0, 0] = first
            yield frame, output

    decided = list(Anonymizer("blur", [Scripted(boxes)]).process(clip(), False, False))
    assert [bool(result.hidden) for _, result in decided] == [True] * 30 + [False] * 30


def test_photos_are_independent_and_not_delayed() -> None:
    stream = Anonymizer("fill", [Scripted([[BOX], [], [BOX]])]).process(results(3), True, False)
    assert [len(result.hidden or []) for _, result in stream] == [1, 0, 1]


def test_frames_before_a_lost_source_are_returned() -> None:
    def camera() -> Iterator:
        yield from results(3)
        raise UserError("lost")

    stream = Anonymizer("blur", [Scripted([[]] * 3)]).process(camera(), False, True)
    seen = []
    with pytest.raises(UserError, match="lost"):
        for frame, _ in stream:
            seen.append(frame.index)
    assert seen == [0, 1, 2]


# --- pictures -------------------------------------------------------------------------------------


def test_overlay_hides_faces_before_drawing() -> None:
    image = np.random.default_rng(3).integers(0, 256, (360, 640, 3), np.uint8)
    x, y, w, h = (round(v) for v in BOX)
    inner = (slice(y + 8, y + h - 8), slice(x + 8, x + w - 8))
    output = result(faces=FACES)
    overlay = Overlay({"bars": "none"}, EMOTIONS, anonymizer=Anonymizer("blur", []))
    with pytest.raises(ValueError, match="regions to hide"):  # never a clear picture by mistake
        overlay.draw(image, output)
    next(overlay.anonymizer.process([(Frame(image, 0, 0.0, 0.0), output)], True, False))
    hidden = overlay.draw(image, output)
    clear = Overlay({"bars": "none"}, EMOTIONS).draw(image, output)
    assert sharpness(hidden[inner]) < 0.002 * sharpness(image[inner])
    assert (clear[inner] == image[inner]).all()
    assert tuple(hidden[170, 250]) == COLOURS["happy"]  # box and label are sharp


def test_sensitive_detectors_find_more_and_smaller_faces() -> None:
    cfg = config("haar")
    low, small = build_sensitive_detectors(cfg)
    assert low.cfg["min_neighbors"] == small.cfg["min_neighbors"] == 2 < cfg["min_neighbors"]
    assert low.cfg["size"] == cfg["size"]
    assert len(build_sensitive_detectors({"name": "full_frame"})) == 1


@pytest.mark.parametrize(
    ("side", "size"), [(320, 640), (640, 1280), (1000, 1280), (1920, 1920), (3840, 1920)]
)
def test_small_faces_are_searched_in_an_enlarged_picture(
    monkeypatch: pytest.MonkeyPatch, side: int, size: int
) -> None:
    sizes = []

    def build(cfg: dict) -> Scripted:
        sizes.append(cfg["size"])
        return Scripted([[(0, 0, 20, 20), (0, 0, side / 2, side / 2)]], score=0.3)

    monkeypatch.setattr(anonymize, "build_detector", build)
    detector = anonymize.SmallFaceDetector(config("yunet"))
    found = detector(np.zeros((side // 2, side, 3), np.uint8))
    assert sizes == [size] and detector.cfg["score_threshold"] == 0.15
    assert found.boxes[:, 2].tolist() == [20]  # a large face needs a higher score here


@pytest.mark.shared
def test_small_face_in_the_first_frame_of_a_clip() -> None:
    """The second face of stage_faces.mp4 was visible in the first frames."""
    cfg = config("yunet", file=str(shared(YUNET)))
    capture = cv2.VideoCapture(str(shared(MEDIA / "stage_faces.mp4")))
    frames = []
    for index in range(6):
        image = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
        frames.append((Frame(image, index, index / 30, 0.0), result(index, index / 30)))
    anonymizer = Anonymizer("blur", build_sensitive_detectors(cfg))
    for _, output in anonymizer.process(frames, stills=False, live=False):
        for truth in ((52.0, 180.0, 28.0, 38.0), (522.0, 40.0, 44.0, 60.0)):
            assert covered(truth, output.hidden) >= 0.95


@pytest.mark.shared
def test_small_face_that_moves_is_hidden_in_every_frame() -> None:
    """A face of 22 pixels, 5 pixels a frame, blurred by its motion."""
    detector = build_detector(config("yunet", file=str(shared(YUNET)), size=640))
    picture = photo("six_faces.jpg")
    x, y, w, h = detector(picture).boxes[0].astype(int)
    head = picture[y - h // 3 : y + h + h // 4, x - w // 3 : x + w + w // 3]
    scale = 22 / h
    head = cv2.resize(head, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    background = cv2.resize(photo("no_faces.jpg"), SIZE)

    def clip() -> Iterator:
        for index in range(14):
            image = np.zeros(background.shape, np.float32)
            for part in (-1, 0, 1):
                moment = background.copy()
                left = round(200 + 5 * index + part)
                moment[100 : 100 + head.shape[0], left : left + head.shape[1]] = head
                image += moment / 3
            yield (
                Frame(np.rint(image).astype(np.uint8), index, index / 30, 0.0),
                result(index, index / 30),
            )

    cfg = config("yunet", file=str(shared(YUNET)))
    anonymizer = Anonymizer("blur", build_sensitive_detectors(cfg))
    for frame, output in anonymizer.process(clip(), stills=False, live=False):
        truth = (200 + 5 * frame.index + 0.33 * w * scale, 100 + 0.33 * 22, w * scale, 22.0)
        assert covered(truth, output.hidden) >= 0.95, frame.index
