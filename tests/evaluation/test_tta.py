"""Test-time augmentation: views and averaged probabilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from emotion_lab.core.errors import UserError
from emotion_lab.data.torch_dataset import Batch
from emotion_lab.evaluation.predict import predict
from emotion_lab.evaluation.tta import VIEWS, views
from emotion_lab.models.base import Backbone, EmotionNet, InputSpec


def _net() -> EmotionNet:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 3))
    spec = InputSpec(48, 1, (0.5,), (0.25,))
    return EmotionNet(Backbone(layers, ["1"], [], conv=False), spec).eval()


def _batch() -> Batch:
    images = torch.randint(0, 256, (4, 1, 48, 48), dtype=torch.uint8)
    return Batch(images, torch.tensor([0, 1, 2, 0]), torch.arange(4))


@pytest.mark.parametrize(("name", "count"), [("none", 1), ("flip", 2), ("tencrop", 10)])
def test_number_and_shape_of_views(name: str, count: int) -> None:
    crops = list(views(name)(_batch().images))
    assert len(crops) == count
    assert all(view.shape == (4, 1, 48, 48) for view in crops)
    assert set(VIEWS) == {"none", "flip", "tencrop"}


def test_ten_crops_are_the_corners_and_the_centre() -> None:
    ramp = torch.arange(48.0).repeat(48, 1)[None, None]
    crops = list(views("tencrop")(ramp))
    # Mean column of each crop: left 0..43, right 4..47, centre 2..45.
    means = [float(view.mean()) for view in crops[::2]]
    assert means == pytest.approx([21.5, 25.5, 21.5, 25.5, 23.5], abs=0.01)
    assert all(torch.equal(a.flip(3), b) for a, b in zip(crops[::2], crops[1::2], strict=True))


def test_flip_averages_probabilities() -> None:
    net, batch = _net(), _batch()
    got = predict(net, [batch], "cpu", tta="flip").probabilities

    def softmax(images: Tensor) -> Tensor:
        return net(images).softmax(1)

    with torch.no_grad():
        expected = (softmax(batch.images) + softmax(batch.images.flip(3))) / 2
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_none_keeps_the_logits() -> None:
    net, batch = _net(), _batch()
    with torch.no_grad():
        assert torch.equal(predict(net, [batch], "cpu").logits, net(batch.images))


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'flip'"):
        views("flop")
