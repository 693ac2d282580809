"""The auxiliary head on FER+ votes: its loss, its weights in training and in checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.models.load import restore
from emotion_lab.training import callbacks
from emotion_lab.training.fit import fit
from emotion_lab.training.votes_head import VotesHead
from tests.conftest import TINY, composed
from tests.data.helpers import USAGES, write_fer2013
from tests.training.conftest import press_ctrl_c
from tests.training.test_resume import assert_same_end


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


@pytest.fixture
def cfg(tmp_path: Path) -> dict[str, Any]:
    """Return a tiny config with votes: 14 training images, three of them without votes."""
    csv = write_fer2013(tmp_path / "fer2013.csv")
    lines = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,NF"]
    for row, usage in enumerate(USAGES):
        votes = [0] * 9 if row < 3 else [5, row % 3, 1, 0, row % 2, 0, 0, 2, 0]
        lines.append(f"{usage},,{','.join(map(str, votes))}")
    votes_csv = tmp_path / "fer2013new.csv"
    votes_csv.write_text("\n".join(lines) + "\n")
    overrides = [text for text in TINY if not text.startswith("data")]
    overrides += [f"data.path={csv}", f"data.ferplus_csv={votes_csv}", "data.batch_size=4"]
    return composed(
        *overrides, "votes_head.weight=0.7", "trainer.ema_decay=0.8", "data.exclude=[disgust]"
    )


def test_head_is_trained_resumed_exactly_and_not_part_of_the_model(
    cfg: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    fit(cfg, tmp_path / "whole")
    with press_ctrl_c(1, 0), pytest.raises(callbacks.RunInterruptedError):
        fit(cfg, tmp_path / "stopped")
    last = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    fit(cfg, tmp_path / "stopped", last)
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")
    saved = ckpt.read(last)["state_dict"]
    assert saved["votes_head.linear.weight"].shape == (6, 8)
    assert "votes_head.targets" not in saved
    best = tmp_path / "whole" / "checkpoints" / "best.ckpt"
    assert all(key.startswith("model.") for key in ckpt.read(best)["state_dict"])
    net, _ = restore(best)
    assert net(torch.zeros(2, 1, 48, 48)).shape == (2, 6)


def test_settings_that_the_head_does_not_support(cfg: dict[str, Any], tmp_path: Path) -> None:
    cases = {
        r"needs the FER\+ votes": {"data": {**cfg["data"], "ferplus_csv": None}},
        "does not support mix": {"mix": {**cfg["mix"], "cutmix": 1.0}},
    }
    for message, change in cases.items():
        with pytest.raises(UserError, match=message):
            fit({**cfg, **change}, tmp_path)
