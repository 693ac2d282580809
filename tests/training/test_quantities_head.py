"""The head for valence, arousal and intensity: loss, metrics, checkpoints and the report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.evaluation.evaluate import evaluate_checkpoint
from emotion_lab.evaluation.quantities import score_quantities
from emotion_lab.models.load import restore
from emotion_lab.training import callbacks
from emotion_lab.training.fit import fit
from emotion_lab.training.quantities_head import TrainedQuantitiesHead, build, ccc_loss
from tests.conftest import TINY, composed
from tests.helpers_export import varied_network
from tests.training.conftest import press_ctrl_c
from tests.training.test_resume import assert_same_end

NAN = float("nan")


def lin(x: np.ndarray, y: np.ndarray) -> float:
    """Return the coefficient of Lin 1989."""
    scatter = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    return float(2 * np.cov(x, y, ddof=0)[0, 1] / scatter)


def test_loss_is_that_of_lin_over_the_images_with_a_value() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 30)).astype(np.float32)
    target = torch.from_numpy(y + x)
    target[:6] = NAN
    found = float(ccc_loss(torch.from_numpy(x), target))
    assert found == pytest.approx(1 - lin(x[6:], (y + x)[6:]), abs=1e-5)
    assert float(ccc_loss(torch.from_numpy(x), torch.from_numpy(x))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("target", [[NAN, NAN, NAN], [0.5, NAN, NAN], [0.5, 0.5, 0.5]])
def test_images_without_variance_give_no_gradient(target: list[float]) -> None:
    predicted = torch.tensor([0.1, 0.2, 0.4], requires_grad=True)
    loss = ccc_loss(predicted, torch.tensor(target))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.0)
    assert predicted.grad is not None and float(predicted.grad.abs().max()) < 1e-6


def test_metrics_of_val_leave_out_missing_values() -> None:
    rng = np.random.default_rng(0)
    targets = {split: {"valence": rng.normal(size=8)} for split in ("train", "val")}
    targets["val"]["valence"][2] = NAN
    classifier = torch.nn.Linear(4, 3).eval()
    head = TrainedQuantitiesHead(classifier, targets, 1.0)
    features = torch.randn(8, 4)
    with torch.no_grad():
        for positions in (torch.arange(5), torch.arange(5, 8)):
            classifier(features[positions])
            head.update_metrics(positions)
        found = head.linear(features)[:, 0].numpy()
    scores = head.compute_and_reset()
    has_value = ~np.isnan(targets["val"]["valence"])
    x, y = found[has_value], targets["val"]["valence"][has_value]
    assert float(scores["rmse_valence"]) == pytest.approx(np.sqrt(((x - y) ** 2).mean()), rel=1e-4)
    # torchmetrics divides variances by n - 1, but not the difference of the means.
    scatter = (x.var() + y.var()) * 7 / 6 + (x.mean() - y.mean()) ** 2
    expected = 2 * np.cov(x, y)[0, 1] / scatter
    assert float(scores["ccc_valence"]) == pytest.approx(expected, rel=1e-3)


@pytest.fixture
def cfg() -> dict[str, Any]:
    """Return a tiny config of faces with known quantities."""
    return composed(
        *TINY,
        "data.n=120",
        "data.strengths=[0.1,1]",
        "quantities_head.weight=1",
        "trainer.ema_decay=0.8",
        "trainer.precision=fp32",  # evaluate computes in fp32
    )


def test_head_is_trained_resumed_exactly_and_evaluated(cfg: dict[str, Any], tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = fit(cfg, tmp_path / "whole")
    with press_ctrl_c(1, 0), pytest.raises(callbacks.RunInterruptedError):
        fit(cfg, tmp_path / "stopped")
    fit(cfg, tmp_path / "stopped", tmp_path / "stopped" / "checkpoints" / "last.ckpt")
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")
    best = tmp_path / "whole" / "checkpoints" / "best.ckpt"
    content = ckpt.read(best)
    assert content[ckpt.CARD]["quantities"] == ["valence", "arousal", "intensity"]
    assert content["state_dict"]["quantities_head.linear.weight"].shape[0] == 3
    assert not any("targets" in key for key in content["state_dict"])
    net, _ = restore(best)
    assert net(torch.zeros(2, 1, 48, 48)).shape == (2, 7)

    # The averaged weights of best.ckpt give the scores of their epoch.
    row = next(row for row in reversed(whole.history.rows) if row["best"])
    result = evaluate_checkpoint(best, cfg["data"])
    rows = [r for r in score_quantities(result) if r["source"] == "learned"]
    assert [r["quantity"] for r in rows] == ["valence", "arousal", "intensity"]
    for scores in rows:
        name = scores["quantity"]
        assert scores["ccc"] == pytest.approx(row[f"val/ccc_{name}"], abs=1e-3)
        assert scores["rmse"] == pytest.approx(row[f"val/rmse_{name}"], rel=1e-3)
    mirrored = evaluate_checkpoint(best, cfg["data"], tta="flip").predictions.quantities
    plain = result.predictions.quantities["valence"]
    assert mirrored["valence"].shape == plain.shape and not mirrored["valence"].equal(plain)


def test_settings_that_the_head_does_not_support(cfg: dict[str, Any], tmp_path: Path) -> None:
    cases = {
        r"quantities_head.weight=1 needs values": {"data": {**cfg["data"], "strengths": None}},
        "does not support mix": {"mix": {**cfg["mix"], "cutmix": 1.0}},
    }
    for message, change in cases.items():
        with pytest.raises(UserError, match=message):
            fit({**cfg, **change}, tmp_path)


def test_a_network_that_computes_further_with_its_classifier_is_refused_before_training() -> None:
    """Such as a distilled ViT, the mean of two classifiers, whose values nothing could read."""
    values = SimpleNamespace(quantities={"valence": np.array([0.0, 0.5])})
    data: Any = SimpleNamespace(split=lambda name: values)
    cfg = {"quantities_head": {"weight": 1.0}, "mix": {"mixup": 0.0, "cutmix": 0.0}}
    net = varied_network("senet")
    state = torch.get_rng_state()
    head = build(cfg, data, net)
    assert head is not None and head.names == ["valence"] and net.quantities is None
    torch.set_rng_state(state)
    first = torch.nn.Linear(head.linear.in_features, 1)
    assert head.linear.weight.equal(first.weight)  # the check drew no random numbers
    net.backbone.net.register_forward_hook(lambda module, inputs, logits: logits @ torch.eye(5))
    with pytest.raises(UserError, match="computes further with its outputs: set another model="):
        build(cfg, data, net)
