"""Temporal models: numpy and torch agree, nothing depends on the future, steps, the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_lab.config import compose
from emotion_lab.core.errors import UserError
from emotion_lab.models.temporal import StepClassifier, build_network
from emotion_lab.temporal import smoother_file
from emotion_lab.temporal.base import TEMPORAL
from emotion_lab.temporal.steps import PADDING, log_ratio, step_inputs, windows
from emotion_lab.video.smoothing.temporal import TemporalSmoother

K = 4
NAMES = TEMPORAL.names()


def network(name: str, **changes: Any) -> StepClassifier:
    torch.manual_seed(0)
    cfg = {**compose.defaults("model", name), "hidden": 8, **changes}
    return StepClassifier(TEMPORAL.get(name), cfg, K).eval()


def saved(name: str, path: Path, **meta: Any) -> StepClassifier:
    """Write the file of a temporal model with random weights."""
    net = network(name)
    weights = {key: value.numpy() for key, value in net.state_dict().items()}
    content = {"model": name, "step_s": 0.1, "temperature": 0.7, "classes": list("abcd")}
    smoother_file.write(path, {**content, "frame": {"sha256": "0", "ckpt": "f"}, **meta}, weights)
    return net


def track(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (n, K) at irregular times (n,)."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(K), n), np.cumsum(rng.uniform(0.02, 0.25, n))


@pytest.mark.parametrize("name", NAMES)
def test_live_gives_the_outputs_of_training(name: str, tmp_path: Path) -> None:
    net = saved(name, tmp_path / "temporal.npz")
    probabilities, times = track(40)
    inputs, previous = step_inputs(log_ratio(probabilities), np.zeros(40, int), times, 0.1)
    batch = torch.from_numpy(windows(inputs, previous, np.arange(40), 64))
    with torch.no_grad():
        expected = (net(batch) / 0.7).softmax(1).numpy()
    smoother = TemporalSmoother({"ckpt": str(tmp_path)}, K)
    shown = [smoother.update(p, t) for p, t in zip(probabilities, times, strict=True)]
    np.testing.assert_allclose(shown, expected, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_features_do_not_depend_on_the_future(name: str) -> None:
    net = network(name)
    inputs = torch.randn(1, 20, K + 1)
    changed = torch.cat([inputs[:, :12], torch.randn(1, 8, K + 1)], 1)
    with torch.no_grad():
        a, b = (net.kind.run(net.body, x)[0] for x in (inputs, changed))
    torch.testing.assert_close(a[:12], b[:12])
    assert not torch.allclose(a[12:], b[12:])


def test_steps_average_looks_and_hold_the_time_between_them() -> None:
    ratios = np.array([[1.0, -1], [3, -3], [5, -5], [7, -7], [2, -2]], np.float32)
    times = np.array([1.0, 1.05, 1.12, 1.45, 0.2])
    inputs, previous = step_inputs(ratios, np.array([0, 0, 0, 0, 1]), times, 0.1)
    np.testing.assert_allclose(inputs[:, 0], [1, 2, 5, 7, 2])  # the second look: mean of a step
    np.testing.assert_allclose(inputs[:, 2], [0, 0, 0.07, 0.33, 0], atol=1e-6)
    assert previous.tolist() == [-1, -1, 1, 2, -1]
    window = windows(inputs, previous, np.array([3, 4]), 4)
    np.testing.assert_allclose(window[0, :3, 0], [2, 5, 7])
    assert window[1, 0, 0] == 2 and (window[1, 1:, :2] == 0).all()
    assert (window[:, 3, 2] == PADDING).all()


def test_a_window_holds_the_last_steps_only() -> None:
    probabilities, times = track(30)
    inputs, previous = step_inputs(log_ratio(probabilities), np.zeros(30, int), times, 0.01)
    window = windows(inputs, previous, np.array([29]), 5)
    np.testing.assert_array_equal(window[0], inputs[25:])


def test_a_temporal_model_is_a_network_with_stages_and_a_head() -> None:
    cfg = compose.defaults("model", "gru")
    cfg |= {"image_size": 48, "channels": 1, "mean": [0.5], "std": [0.25]}
    net, spec = build_network(cfg, K)
    assert net.backbone.head_names == ("head",) and spec.image_size == 48
    assert net(torch.zeros(3, 6, K + 1)).shape == (3, K)
    with pytest.raises(UserError, match=r"model=gru starts from random weights"):
        build_network({**cfg, "weights": "x.ckpt"}, K)


def test_a_file_that_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"smoothing.ckpt is missing"):
        smoother_file.read(None)
    with pytest.raises(UserError, match=r"temporal.npz does not exist"):
        smoother_file.read(tmp_path)
    file = tmp_path / "temporal.npz"
    saved("gru", file)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"is damaged, or no temporal model"):
        smoother_file.read(tmp_path)
