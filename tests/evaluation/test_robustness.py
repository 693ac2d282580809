"""Image corruptions and accuracy on corrupted images."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from emotion_lab.core.errors import UserError
from emotion_lab.data.transforms import Resize
from emotion_lab.data.types import ArrayStore, Split
from emotion_lab.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from emotion_lab.evaluation.predict import Predictions
from emotion_lab.evaluation.result import EvaluationResult
from emotion_lab.evaluation.robustness import choose, robustness
from emotion_lab.models.base import Backbone, EmotionNet, InputSpec

NAMES = tuple(CORRUPTIONS)


def face(seed: int, height: int = 48, width: int = 48, channels: int = 1) -> np.ndarray:
    """Draw a simple face (shading, eyes, mouth), the same at every size."""
    generator = np.random.default_rng(seed)
    side = 192
    image = np.full((side, side, channels), 110.0)
    tint = generator.uniform(0.8, 1.1, channels)
    x, y = generator.integers(-12, 12, 2).tolist()

    def spot(centre: tuple[int, int], axes: tuple[int, int], value: float) -> None:
        position = (centre[0] + x, centre[1] + y)
        cv2.ellipse(image, position, axes, 0, 0, 360, (value * tint).tolist(), -1)

    spot((96, 96), (66, 84), 180)
    spot((70, 76), (13, 8), 60)
    spot((122, 76), (13, 8), 60)
    spot((96, 140), (30, 5 + seed % 9), 70)
    image += np.linspace(-25, 25, side)[None, :, None]
    image = cv2.GaussianBlur(image, (0, 0), 1.5).reshape(side, side, channels)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.clip(image, 0, 255).astype(np.uint8).reshape(height, width, channels)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a.astype(float) - b).mean()))


@pytest.mark.parametrize(
    "shape", [(48, 48, 1), (48, 48, 3), (61, 40, 3), (32, 45, 1), (160, 160, 3)]
)
@pytest.mark.parametrize("name", NAMES)
def test_every_corruption(name: str, shape: tuple[int, int, int]) -> None:
    image = face(1, *shape)
    before = image.copy()
    image.flags.writeable = False
    for severity in SEVERITIES:
        result = corrupt(image, name, severity, 3)
        assert result.shape == shape and result.dtype == np.uint8
        assert not np.shares_memory(result, image)
        np.testing.assert_array_equal(result, corrupt(image, name, severity, 3))
        assert distance(result, image) > 0.5
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("size", [32, 48, 224])
@pytest.mark.parametrize("name", NAMES)
def test_severity_grows(name: str, size: int) -> None:
    scores = []
    for severity in SEVERITIES:
        images = [face(i, size, size, 1 + 2 * (i % 2)) for i in range(8)]
        distances = [distance(corrupt(x, name, severity, i), x) for i, x in enumerate(images)]
        scores.append(np.mean(distances))
    assert all(later > 1.07 * earlier for earlier, later in itertools.pairwise(scores))


@pytest.mark.parametrize("name", NAMES)
def test_strength_is_relative_to_the_size(name: str) -> None:
    """Reduced to 48 pixels, the mean distances agree within a third (JPEG: a factor of 2.5)."""
    fit = Resize(48, 3)
    for severity in SEVERITIES:
        scores = {}
        for size in (48, 192):
            images = [fit(face(i, size, size, 3)) for i in range(6)]
            bad = [fit(corrupt(face(i, size, size, 3), name, severity, i)) for i in range(6)]
            scores[size] = np.mean([distance(a, b) for a, b in zip(bad, images, strict=True)])
        limit = 2.5 if name == "jpeg" else 1.33
        assert 1 / limit < scores[192] / scores[48] < limit


@pytest.mark.parametrize("name", NAMES)
def test_seed_changes_random_corruptions(name: str) -> None:
    image = face(0)
    kinds = {corrupt(image, name, 3, seed).tobytes() for seed in range(8)}
    assert len(kinds) == {"noise": 8, "occlusion": 8, "rotation": 2}.get(name, 1)


def test_corruptions_match_their_names() -> None:
    """Compare with independent implementations."""
    image = face(2, 96, 96, 3)
    assert corrupt(image, "dark", 3, 0) == pytest.approx(image * 0.32, abs=0.51)
    assert corrupt(image, "bright", 3, 0) == pytest.approx(np.minimum(image + 60.0, 255), abs=0.51)
    flat = corrupt(image, "low_contrast", 3, 0).astype(float)
    assert flat.std() == pytest.approx(0.32 * image.std(), rel=0.02)
    assert flat.mean() == pytest.approx(image.mean(), abs=0.5)
    grey = np.full((96, 96, 1), 127, np.uint8)
    noise = corrupt(grey, "noise", 2, 0).astype(float) - 127
    assert noise.std() == pytest.approx(10, rel=0.05) and abs(noise.mean()) < 1
    white = np.full((50, 60, 1), 255, np.uint8)
    rows, columns = np.nonzero(corrupt(white, "occlusion", 5, 7)[:, :, 0] == 127)
    assert len(rows) == 25 * 25 and np.ptp(rows) == np.ptp(columns) == 24
    point = np.zeros((49, 49, 1), np.uint8)
    point[24, 36] = 255
    turned = corrupt(point, "rotation", 5, 0)[:, :, 0].astype(float)
    row, column = (float((turned * axis).sum() / turned.sum()) for axis in np.indices((49, 49)))
    assert abs(row - 24) == pytest.approx(12 * np.sin(np.pi / 4), abs=0.3)
    assert column - 24 == pytest.approx(12 * np.cos(np.pi / 4), abs=0.3)
    stripes = np.tile(np.repeat([[0], [255]], 48, axis=1), (24, 1)).astype(np.uint8)[:, :, None]
    assert corrupt(stripes, "small_face", 5, 0).std() < 20
    blurred = ndimage.gaussian_filter(face(2)[:, :, 0].astype(float), 1.8, mode="mirror")
    assert distance(corrupt(face(2), "blur", 5, 0)[:, :, 0], blurred) < 0.5


def test_wrong_input() -> None:
    with pytest.raises(UserError, match="Did you mean 'noise'"):
        corrupt(face(0), "noize", 1, 0)
    for severity in (0, 6):
        with pytest.raises(ValueError, match="severity of 1 to 5"):
            corrupt(face(0), "noise", severity, 0)
    for image in (face(0)[:, :, 0], face(0).astype(np.float32), np.zeros((4, 4, 2), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            corrupt(image, "noise", 1, 0)


class Brightness(nn.Module):
    """Predicts 0, 1 or 2 for a dark, medium or bright image."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3), keepdim=True).flatten(1)
        return -(mean - torch.tensor([[60.0, 128.0, 196.0]]) / 255).abs()


