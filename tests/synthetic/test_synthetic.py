"""Synthetic dataset and video: reproducible, complete, not solved by a linear model."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from emotion_lab.config.schema import check_group
from emotion_lab.core.errors import UserError
from emotion_lab.core.labels import COORDINATES, EMOTIONS
from emotion_lab.data.datasets.synthetic import FER2013_COUNTS, class_counts, load, split_sizes
from emotion_lab.data.types import DATASETS, SPLITS
from emotion_lab.synthetic.render import draw_face
from emotion_lab.synthetic.spec import ACTION_UNITS, blend, sample_face
from emotion_lab.synthetic.video import render_video
from tests.helpers_sinks import frames_of


def config(**changes: object) -> dict:
    return {"n": 70, "size": 48, "channels": 1, "seed": 0, "difficulty": 1.0, **changes}


def pixels(split) -> np.ndarray:
    return np.stack([split.image(i) for i in range(len(split))])


def test_images_depend_on_the_seed_only() -> None:
    assert DATASETS.get("synthetic") is load
    first, repeated, other = (load(config(seed=seed), ("val",)).splits["val"] for seed in (0, 0, 1))
    assert np.array_equal(pixels(first), pixels(repeated))
    assert np.array_equal(first.labels, repeated.labels)
    assert not set(first.digests()) & set(other.digests())


def test_split_does_not_depend_on_the_others_and_splits_are_disjoint() -> None:
    source = load(config(), SPLITS)
    alone = load(config(), ("val",))
    assert list(alone.splits) == ["val"]
    assert np.array_equal(pixels(alone.splits["val"]), pixels(source.splits["val"]))
    assert np.array_equal(alone.splits["val"].labels, source.splits["val"].labels)
    digests = [digest for split in source.splits.values() for digest in split.digests()]
    assert len(set(digests)) == len(digests) == 70


def test_only_requested_splits_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_lab.data.datasets import synthetic

    spy = Mock(wraps=synthetic._draw_split)
    monkeypatch.setattr(synthetic, "_draw_split", spy)
    load(config(n=21), ("val",))
    assert [call.args[0] for call in spy.call_args_list] == ["val"]


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (48, 3), (65, 1)])
def test_shapes_and_names(size: int, channels: int) -> None:
    source = load(config(n=21, size=size, channels=channels), ("test",))
    split = source.splits["test"]
    assert source.classes == list(EMOTIONS)
    assert split.image(0).shape == (size, size, channels)
    assert split.image(0).dtype == np.uint8
    assert split.names[3] == "synthetic:test:3"
    assert len(pickle.loads(pickle.dumps(split.store))) == 7


@pytest.mark.parametrize("n", [21, 64, 70, 333, 4000])
def test_every_split_has_every_class(n: int) -> None:
    sizes = split_sizes(n)
    assert sum(sizes.values()) == n
    for total in sizes.values():
        counts = class_counts(total)
        assert counts.sum() == total
        assert counts.min() >= 1


def test_class_distribution_matches_fer2013() -> None:
    counts = class_counts(3200)
    shares = np.array(FER2013_COUNTS) / sum(FER2013_COUNTS)
    assert np.abs(counts / 3200 - shares).max() < 0.002
    labels = load(config(n=80), ("train",)).splits["train"].labels
    assert np.array_equal(np.bincount(labels, minlength=7), class_counts(64))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("n", 20), ("n", "many"), ("n", None), ("size", 15), ("size", 48.0), ("channels", 2)],
        *[("channels", 4), ("difficulty", -0.1), ("difficulty", 2.5), ("difficulty", "hard")],
        *[("difficulty", float("nan")), ("seed", -1), ("n", True)],
    ],
)
def test_invalid_value_is_a_one_line_error_with_the_key(key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"data.{key}") as caught:
        check_group("data", {"name": "synthetic", **config(**{key: value})})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("emotion", EMOTIONS)
@pytest.mark.parametrize("difficulty", [0.0, 2.0])
def test_equal_specs_give_equal_images(emotion: str, difficulty: float) -> None:
    spec = sample_face(np.random.default_rng(3), emotion, difficulty)
    assert spec == sample_face(np.random.default_rng(3), emotion, difficulty)
    image = draw_face(spec, (40, 64), 3)
    assert image.shape == (40, 64, 3)
    assert np.array_equal(image, draw_face(spec, (40, 64), 3))
    assert image.std() > 5


def test_draw_face_invalid_channels() -> None:
    with pytest.raises(ValueError, match="channels"):
        draw_face(sample_face(np.random.default_rng(0), "happy"), 48, 2)


def test_blend_changes_only_the_action_units() -> None:
    rng = np.random.default_rng(0)
    sad, happy = sample_face(rng, "sad"), sample_face(rng, "happy")
    half = blend(sad, happy, 0.5)
    assert half.corner_pull == pytest.approx((sad.corner_pull + happy.corner_pull) / 2)
    assert blend(sad, happy, 0.0) == sad
    rest = [f.name for f in dataclasses.fields(sad) if f.name not in ACTION_UNITS]
    assert all(getattr(half, name) == getattr(sad, name) for name in rest)


def test_video_frames_and_ground_truth(tmp_path: Path) -> None:
    path = tmp_path / "faces.mp4"
    timeline = [(0.5, "neutral"), (0.7, "happy"), (0.4, "angry")]
    truth = render_video(path, timeline, fps=10.0, size=(160, 96))
    assert [row["frame"] for row in truth] == list(range(16))
    assert [row["emotion"] for row in truth] == ["neutral"] * 5 + ["happy"] * 7 + ["angry"] * 4
    assert truth[12]["time_s"] == pytest.approx(1.2)
    frames = list(frames_of(path))
    assert len(frames) == 16
    assert frames[0].shape == (96, 160, 3)
    assert np.abs(frames[2].astype(int) - frames[9]).mean() > 1


@pytest.mark.parametrize(
    ("timeline", "message"),
    [([], "empty"), ([(1.0, "hapy")], "happy"), ([(0.0, "sad")], "more than 0")],
)
def test_video_invalid_timeline(tmp_path: Path, timeline: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        render_video(tmp_path / "faces.mp4", timeline)


def test_video_write_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot write the video"):
        render_video(tmp_path / "nowhere" / "faces.mp4", [(0.2, "sad")], size=(64, 64))


def test_linear_model_is_below_70_percent() -> None:
    from sklearn.linear_model import LogisticRegression

    source = load(config(n=1500), ("train", "test"))
    train, test = (source.splits[name] for name in ("train", "test"))
    x, y = (pixels(split).reshape(len(split), -1) / 255.0 - 0.5 for split in (train, test))
    model = LogisticRegression(C=0.01, max_iter=60).fit(x, train.labels)
    assert model.score(y, test.labels) < 0.70


def test_strengths_are_the_intensity_and_scale_valence_and_arousal() -> None:
    part = load(config(strengths=[0.2, 0.6]), ("val",)).splits["val"]
    names = np.array(EMOTIONS)[part.labels]
    intensity, neutral = part.quantities["intensity"], names == "neutral"
    assert (intensity[neutral] == 0).all() and neutral.any()
    assert intensity[~neutral].min() >= 0.2 and intensity[~neutral].max() <= 0.6
    for column, name in enumerate(("valence", "arousal")):
        truth = [COORDINATES[emotion][column] for emotion in names] * intensity
        np.testing.assert_allclose(part.quantities[name], truth, rtol=1e-5)
    assert load(config(), ("val",)).splits["val"].quantities == {}
    # The strength is that of the drawn face.
    weak = load(config(strengths=[0, 0]), ("val",)).splits["val"]
    assert not np.array_equal(pixels(weak), pixels(part))
