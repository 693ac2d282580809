"""Smoothers in seconds, the steady label, and both together on a noisy stream of known truth."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import yaml

from emotion_lab.config.compose import CONF, options
from emotion_lab.core.errors import UserError
from emotion_lab.video.smoothing.base import LabelHysteresis, TrackSmoother, smooth_for
from emotion_lab.video.types import SMOOTHERS

K = 7


def config(name: str, **changes: Any) -> dict[str, Any]:
    """Return the keys of the real yaml files."""
    base, own = (
        yaml.safe_load((CONF / "smoothing" / f"{file}.yaml").read_text(encoding="utf-8"))
        for file in ("base", name)
    )
    own.pop("defaults")
    return {**base, **own, **changes}


def random_stream(seed: int, n: int, k: int = K) -> np.ndarray:
    """Return float64 (n, k), distributions."""
    return np.random.default_rng(seed).dirichlet(np.full(k, 0.5), n)


def test_files_and_registry_agree() -> None:
    assert options("smoothing") == SMOOTHERS.names()
    assert [config(name)["name"] for name in SMOOTHERS.names()] == SMOOTHERS.names()
    with pytest.raises(UserError, match="Did you mean 'ema'"):
        smooth_for({"name": "emma"}, K)


@pytest.mark.parametrize("name", SMOOTHERS.names())
class TestEvery:
    def test_gives_distributions_at_any_pace(self, name: str) -> None:
        rng = np.random.default_rng(1)
        smoother = smooth_for(config(name), K)
        steps = rng.choice([0.0, 0.001, 0.04, 0.5, 30.0], 400)
        frames = random_stream(2, 400)
        frames[::7] = np.eye(K)[rng.integers(K, size=len(frames[::7]))]  # exact zeros
        for values, time_s in zip(frames, steps.cumsum(), strict=True):
            result = smoother.update(values.astype(np.float32), float(time_s))
            assert result.dtype == np.float32 and result.shape == (K,)
            assert np.isfinite(result).all() and (result >= 0).all()
            assert abs(float(result.sum(dtype=np.float64)) - 1) < 1e-6

    def test_first_frame_is_believed_and_constant_input_stays(self, name: str) -> None:
        smoother = smooth_for(config(name), K)
        values = random_stream(3, 1)[0] * 0.9 + 0.1 / K
        first = smoother.update(values, 5.0)
        assert first == pytest.approx(values, abs=1e-6)
        for i in range(60):
            last = smoother.update(values, 5.0 + i / 30)
        assert last.argmax() == values.argmax()
        if name != "hmm":  # it gathers evidence: certainty grows
            assert last == pytest.approx(values, abs=1e-6)

    def test_follows_a_change_for_good(self, name: str) -> None:
        smoother = smooth_for(config(name), K)
        one, other = np.full((2, K), 0.05)
        one[1] = other[4] = 0.7
        for i in range(30):
            smoother.update(one, i / 30)
        for i in range(30, 90):
            result = smoother.update(other, i / 30)
        assert result[4] > 0.69

    def test_two_instances_share_nothing(self, name: str) -> None:
        a, b = smooth_for(config(name), K), smooth_for(config(name), K)
        for values in random_stream(4, 20):
            a.update(values, 0.1)
        fresh = random_stream(5, 1)[0] * 0.9 + 0.1 / K
        assert b.update(fresh, 0.0) == pytest.approx(fresh, abs=1e-6)

    @pytest.mark.parametrize(
        "bad",
        [
            np.full(K, np.nan),
            np.full(K, 1.0),
            np.full(K - 1, 1 / (K - 1)),
            np.array([1.5, -0.5] + [0.0] * (K - 2)),
            np.array([np.inf] + [0.0] * (K - 1)),
        ],
    )
    def test_refuses_what_is_no_distribution(self, name: str, bad: np.ndarray) -> None:
        smoother = smooth_for(config(name), K)
        good = np.full(K, 1 / K)
        smoother.update(good, 0.0)
        with pytest.raises(ValueError, match="Expected"):
            smoother.update(bad, 0.1)
        # A bad frame leaves no trace.
        assert smoother.update(good, 0.2) == pytest.approx(good, abs=1e-6)


def test_ema_is_the_same_at_10_and_60_fps() -> None:
    one, other = np.eye(K)[0], np.eye(K)[3]
    answers = {}
    for fps in (10, 60):
        smoother = smooth_for(config("ema", space="probability"), K)
        for i in range(3 * fps + 1):
            result = smoother.update(one if i <= fps else other, i / fps)
            if i % (fps // 10) == 0:
                answers.setdefault(i * 10 // fps, []).append(result)
    assert len(answers) == 31
    for slow, fast in answers.values():
        assert np.abs(slow - fast).max() < 1e-6
    # And it is the exponential that the docstring promises, half a second after the step.
    left = math.exp(-0.5 / config("ema")["tau_s"])
    assert answers[15][0][[0, 3]] == pytest.approx([left, 1 - left], abs=1e-6)


def test_ema_weighs_evidence_or_counts_votes() -> None:
    """Half way between a sure frame and a doubtful one: the sure one weighs more in logits."""
    sure, doubtful = np.array([0.98, 0.02]), np.array([0.3, 0.7])
    half = {"tau_s": 1 / math.log(2)}
    results = {}
    for space in ("logit", "probability"):
        smoother = smooth_for(config("ema", space=space, **half), 2)
        smoother.update(sure, 0.0)
        results[space] = smoother.update(doubtful, 1.0)
    assert results["probability"] == pytest.approx((sure + doubtful) / 2, abs=1e-6)
    middle = np.sqrt(sure * doubtful)
    assert results["logit"] == pytest.approx(middle / middle.sum(), abs=1e-6)
    assert results["logit"][0] > results["probability"][0] + 0.1


def test_ema_stands_still_when_time_does() -> None:
    smoother = smooth_for(config("ema"), K)
    first = smoother.update(np.eye(K)[0], 1.0)
    assert np.array_equal(smoother.update(np.eye(K)[1], 1.0), first)


def test_window_is_the_mean_of_its_frames() -> None:
    rng = np.random.default_rng(6)
    times, frames = rng.uniform(0.005, 0.2, 200).cumsum(), random_stream(7, 200)
    smoother = smooth_for(config("window", window_s=0.6), K)
    for i, (time_s, values) in enumerate(zip(times, frames, strict=True)):
        inside = times[: i + 1] > time_s - 0.6
        expected = frames[: i + 1][inside].mean(0)
        assert smoother.update(values, float(time_s)) == pytest.approx(expected, abs=1e-6)
    # Frames on the edge do not depend on how their times are rounded: 0.6 s are 6 of 10 fps.
    smoother = smooth_for(config("window", window_s=0.6), 2)
    for i in range(40):
        result = smoother.update(np.eye(2)[int(i == 30)], i / 10)
        assert result[1] == pytest.approx(1 / 6 if 30 <= i < 36 else 0, abs=1e-6)


def test_hmm_against_all_paths() -> None:
    """The filter's posterior is the sum over every path, each with its own probability."""
    k, switches, looks = 3, 0.7, 6.0
    prior = np.array([0.5, 0.3, 0.2])
    frames = random_stream(8, 6, k) * 0.97 + 0.01
    times = np.array([0.0, 0.05, 0.05, 0.3, 0.31, 1.0])
    smoother = smooth_for(
        config("hmm", transition_rate_hz=switches, observation_rate_hz=looks, prior=[float(p) for p in 2 * prior]), k
    )
    for end in range(1, 7):
        result = smoother.update(frames[end - 1], float(times[end - 1]))
        total = np.zeros(k)
        for path in itertools.product(range(k), repeat=end):
            chance = 1 / k
            for i, state in enumerate(path):
                dt = times[i] - times[i - 1] if i else None
                if i:
                    # Leaving at rate `switches`, for each of the others alike.
                    moved = (1 - math.exp(-switches * k / (k - 1) * dt)) / k
                    chance *= 1 - (k - 1) * moved if state == path[i - 1] else moved
                power = 1.0 if dt is None else min(1.0, looks * dt)
                chance *= (frames[i][state] / prior[state]) ** power
            total[path[-1]] += chance
        assert result == pytest.approx(total / total.sum(), abs=1e-6)