def brightness_net() -> EmotionNet:
    return EmotionNet(Backbone(Brightness(), [], [[]]), InputSpec(32, 1, (0.0,), (1.0,))).eval()


def make_result(
    n: int = 150, order: np.ndarray | None = None, classes: tuple[str, ...] = ("low", "mid", "high")
) -> EvaluationResult:
    """Return images that are dark, medium and bright by class; every tenth label is wrong."""
    generator = np.random.default_rng(0)
    kind = generator.choice(3, n, p=(0.5, 0.3, 0.2))
    base = np.array([60, 128, 196])[kind, None, None, None]
    images = np.clip(base + generator.integers(-40, 41, (n, 40, 40, 1)), 0, 255).astype(np.uint8)
    known = np.array(["low", "mid", "high"])
    names = known[np.where(np.arange(n) % 10 == 0, (kind + 1) % 3, kind)]
    order = np.arange(n) if order is None else order
    labels = np.array([classes.index(name) for name in names[order]], dtype=np.int64)
    part = Split(ArrayStore(images), order.astype(np.int64), labels, [str(i) for i in order])
    # The image at position 0 cannot be read: it has no prediction.
    positions = torch.arange(1, n)
    predictions = Predictions(torch.zeros(n - 1, 3), torch.from_numpy(labels[1:]), positions)
    card = {"classes": list(classes)}
    return EvaluationResult(
        brightness_net(), card, "val", part, predictions, {}, Resize(32, 1), "cpu"
    )


