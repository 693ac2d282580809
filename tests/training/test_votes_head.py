"""The auxiliary head on FER+ votes: its loss, its weights in training and in checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from emotion_lab.training.votes_head import VotesHead


def test_loss_agrees_with_scipy_and_ignores_images_without_votes() -> None:
    classifier = torch.nn.Linear(4, 3)
    targets = torch.tensor([[0.2, 0.8, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    head = VotesHead(classifier, targets, weight=0.5)
    features = torch.randn(2, 4, requires_grad=True)
    classifier.train()(features)
    loss = head(torch.tensor(1.0), torch.tensor([1, 0]))
    logits = head.linear(features).detach().numpy()
    cross_entropy = -(targets[[1, 0]].numpy() * log_softmax(logits, 1)).sum(1).mean()
    assert float(loss) == pytest.approx(1.0 + 0.5 * cross_entropy, rel=1e-5)
    loss.backward()
    assert features.grad is not None
    assert np.abs(features.grad[0].numpy()).sum() == 0 < np.abs(features.grad[1].numpy()).sum()


def test_features_are_read_in_training_mode_only() -> None:
    classifier = torch.nn.Linear(4, 3)
    head = VotesHead(classifier, torch.zeros(1, 3), weight=1.0)
    classifier.eval()(torch.zeros(1, 4))
    with pytest.raises(AssertionError):
        head(torch.tensor(0.0), torch.tensor([0]))