def test_hmm_transition_is_the_matrix_exponential() -> None:
    from scipy.linalg import expm

    smoother = smooth_for(config("hmm", transition_rate_hz=0.8), 5)
    generator = np.full((5, 5), 0.8 / 4)
    np.fill_diagonal(generator, -0.8)
    for dt in (0.0, 0.03, 1.0, 50.0):
        assert smoother.transition(dt) == pytest.approx(expm(generator * dt), abs=1e-12)


def test_hmm_holds_at_any_rate() -> None:
    """The same second of evidence convinces as much at 15 as at 60 frames."""
    values = np.array([0.5, 0.3, 0.2])
    last = []
    for fps in (15, 30, 60):
        smoother = smooth_for(config("hmm"), 3)
        for i in range(fps + 1):
            result = smoother.update(values, i / fps)
        last.append(result[0])
    # What is left comes from moving and weighing in turn; counting frames would differ by 0.027.
    assert last[0] > 0.9 and max(last) - min(last) < 0.012


def test_hmm_survives_certainty_and_wants_a_fitting_prior() -> None:
    smoother = smooth_for(config("hmm", transition_rate_hz=1e-9), 2)
    for i in range(3000):
        smoother.update(np.array([1.0, 0.0]), i / 30)
    for i in range(3000, 9000):
        result = smoother.update(np.array([0.0, 1.0]), i / 30)
    assert result[1] > 0.99
    for prior in ([0.5, 0.5], [1, 0, 1], [1, -1, 1]):
        with pytest.raises(UserError, match="expected 3 numbers above 0"):
            smooth_for(config("hmm", prior=prior), 3)


