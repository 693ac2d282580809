"""Smoothers, label hysteresis, and both on a noisy stream with ground truth."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from emotion_lab.config.compose import defaults, options
from emotion_lab.core.errors import UserError
from emotion_lab.video.smoothing import QuantitySmoother, TrackSmoother, build_smoother, untrained
from emotion_lab.video.types import SMOOTHERS
from tests.conftest import composed

K = 7


def config(name: str, **changes: Any) -> dict[str, Any]:
    """Return the default config of a smoother with changes."""
    return {**defaults("smoothing", name), **changes}


def random_stream(seed: int, n: int, k: int = K) -> np.ndarray:
    """Return n random distributions, float64 (n, k)."""
    return np.random.default_rng(seed).dirichlet(np.full(k, 0.5), n)


def test_config_files_match_the_registry() -> None:
    assert untrained() == [name for name in SMOOTHERS.names() if name != "temporal"]
    assert options("smoothing") == SMOOTHERS.names()
    assert [config(name)["name"] for name in SMOOTHERS.names()] == SMOOTHERS.names()
    with pytest.raises(UserError, match="Did you mean 'ema'"):
        build_smoother({"name": "emma"}, K)


@pytest.mark.parametrize("name", untrained())
class TestEverySmoother:
    def test_returns_distributions_at_any_frame_rate(self, name: str) -> None:
        rng = np.random.default_rng(1)
        smoother = build_smoother(config(name), K)
        steps = rng.choice([0.0, 0.001, 0.04, 0.5, 30.0], 400)
        frames = random_stream(2, 400)
        frames[::7] = np.eye(K)[rng.integers(K, size=len(frames[::7]))]  # exact zeros
        for values, time_s in zip(frames, steps.cumsum(), strict=True):
            result = smoother.update(values.astype(np.float32), float(time_s))
            assert result.dtype == np.float32 and result.shape == (K,)
            assert np.isfinite(result).all() and (result >= 0).all()
            assert abs(float(result.sum(dtype=np.float64)) - 1) < 1e-6

    def test_first_frame_and_constant_input_are_unchanged(self, name: str) -> None:
        smoother = build_smoother(config(name), K)
        values = random_stream(3, 1)[0] * 0.9 + 0.1 / K
        first = smoother.update(values, 5.0)
        assert first == pytest.approx(values, abs=1e-6)
        for i in range(60):
            last = smoother.update(values, 5.0 + i / 30)
        assert last.argmax() == values.argmax()
        if name != "hmm":  # its posterior increases with each frame
            assert last == pytest.approx(values, abs=1e-6)

    def test_follows_a_step(self, name: str) -> None:
        smoother = build_smoother(config(name), K)
        first, second = np.full((2, K), 0.05)
        first[1] = second[4] = 0.7
        for i in range(30):
            smoother.update(first, i / 30)
        for i in range(30, 90):
            result = smoother.update(second, i / 30)
        assert result[4] > 0.69

    def test_instances_are_independent(self, name: str) -> None:
        a, b = build_smoother(config(name), K), build_smoother(config(name), K)
        for values in random_stream(4, 20):
            a.update(values, 0.1)
        fresh = random_stream(5, 1)[0] * 0.9 + 0.1 / K
        assert b.update(fresh, 0.0) == pytest.approx(fresh, abs=1e-6)

    @pytest.mark.parametrize(
        "invalid",
        [
            np.full(K, np.nan),
            np.full(K, 1.0),
            np.full(K - 1, 1 / (K - 1)),
            np.array([1.5, -0.5] + [0.0] * (K - 2)),
            np.array([np.inf] + [0.0] * (K - 1)),
        ],
    )
    def test_invalid_distribution_raises(self, name: str, invalid: np.ndarray) -> None:
        smoother = build_smoother(config(name), K)
        uniform = np.full(K, 1 / K)
        smoother.update(uniform, 0.0)
        with pytest.raises(ValueError, match="Expected"):
            smoother.update(invalid, 0.1)
        # The state is unchanged.
        assert smoother.update(uniform, 0.2) == pytest.approx(uniform, abs=1e-6)


def test_ema_is_the_same_at_10_and_60_fps() -> None:
    first, second = np.eye(K)[0], np.eye(K)[3]
    results: dict[int, list[np.ndarray]] = {}
    for fps in (10, 60):
        smoother = build_smoother(config("ema", space="probability"), K)
        for i in range(3 * fps + 1):
            result = smoother.update(first if i <= fps else second, i / fps)
            if i % (fps // 10) == 0:
                results.setdefault(i * 10 // fps, []).append(result)
    assert len(results) == 31
    for slow, fast in results.values():
        assert np.abs(slow - fast).max() < 1e-6
    # The exponential step response, half a second after the step.
    remaining = math.exp(-0.5 / config("ema")["tau_s"])
    assert results[15][0][[0, 3]] == pytest.approx([remaining, 1 - remaining], abs=1e-6)


def test_ema_spaces() -> None:
    """Half way between two frames, the confident one has more weight in logit space."""
    confident, doubtful = np.array([0.98, 0.02]), np.array([0.3, 0.7])
    half = {"tau_s": 1 / math.log(2)}
    results = {}
    for space in ("logit", "probability"):
        smoother = build_smoother(config("ema", space=space, **half), 2)
        smoother.update(confident, 0.0)
        results[space] = smoother.update(doubtful, 1.0)
    assert results["probability"] == pytest.approx((confident + doubtful) / 2, abs=1e-6)
    middle = np.sqrt(confident * doubtful)
    assert results["logit"] == pytest.approx(middle / middle.sum(), abs=1e-6)
    assert results["logit"][0] > results["probability"][0] + 0.1


def test_ema_is_unchanged_at_equal_times() -> None:
    smoother = build_smoother(config("ema"), K)
    first = smoother.update(np.eye(K)[0], 1.0)
    assert np.array_equal(smoother.update(np.eye(K)[1], 1.0), first)


def test_window_is_the_mean_of_its_frames() -> None:
    rng = np.random.default_rng(6)
    times, frames = rng.uniform(0.005, 0.2, 200).cumsum(), random_stream(7, 200)
    smoother = build_smoother(config("window", window_s=0.6), K)
    for i, (time_s, values) in enumerate(zip(times, frames, strict=True)):
        inside = times[: i + 1] > time_s - 0.6
        expected = frames[: i + 1][inside].mean(0)
        assert smoother.update(values, float(time_s)) == pytest.approx(expected, abs=1e-6)
    # Rounding of the times does not matter at the edge: 0.6 s are 6 frames at 10 fps.
    smoother = build_smoother(config("window", window_s=0.6), 2)
    for i in range(40):
        result = smoother.update(np.eye(2)[int(i == 30)], i / 10)
        assert result[1] == pytest.approx(1 / 6 if 30 <= i < 36 else 0, abs=1e-6)


def test_hmm_matches_the_sum_over_all_paths() -> None:
    k, transition_rate_hz, observation_rate_hz = 3, 0.7, 6.0
    prior = np.array([0.5, 0.3, 0.2])
    frames = random_stream(8, 6, k) * 0.97 + 0.01
    times = np.array([0.0, 0.05, 0.05, 0.3, 0.31, 1.0])
    rates = {"transition_rate_hz": transition_rate_hz, "observation_rate_hz": observation_rate_hz}
    smoother = build_smoother(config("hmm", **rates, prior=(2 * prior).tolist()), k)
    for end in range(1, 7):
        result = smoother.update(frames[end - 1], float(times[end - 1]))
        total = np.zeros(k)
        for path in itertools.product(range(k), repeat=end):
            probability = 1 / k
            for i, state in enumerate(path):
                dt = times[i] - times[i - 1] if i else None
                if i:
                    # Equal transition probabilities to all other states.
                    moved = (1 - math.exp(-transition_rate_hz * k / (k - 1) * dt)) / k
                    probability *= 1 - (k - 1) * moved if state == path[i - 1] else moved
                power = 1.0 if dt is None else min(1.0, observation_rate_hz * dt)
                probability *= (frames[i][state] / prior[state]) ** power
            total[path[-1]] += probability
        assert result == pytest.approx(total / total.sum(), abs=1e-6)


def test_hmm_transition_is_the_matrix_exponential() -> None:
    from scipy.linalg import expm

    smoother = build_smoother(config("hmm", transition_rate_hz=0.8), 5)
    generator = np.full((5, 5), 0.8 / 4)
    np.fill_diagonal(generator, -0.8)
    for dt in (0.0, 0.03, 1.0, 50.0):
        assert smoother.transition(dt) == pytest.approx(expm(generator * dt), abs=1e-12)


def test_hmm_evidence_does_not_depend_on_the_frame_rate() -> None:
    values = np.array([0.5, 0.3, 0.2])
    posteriors = []
    for fps in (15, 30, 60):
        smoother = build_smoother(config("hmm"), 3)
        for i in range(fps + 1):
            result = smoother.update(values, i / fps)
        posteriors.append(result[0])
    # Discretisation error; counting frames instead of seconds would give 0.027.
    assert posteriors[0] > 0.9 and max(posteriors) - min(posteriors) < 0.012


def test_hmm_zero_probabilities_and_invalid_priors() -> None:
    smoother = build_smoother(config("hmm", transition_rate_hz=1e-9), 2)
    for i in range(3000):
        smoother.update(np.array([1.0, 0.0]), i / 30)
    for i in range(3000, 9000):
        result = smoother.update(np.array([0.0, 1.0]), i / 30)
    assert result[1] > 0.99
    for prior in ([0.5, 0.5], [1, 0, 1], [1, -1, 1]):
        with pytest.raises(UserError, match="expected 3 numbers above 0"):
            build_smoother(config("hmm", prior=prior), 3)


class ReferenceOneEuro:
    """Algorithm 1 of Casiez et al. 2012 for one value."""

    def __init__(self, mincutoff: float, beta: float, dcutoff: float) -> None:
        self.mincutoff, self.beta, self.dcutoff = mincutoff, beta, dcutoff
        self.x = self.dx = self.t = None

    def alpha(self, rate: float, cutoff: float) -> float:
        tau = 1.0 / (2 * math.pi * cutoff)
        te = 1.0 / rate
        return 1.0 / (1.0 + tau / te)

    def __call__(self, x: float, t: float) -> float:
        if self.x is None:
            self.x, self.dx, self.t = x, 0.0, t
            return x
        rate = 1.0 / (t - self.t)
        a = self.alpha(rate, self.dcutoff)
        self.dx = a * (x - self.x) * rate + (1 - a) * self.dx
        a = self.alpha(rate, self.mincutoff + self.beta * abs(self.dx))
        self.x, self.t = a * x + (1 - a) * self.x, t
        return self.x


@pytest.mark.parametrize("space", ["logit", "probability"])
def test_one_euro_matches_the_paper(space: str) -> None:
    cfg = config("one_euro", space=space, beta=0.3)
    smoother = build_smoother(cfg, 4)
    rows = [ReferenceOneEuro(cfg["min_cutoff"], cfg["beta"], cfg["d_cutoff"]) for _ in range(4)]
    times = np.random.default_rng(9).uniform(0.01, 0.1, 100).cumsum()
    for values, time_s in zip(random_stream(10, 100, 4) * 0.9 + 0.025, times, strict=True):
        inputs = np.log(values) if space == "logit" else values
        expected = np.array([row(x, time_s) for row, x in zip(rows, inputs, strict=True)])
        expected = np.exp(expected) if space == "logit" else expected
        result = smoother.update(values, float(time_s))
        assert result == pytest.approx(expected / expected.sum(), abs=1e-6)


@pytest.mark.parametrize("name", ["ema", "one_euro"])
def test_unknown_space(name: str) -> None:
    with pytest.raises(UserError, match="space=logits is not valid: expected one of logit, prob"):
        build_smoother(config(name, space="logits"), K)


# --- smoother and hysteresis ----------------------------------------------------------------


def noisy_stream(
    seed: int, fps: float, parts: int = 40
) -> tuple[list[float], np.ndarray, list[int]]:
    """Return times, probabilities (n, K) and true classes; errors last for about 60 ms.

    The logit of the true class is 2.5 higher, with noise of standard deviation 1.4: two of three
    frames are correct.
    """
    rng = np.random.default_rng(seed)
    kept = math.exp(-1 / (fps * 0.06))
    noise, now, time_s = rng.normal(size=K) * 1.4, 0, 0.0
    times, rows, truth = [], [], []
    for _ in range(parts):
        now = int((now + rng.integers(1, K)) % K)
        for _ in range(int(rng.uniform(2, 4) * fps)):
            noise = kept * noise + math.sqrt(1 - kept**2) * rng.normal(size=K) * 1.4
            logits = noise + 2.5 * (np.arange(K) == now)
            times.append(time_s)
            rows.append(np.exp(logits) / np.exp(logits).sum())
            truth.append(now)
            time_s += 1 / fps
    return times, np.array(rows), truth


def evaluate(cfg: dict[str, Any], times: list[float], rows: np.ndarray, truth: list[int]) -> tuple:
    """Return label switches per minute, median delay of a change in ms, accuracy."""
    smoother = TrackSmoother(cfg, K)
    shown = [smoother.update(p, t)[1] for p, t in zip(rows, times, strict=True)]
    switches = sum(a != b for a, b in itertools.pairwise(shown))
    starts = [i for i in range(1, len(truth)) if truth[i] != truth[i - 1]]
    delays = []
    for start, end in zip(starts, [*starts[1:], len(truth)], strict=True):
        first = next((i for i in range(start, end) if shown[i] == truth[i]), None)
        delays.append(math.inf if first is None else times[first] - times[start])
    accuracy = np.mean([a == b for a, b in zip(shown, truth, strict=True)])
    return switches / (times[-1] / 60), 1000 * float(np.median(delays)), float(accuracy)


@pytest.mark.parametrize("fps", [12, 30])
def test_default_reduces_switches_without_lag(fps: int) -> None:
    for seed in (0, 1, 2):
        stream = noisy_stream(seed, fps)
        raw, _, raw_accuracy = evaluate(config("none"), *stream)
        smoothed, delay, accuracy = evaluate(config("ema"), *stream)
        assert raw / smoothed >= 5
        assert delay <= 350
        assert accuracy > raw_accuracy + 0.1


@pytest.mark.parametrize("name", [n for n in untrained() if n != "none"])
def test_every_smoother_improves_with_its_defaults(name: str) -> None:
    stream = noisy_stream(3, 25)
    raw, _, raw_accuracy = evaluate(config("none"), *stream)
    smoothed, delay, accuracy = evaluate(config(name), *stream)
    assert raw / smoothed >= 5 and delay <= 450 and accuracy > raw_accuracy


def test_learned_quantities_are_smoothed_as_probabilities_are() -> None:
    values = np.array([[0.8, 0.1], [-0.6, 0.5], [-0.6, 1.2]])

    def smoothed(*overrides: str) -> np.ndarray:
        cfg = composed(*overrides, entry="live")["smoothing"]
        smoother = QuantitySmoother(cfg, ["valence", "intensity"])
        return np.stack([smoother.update(row, 0.1 * i) for i, row in enumerate(values)])

    limited = np.clip(values, (-1, 0), 1)
    np.testing.assert_allclose(smoothed("smoothing=none"), limited, atol=1e-6)
    weight = 1 - np.exp(-0.1 / 0.3)
    expected = limited.copy()
    for i in (1, 2):
        expected[i] = expected[i - 1] + weight * (limited[i] - expected[i - 1])
    ema = smoothed("smoothing=ema", "smoothing.tau_s=0.3", "smoothing.space=logit")
    np.testing.assert_allclose(ema, expected, atol=1e-6)
    mean = smoothed("smoothing=window", "smoothing.window_s=0.15")
    np.testing.assert_allclose(mean[2], limited[1:].mean(0), atol=1e-6)
    # A Markov chain of classes cannot smooth numbers.
    np.testing.assert_array_equal(smoothed("smoothing=hmm"), smoothed("smoothing=ema"))
    assert QuantitySmoother({"name": "ema"}, []).update(np.zeros(0), 0.0).size == 0
