"""A linear head on the input of the classifier."""

from __future__ import annotations

import copy

import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.core.input_spec import InputSpec
from emotion_lab.models.auxiliary_head import AuxiliaryHead, last_linear
from emotion_lab.models.base import Backbone, EmotionNet


def test_outputs_are_those_of_the_last_batch_once() -> None:
    classifier = torch.nn.Linear(4, 3)
    head = AuxiliaryHead(classifier, 2)
    features = torch.randn(5, 4)
    for training in (True, False):
        with torch.set_grad_enabled(training):
            classifier.train(training)(features)
            torch.testing.assert_close(head.outputs(), head.linear(features))
        with pytest.raises(AssertionError):
            head.outputs()


def test_a_network_can_be_copied_after_an_explanation() -> None:
    classifier = torch.nn.Linear(4, 3).eval()
    head = AuxiliaryHead(classifier, 2)
    classifier(torch.randn(1, 4, requires_grad=True) * 2)  # a graph, which cannot be copied
    assert copy.deepcopy(head).linear.out_features == 2


def test_a_network_without_linear_layer_is_one_line() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3), torch.nn.LayerNorm(3))
    spec = InputSpec(4, 1, (0.5,), (0.25,))
    with pytest.raises(UserError, match="ends in a linear layer, not LayerNorm"):
        last_linear(EmotionNet(Backbone(net, ["2"], [["1"]]), spec), "votes_head.weight")