class ReferenceOneEuro:
    """Algorithm 1 of Casiez et al. 2012, for one value, written from the paper."""

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
def test_one_euro_against_the_paper(space: str) -> None:
    cfg = config("one_euro", space=space, beta=0.3)
    smoother = smooth_for(cfg, 4)
    rows = [ReferenceOneEuro(cfg["min_cutoff"], cfg["beta"], cfg["d_cutoff"]) for _ in range(4)]
    times = np.random.default_rng(9).uniform(0.01, 0.1, 100).cumsum()
    for values, time_s in zip(random_stream(10, 100, 4) * 0.9 + 0.025, times, strict=True):
        inputs = np.log(values) if space == "logit" else values
        expected = np.array([row(x, time_s) for row, x in zip(rows, inputs, strict=True)])
        expected = np.exp(expected) if space == "logit" else expected
        result = smoother.update(values, float(time_s))
        assert result == pytest.approx(expected / expected.sum(), abs=1e-6)


@pytest.mark.parametrize("name", ["ema", "one_euro"])
def test_spaces_have_names(name: str) -> None:
    with pytest.raises(UserError, match="Unknown space 'logits'. Did you mean 'logit'"):
        smooth_for(config(name, space="logits"), K)


# --- the label ------------------------------------------------------------------------------


def steady(**changes: float) -> LabelHysteresis:
    return LabelHysteresis({"threshold": 0.4, "switch_evidence_s": 0.1, **changes}, 3)


def takes(fps: int, lead: float) -> float:
    """Return the seconds until a class that leads the shown one by ``lead`` takes over."""
    label = steady()
    label.update([0.6, 0.3, 0.1], 0.0)
    rival = [0.5 - lead / 2, 0.5 + lead / 2, 0.0]
    return next(i / fps for i in range(1, 999) if label.update(rival, i / fps) == 1)


@pytest.mark.parametrize("fps", [10, 30, 100])
def test_a_clear_lead_takes_over_soon_and_a_small_one_late(fps: int) -> None:
    # The lead in seconds over its size, up to the next frame.
    for lead in (0.8, 0.4, 0.1):
        assert 0.1 / lead - 1e-6 <= takes(fps, lead) < 0.1 / lead + 1 / fps + 1e-6


def test_what_comes_and_goes_never_takes_over() -> None:
    label = steady()
    label.update([0.6, 0.3, 0.1], 0.0)
    for i in range(1, 400):
        row = [0.3, 0.65, 0.05] if i % 2 else [0.65, 0.3, 0.05]
        assert label.update(row, i / 30) == 0
    # Slightly more often there than not, it does in the end.
    rows = ([0.3, 0.65, 0.05] if i % 3 else [0.65, 0.3, 0.05] for i in range(400, 500))
    assert 1 in [label.update(row, (400 + i) / 30) for i, row in enumerate(rows)]


