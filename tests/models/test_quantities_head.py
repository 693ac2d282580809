"""Learned quantities as outputs of networks and ensembles."""

from __future__ import annotations

import torch

from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.quantities_head import QuantitiesHead, join, learned
from tests.helpers_export import varied_network

IMAGES = torch.randint(0, 256, (5, 1, 48, 48), generator=torch.Generator().manual_seed(0))


def test_a_joint_network_returns_the_same_logits_and_limited_quantities() -> None:
    net = varied_network("senet", quantities=["arousal", "intensity"])
    net.quantities.weight.mul_(20)  # beyond the ranges
    joint = join(net)
    with torch.inference_mode():
        outputs, logits = joint(IMAGES), net(IMAGES)
        features = net.forward_features(IMAGES)
        values = features @ net.quantities.weight.T + net.quantities.bias
    assert learned(net) == ["arousal", "intensity"] and outputs.shape == (5, 7)
    torch.testing.assert_close(outputs[:, :5], logits, rtol=0, atol=0)
    assert values.abs().max(0).values.min() > 1
    torch.testing.assert_close(outputs[:, 5], values[:, 0].clamp(-1, 1))
    torch.testing.assert_close(outputs[:, 6], values[:, 1].clamp(0, 1))
    assert join(joint) is joint and logits.shape == (5, 5)


def test_an_ensemble_averages_what_all_members_have_learned() -> None:
    nets = [
        varied_network("senet", 0, ["intensity", "valence"]),
        varied_network("senet", 1, ["valence"]),
    ]
    orders = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]]
    ensemble = Ensemble(nets, orders, [0.25, 0.75]).eval()
    with torch.inference_mode():
        outputs, logits = join(ensemble)(IMAGES), ensemble(IMAGES)
        first, second = (join(net)(IMAGES) for net in nets)
    assert learned(ensemble) == ["valence"] and outputs.shape == (5, 6)
    torch.testing.assert_close(outputs[:, :5], logits, rtol=0, atol=0)
    torch.testing.assert_close(outputs[:, 5], 0.25 * first[:, 6] + 0.75 * second[:, 5])
    without = Ensemble([nets[0], varied_network("senet", 2)], orders).eval()
    assert learned(without) == [] and join(without) is without


def test_values_are_limited_outside_of_training() -> None:
    classifier = torch.nn.Linear(1, 3)
    head = QuantitiesHead(classifier, ["valence", "intensity"])
    torch.nn.init.constant_(head.linear.weight, 1.0)
    torch.nn.init.zeros_(head.linear.bias)
    features = torch.tensor([[-2.0], [0.5], [2.0]])
    classifier(features)
    assert head.train().values()["intensity"].tolist() == [-2, 0.5, 2]
    classifier(features)
    values = head.eval().values()
    assert values["intensity"].tolist() == [0, 0.5, 1]
    classifier(features)
    assert head.values()["valence"].tolist() == [-1, 0.5, 1]
