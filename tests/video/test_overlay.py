"""Overlay: boxes, bars, tags, timeline, colours, translations and fonts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import EMOTIONS
from emotion_lab.video.overlay import fonts, primitives
from emotion_lab.video.overlay.overlay import Overlay
from emotion_lab.video.overlay.primitives import (
    BLACK,
    COLOURS,
    UNCERTAIN,
    OverlayScale,
    TextRenderer,
    class_colours,
    draw_text,
    overlap,
    place_label,
    text_colour_on,
)
from emotion_lab.video.overlay.translations import languages, load_translations
from emotion_lab.video.types import Face, FrameResult

BOX = (250.0, 100.0, 120.0, 140.0)
#: Languages covered by DejaVu; the others need a system font.
DEJAVU_LANGUAGES = ("en", "es", "fr", "de", "pt", "ru", "ar")


def face(
    smoothed: list[float] | None = None,
    label: int | None = 3,
    box: tuple[float, float, float, float] = BOX,
    key: int = 1,
) -> Face:
    values = np.array(smoothed or [0.1, 0.05, 0.05, 0.6, 0.1, 0.05, 0.05], np.float32)
    return Face(key, box, 0.9, values, values, label)


def result(*faces: Face, time_s: float = 0.0, source: str = "clip.mp4") -> FrameResult:
    return FrameResult(source, 0, time_s, 0.0, (640, 360), list(faces), 12.0)


def blank(width: int = 640, height: int = 360, value: int = 0) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def is_colour(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (image == np.array(colour, np.uint8)).all(axis=2)


def test_input_image_is_not_modified() -> None:
    image = blank(value=90)
    drawn = Overlay({}, EMOTIONS).draw(image, result(face()))
    assert (image == 90).all()
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (drawn != image).any()


def test_box_has_the_colour_of_the_label() -> None:
    for k, name in enumerate(EMOTIONS):
        drawn = Overlay({"bars": "none"}, EMOTIONS).draw(blank(), result(face(label=k)))
        assert tuple(drawn[170, 250]) == COLOURS[name]  # left edge
        assert tuple(drawn[170, 370]) == COLOURS[name]  # right edge
        assert tuple(drawn[170, 310]) == BLACK  # nothing on the face itself
    drawn = Overlay({"bars": "none"}, EMOTIONS).draw(blank(), result(face(label=None)))
    assert tuple(drawn[170, 250]) == UNCERTAIN


def test_text_of_a_large_photo_is_smaller_for_small_faces() -> None:
    """The labels of six faces of 80 pixels covered the faces next to them."""
    boxes = [(1829, 890, 76, 99), (2026, 942, 70, 91), (2130, 743, 80, 104)]
    boxes += [(2298, 896, 65, 85), (1690, 802, 73, 97), (1543, 886, 74, 88)]
    faces = [face(box=box, key=key) for key, box in enumerate(boxes)]
    image = blank(3840, 2160, value=90)

    def hidden(fps: float | None) -> float:
        """Return the largest hidden part of a face."""
        drawn = Overlay({"timeline_s": 0.0}, EMOTIONS).draw(image, result(*faces), fps=fps)
        return max((drawn[y : y + h, x : x + w] != 90).any(2).mean() for x, y, w, h in boxes)

    assert hidden(fps=None) < 0.5
    assert hidden(fps=25.0) > 0.9  # in a video the size is constant
    assert OverlayScale.of(3840, 2160, 1.0, 80).text == 32
    assert OverlayScale.of(640, 360, 1.0, 20) == OverlayScale.of(640, 360, 1.0)


def test_bar_lengths_are_the_probabilities() -> None:
    smoothed = [0.10, 0.15, 0.20, 0.40, 0.05, 0.06, 0.04]
    drawn = Overlay({"bars": "all"}, EMOTIONS).draw(blank(), result(face(smoothed)))
    panel = drawn[:, 376:]  # right of the box: the bars, and none of the box
    lengths = []
    for k, name in enumerate(EMOTIONS):
        if k != 3:
            lengths.append(is_colour(panel, COLOURS[name]).sum(axis=1).max())
    happy = is_colour(drawn[110:, 376:], COLOURS["happy"]).sum(axis=1).max()
    full = 42  # pixels of a whole bar at 640x360
    expected = [round(p * full) for k, p in enumerate(smoothed) if k != 3]
    assert [int(n) for n in lengths] == expected
    assert happy == round(0.40 * full)


def test_top3_shows_the_three_most_probable_classes() -> None:
    smoothed = [0.25, 0.01, 0.02, 0.5, 0.02, 0.15, 0.05]
    drawn = Overlay({"bars": "top3"}, EMOTIONS).draw(blank(), result(face(smoothed)))
    panel = drawn[:, 376:]
    shown = {name for name in EMOTIONS if is_colour(panel, COLOURS[name]).any()}
    assert shown == {"happy", "angry", "surprise"}


def test_auto_drops_bars_that_would_hide_faces() -> None:
    crowd = [
        face(box=(60.0 * i + 4, 60.0 * j + 30, 50.0, 50.0), key=10 * i + j)
        for i in range(10)
        for j in range(5)
    ]
    drawn = Overlay({"bars": "auto"}, EMOTIONS).draw(blank(), result(*crowd))
    assert not is_colour(drawn, (70, 70, 70)).any()  # the tracks of the bars
    assert is_colour(drawn, COLOURS["happy"]).any()


@pytest.mark.parametrize("size", [(640, 360), (1920, 1080), (360, 640)])
def test_text_scales_with_the_frame(size: tuple[int, int]) -> None:
    width, height = size
    unit = (width * height / (640 * 360)) ** 0.5
    box = (width * 0.4, height * 0.4, width * 0.2, height * 0.3)
    overlay = Overlay({"bars": "none"}, EMOTIONS)
    drawn = overlay.draw(blank(width, height), result(face(box=box)))
    tag = is_colour(drawn[: round(box[1]) - round(3 * unit)], COLOURS["happy"])
    rows = np.flatnonzero(tag.any(axis=1))
    assert rows.size == pytest.approx(round(13 * unit) * 3 // 2 - 2 * unit, abs=3 * unit)


@pytest.mark.parametrize(
    "box",
    [(-40, -30, 90, 90), (600, 330, 90, 90), (0, 0, 640, 360), (630, 5, 300, 10), (-500, 0, 9, 9)],
)
def test_tags_stay_inside_the_frame(box: tuple[float, float, float, float]) -> None:
    overlay = Overlay({"bars": "none", "timeline_s": 0.0}, EMOTIONS)
    drawn = overlay.draw(blank(), result(face(box=box)))
    complete = overlay.draw(blank(), result(face(box=BOX), source="other.mp4"))
    # Compare with the tag of a face in the middle of the frame.
    tag = is_colour(drawn, COLOURS["happy"]).sum()
    assert tag > 0.5 * is_colour(complete[:100], COLOURS["happy"]).sum()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (48, 48), (20, 400)])
def test_tiny_frames_do_not_crash(size: tuple[int, int]) -> None:
    box = (0.0, 0.0, float(size[0]), float(size[1]))
    drawn = Overlay({}, EMOTIONS).draw(blank(*size), result(face(box=box), time_s=3.0), fps=9)
    assert drawn.shape == (size[1], size[0], 3)


def test_timeline_shows_past_labels_and_absences() -> None:
    overlay = Overlay({"timeline_s": 10.0, "bars": "none"}, EMOTIONS)
    for tick in range(0, 101):  # happy 0..3 s, away 3..6 s, sad 6..10 s
        time_s = tick / 10
        faces = [] if 3 < time_s < 6 else [face(label=3 if time_s <= 3 else 4)]
        drawn = overlay.draw(blank(), result(*faces, time_s=time_s))
    line = drawn[352]
    happy = np.flatnonzero(is_colour(drawn[344:358], COLOURS["happy"]).any(axis=0))
    sad = np.flatnonzero(is_colour(drawn[344:358], COLOURS["sad"]).any(axis=0))
    span = 640 - happy[0]  # the strip begins where the first label, ten seconds old, begins
    assert happy[-1] - happy[0] + 1 == pytest.approx(0.3 * span, abs=3)
    assert sad[-1] == 639 and 640 - sad[0] == pytest.approx(0.4 * span, abs=3)
    middle = line[happy[-1] + 5 : sad[0] - 5]
    assert middle.size and (middle == 0).all()


def test_timeline_is_cleared_by_decreasing_time_or_a_new_source() -> None:
    overlay = Overlay({"timeline_s": 10.0}, EMOTIONS)
    for time_s in (1.0, 2.0, 3.0):
        overlay.draw(blank(), result(face(), time_s=time_s))
    assert overlay.history.runs[1][0][0] == 1.0
    overlay.draw(blank(), result(face(), time_s=0.5))
    assert [list(run) for run in overlay.history.runs[1]] == [[0.5, 0.5, 3]]
    overlay.draw(blank(), result(time_s=1.0, source="other.mp4"))
    assert not overlay.history.runs


def test_timeline_keeps_only_its_seconds() -> None:
    overlay = Overlay({"timeline_s": 5.0}, EMOTIONS)
    for tick in range(2000):
        overlay.history.add(result(face(label=tick % 2, key=tick // 500), time_s=tick / 20))
    assert list(overlay.history.runs) == [3]
    assert len(overlay.history.runs[3]) <= 5 * 20 + 2


def test_label_keeps_its_position_while_it_is_nearly_as_good() -> None:
    def place(occupied_width: int, previous: int | None) -> int:
        occupied = [((0, 0, occupied_width, 100), 1.0)]
        return place_label([(95, 0), (200, 0)], (20, 20), (640, 360), occupied, previous)[0]

    assert place(100, None) == 1  # a quarter of the first candidate is occupied
    assert place(97, 0) == 0
    assert place(115, 0) == 1
    assert place_label([(630, 355)], (20, 20), (640, 360), [])[1] == (620, 340, 20, 20)
    assert overlap((0, 0, 4, 4), (2, 3, 9, 9)) == 2


def test_tags_of_close_faces_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = Overlay({"bars": "none"}, EMOTIONS)
    faces = [face(box=(300.0 + 25 * i, 150.0, 60.0, 60.0), key=i + 1) for i in range(3)]
    rects: list[tuple[int, int, int, int]] = []
    draw_tag = overlay._tag

    def record(*args: object) -> tuple[int, int, int, int]:
        rects.append(draw_tag(*args))
        return rects[-1]

    monkeypatch.setattr(overlay, "_tag", record)
    overlay.draw(blank(), result(*faces))
    areas = [w * h for _, _, w, h in rects]
    overlaps = [overlap(rects[i], rects[j]) for i in range(3) for j in range(i)]
    assert len(rects) == 3 and max(overlaps) < 0.25 * min(areas)


def test_emotions_have_fixed_colours_and_all_classes_differ() -> None:
    assert class_colours(["sad", "angry"]) == [COLOURS["sad"], COLOURS["angry"]]
    many = class_colours([*EMOTIONS, *(f"other{i}" for i in range(20))])
    assert len(set(many)) == 27
    # Okabe and Ito's list (https://jfly.uni-koeln.de/color/), without black.
    listed = {"#d55e00", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#e69f00", "#56b4e9"}
    assert {"#{:02x}{:02x}{:02x}".format(*COLOURS[name]) for name in EMOTIONS} == listed


def test_text_has_enough_contrast_on_every_colour() -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        c = np.array(colour) / 255
        linear = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for colour in [*class_colours([*EMOTIONS, *"abcdefgh"]), UNCERTAIN]:
        high, low = sorted((luminance(colour), luminance(text_colour_on(colour))), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour  # WCAG AA


def test_every_language_is_complete() -> None:
    assert set(languages()) == {"en", "es", "hi", "zh", "fr", "de", "ar", "ja", "pt", "ru"}
    for code in languages():
        words = load_translations(code, [*EMOTIONS, "contempt"])
        assert not words.notes and len(set(words.labels)) == 8, code
        if code != "en":
            assert words.uncertain != "uncertain" and words.no_face != "no face"
    assert load_translations("es", ["happy", "sad"]).labels == ("alegría", "tristeza")
    assert load_translations("es", ["sad"]).label(None) == "incierto"


@pytest.mark.parametrize("code", languages())
def test_labels_are_drawn_in_each_language(code: str, capsys: pytest.CaptureFixture) -> None:
    overlay = Overlay({"bars": "none"}, EMOTIONS, code)
    message = capsys.readouterr().err
    if code in DEJAVU_LANGUAGES:
        assert message == ""
        assert overlay.translations.language == code
    elif message:
        assert message.count("\n") == 1 and "labels are in English" in message
        assert overlay.translations.labels == EMOTIONS
        pytest.skip(f"no installed font covers {code}")
    for word in overlay.translations.all_words():
        pixels = overlay.renderer.text(word, 13).premultiplied
        assert 3 < pixels.shape[1] < 220 and 5 < pixels.shape[0] < 26, word
        assert (pixels > 128).sum() > 30, word
    english = Overlay({"bars": "none"}, EMOTIONS).draw(blank(), result(face()))
    drawn = overlay.draw(blank(), result(face()))
    assert code == "en" or (english[70:100] != drawn[70:100]).any()


def test_text_is_drawn_as_by_pillow() -> None:
    from PIL import Image, ImageDraw, ImageFont

    renderer = TextRenderer(fonts.default_font(), fonts.default_font())
    image = blank(120, 40, 60)
    draw_text(image, renderer.text("Überraschung", 13, (240, 228, 66)), 10, 25)
    expected = Image.new("RGB", (120, 40), (60, 60, 60))
    font = ImageFont.truetype(str(fonts.default_font()), 13)
    ImageDraw.Draw(expected).text((10, 25), "Überraschung", (240, 228, 66), font, anchor="ls")
    assert np.abs(image.astype(int) - np.asarray(expected).astype(int)).max() <= 2


def test_user_language_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "nl.json"
    file.write_text(json.dumps({"happy": "blij", "sad": "droevig", "uncertain": "onzeker"}))
    overlay = Overlay({}, EMOTIONS, str(file))
    assert overlay.translations.labels[3] == "blij" and overlay.translations.labels[0] == "angry"
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for name in ("angry", "disgust", "fear", "surprise", "neutral", "no_face"):
        assert message.count(name) == 1
    file = tmp_path / "nl.yaml"
    file.write_text("happy: blij\n", encoding="utf-8")
    assert load_translations(str(file), ["happy"]).labels == ("blij",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "is not a list"),
        ("happy: [1, 2]\n", "'happy: [1, 2]' is not text"),
        ("happy: no\n", "in quotes"),
        ("happy: 'x\n", "is not a list"),
        ("", "is not a list"),
    ],
)
def test_invalid_language_file_error_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r".") as info:
        load_translations(str(file), EMOTIONS)
    assert expected in str(info.value) and str(file) in str(info.value)
    assert "\n" not in str(info.value)


def test_invalid_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown language 'ed'"):
        Overlay({}, EMOTIONS, "ed")
    with pytest.raises(UserError, match=r"No language file at .*nl\.yaml"):
        Overlay({}, EMOTIONS, str(tmp_path / "nl.yaml"))
    for override in ("overlay.bars=top5", "overlay.bar=all", "anonymize=blurr"):
        with pytest.raises(UserError, match=override.partition("=")[0]):
            compose.precheck("live", [override])
    (tmp_path / "a.ttf").write_text("")
    with pytest.raises(UserError, match=r"a\.ttf is not a readable font"):
        Overlay({"font": str(tmp_path / "a.ttf")}, EMOTIONS)


def test_missing_font_falls_back_to_english(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_find_system_font", lambda characters: None)
    overlay = Overlay({}, EMOTIONS, "zh")
    message = capsys.readouterr().err
    assert message.startswith("no installed font covers") and message.count("\n") == 1
    assert overlay.translations.labels == EMOTIONS
    uncovered = Overlay({"font": str(fonts.default_font())}, EMOTIONS, "zh")
    assert "DejaVuSans-Bold.ttf lacks characters of language=zh" in capsys.readouterr().err
    assert uncovered.translations.labels == EMOTIONS


def test_pillow_without_raqm_falls_back_to_english(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "can_shape", lambda: False)
    assert Overlay({}, EMOTIONS, "ar").translations.labels == EMOTIONS
    assert "Raqm" in capsys.readouterr().err
    assert Overlay({}, EMOTIONS, "ru").translations.language == "ru"


def test_text_cache_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primitives, "_MAX_BITMAPS", 20)
    renderer = TextRenderer(fonts.default_font(), fonts.default_font())
    for number in range(75):
        renderer.text(str(number), 8, kind="numbers")
    assert 0 < len(renderer._bitmaps) <= 20


def test_a_label_does_not_cover_the_speed() -> None:
    """A face in the upper left corner: its label goes below the face, and its bars beside it."""
    for box in ((0.0, 0.0, 120.0, 150.0), (4.0, 22.0, 60.0, 70.0), (0.0, 0.0, 640.0, 360.0)):
        speed = Overlay({}, EMOTIONS).draw(blank(), result(), fps=25.0)
        drawn = Overlay({}, EMOTIONS).draw(blank(), result(face(box=box)), fps=25.0)
        part = (slice(2, 14), slice(6, 70))
        white = (speed[part] > 200).all(2)
        assert white.sum() > 30 and (drawn[part][white] > 200).all()