def test_each_rival_has_a_lead_of_its_own() -> None:
    label = steady()
    label.update([0.6, 0.3, 0.1], 0.0)
    # Two rivals take turns; what one has gathered does not count for the other.
    assert label.update([0.3, 0.45, 0.25], 0.3) == 0
    assert label.update([0.3, 0.2, 0.5], 0.7) == 0
    assert label.update([0.3, 0.2, 0.5], 0.9) == 2


def test_uncertain_below_the_threshold_and_a_clear_way_back() -> None:
    label = steady()
    assert label.update([0.39, 0.31, 0.3], 0.0) is None
    assert label.update([0.45, 0.3, 0.25], 0.1) is None  # a little above: not yet
    assert label.update([0.9, 0.05, 0.05], 0.3) == 0  # clearly above
    assert label.update([0.39, 0.31, 0.3], 0.4) is None
    assert label.update([0.45, 0.3, 0.25], 1.0) is None  # 0.03 s
    assert label.update([0.45, 0.3, 0.25], 2.5) == 0  # 0.105 s
    label.update([0.39, 0.31, 0.3], 2.6)
    label.reset()
    assert label.update([0.41, 0.3, 0.29], 2.7) == 0  # another face: no history


def test_who_takes_over_is_above_the_threshold() -> None:
    label = LabelHysteresis({"threshold": 0.5, "switch_evidence_s": 0.1}, 3)
    before, taken = label.update([0.6, 0.2, 0.2], 0.0), 0
    for i, row in enumerate(random_stream(12, 600, 3)):
        shown = label.update(row, 0.1 * (i + 1))
        if shown != before:
            assert row.max() < 0.5 if shown is None else row[shown] >= 0.5
            taken += shown is not None
        before = shown
    assert taken > 15


def test_no_hysteresis_follows_the_top() -> None:
    label = steady(threshold=0.0, switch_evidence_s=0.0)
    frames = random_stream(11, 100, 3)
    assert [label.update(row, i / 30) for i, row in enumerate(frames)] == list(frames.argmax(1))


def test_steady_refuses_nan() -> None:
    with pytest.raises(ValueError, match="Expected"):
        steady().update([np.nan, 0.5, 0.5], 0.0)


# --- both together --------------------------------------------------------------------------


def noisy_stream(
    seed: int, fps: float, parts: int = 40
) -> tuple[list[float], np.ndarray, list[int]]:
    """Return times, probabilities (n, K) and truth; errors last for about 60 ms.

    The true class leads by 2.5 in noise of deviation 1.4: two of three frames are right.
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


def judged(cfg: dict[str, Any], times: list[float], rows: np.ndarray, truth: list[int]) -> tuple:
    """Return label switches a minute, median delay after a change in ms, share of right frames."""
    calm = TrackSmoother(cfg, K)
    shown = [calm.update(p, t)[1] for p, t in zip(rows, times, strict=True)]
    switches = sum(a != b for a, b in itertools.pairwise(shown))
    starts = [i for i in range(1, len(truth)) if truth[i] != truth[i - 1]]
    delays = []
    for start, end in zip(starts, [*starts[1:], len(truth)], strict=True):
        found = next((i for i in range(start, end) if shown[i] == truth[i]), None)
        delays.append(math.inf if found is None else times[found] - times[start])
    right = np.mean([a == b for a, b in zip(shown, truth, strict=True)])
    return switches / (times[-1] / 60), 1000 * float(np.median(delays)), float(right)


@pytest.mark.parametrize("fps", [12, 30])
def test_the_default_calms_the_label_and_does_not_lag(fps: int) -> None:
    for seed in (0, 1, 2):
        stream = noisy_stream(seed, fps)
        raw, _, raw_right = judged(config("none"), *stream)
        calm, delay, right = judged(config("ema"), *stream)
        assert raw / calm >= 5
        assert delay <= 350
        assert right > raw_right + 0.1


@pytest.mark.parametrize("name", [n for n in SMOOTHERS.names() if n != "none"])
def test_every_smoother_pays_with_its_defaults(name: str) -> None:
    stream = noisy_stream(3, 25)
    raw, _, raw_right = judged(config("none"), *stream)
    calm, delay, right = judged(config(name), *stream)
    print(f"{name}: switches {raw:.0f} -> {calm:.0f} a minute, {delay:.0f} ms, right {right:.2f}")
    assert raw / calm >= 5 and delay <= 450 and right > raw_right