def guesses(result: EvaluationResult) -> np.ndarray:
    means = np.array([result.image(i).mean() for i in range(len(result.labels))])
    return np.abs(means[:, None] - [60, 128, 196]).argmin(1)


def test_robustness_of_a_brightness_classifier() -> None:
    result = make_result()
    scores = robustness(result, n=500)
    assert list(scores) == ["n", "clean", *NAMES]
    assert scores["n"] == 149
    clean = (guesses(result) == result.labels).mean()
    assert scores["clean"] == pytest.approx(clean, abs=1e-12) and 0.85 < clean < 0.95
    for name in NAMES:
        assert len(scores[name]) == 5
        assert all(isinstance(value, float) and 0 <= value <= 1 for value in scores[name])
    for name in ("rotation", "blur", "low_contrast", "small_face", "noise"):
        assert scores[name] == [pytest.approx(clean, abs=0.02)] * 5, name
    for name in ("dark", "bright"):
        assert scores[name][4] < clean - 0.2, name
    # In the dark everything is "low"; 20 grey levels more move no class, 100 move each by one.
    assert scores["dark"][4] == pytest.approx((result.labels == 0).mean())
    assert scores["bright"][0] == pytest.approx(clean, abs=0.02)


def test_subset_is_stratified() -> None:
    result = make_result()
    scores = robustness(result, n=40, seed=3)
    assert scores == robustness(result, n=40, seed=3)
    assert scores["n"] == 40
    assert scores["clean"] * 40 == pytest.approx(round(scores["clean"] * 40))
    keys = [(i * 7919 % 1000,) for i in range(149)]
    chosen = choose(result.labels, keys, 40)
    share = np.bincount(result.labels) * 40 / 149
    assert np.abs(np.bincount(result.labels[chosen]) - share).max() < 1
    for label in range(3):
        of_class = chosen[result.labels[chosen] == label]
        others = np.setdiff1d(np.flatnonzero(result.labels == label), of_class)
        assert max(keys[i] for i in of_class) < min(keys[i] for i in others)
    # Shares 4.9, 1.4 and 0.7: the two places left go to the largest remainders.
    few = np.repeat([0, 1, 2], (70, 20, 10))
    assert np.bincount(few[choose(few, keys[:100], 7)]).tolist() == [5, 1, 1]
    for n in (1, 2, 7, 148):
        assert len(choose(result.labels, keys, n)) == n
    for n in (149, 10**6):
        assert choose(result.labels, keys, n).tolist() == list(range(149))


def test_clean_is_the_accuracy_on_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_lab.evaluation import robustness as module

    result, taken = make_result(), []

    def spy(*args: Any) -> np.ndarray:
        taken.append(choose(*args))
        return taken[-1]

    monkeypatch.setattr(module, "choose", spy)
    monkeypatch.setattr(module, "BATCH_PIXELS", 1)
    scores = robustness(result, n=60)
    (chosen,) = taken
    right = guesses(result)[chosen] == result.labels[chosen]
    assert scores["clean"] == pytest.approx(right.mean(), abs=1e-12)


def test_class_order_and_image_order_have_no_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models are tested on the same images with the same noise."""

    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Brightness()(x).flip(1)

    first = make_result()
    # Image 0 is left out in both, wherever it stands.
    order = np.concatenate([[0], 1 + np.random.default_rng(1).permutation(149)])
    second = make_result(order=order, classes=("high", "mid", "low"))
    second.net.backbone.net = Turned()
    met: list[set[Any]] = [set()]

    def spy(image: np.ndarray, *rest: Any) -> np.ndarray:
        met[-1].add((image.tobytes(), *rest))
        return corrupt(image, *rest)

    monkeypatch.setattr("emotion_lab.evaluation.robustness.corrupt", spy)
    one = robustness(first, n=45)
    met.append(set())
    two = robustness(second, n=45)
    assert one == two
    assert met[0] == met[1] and len(met[0]) == 45 * 45
    assert len({value for name in NAMES for value in one[name]}) > 3
    assert robustness(first, n=45, seed=1) != one


def test_nothing_to_score() -> None:
    with pytest.raises(ValueError, match="n=0"):
        robustness(make_result(), n=0)
