"""Steps of a track: the inputs of a temporal model, from probabilities at irregular times.

Looks within ``step_s`` seconds are averaged into one step, so that a model sees the same steps at
any frame rate above ``1 / step_s``. An input holds the centred log-ratio of the mean probabilities
(Aitchison 1982), as means of logarithms, and the seconds since the step before.
"""

from __future__ import annotations

import numpy as np

_MIN_PROBABILITY = 1e-4  # floor before the logarithm
#: Longest time between two steps that a model sees, in seconds.
MAX_GAP_S = 2.0
#: Seconds since the step before, of a row after the end of a window.
PADDING = -1.0
#: Against the rounding of times.
_TOLERANCE_S = 1e-6


def log_ratio(probabilities: np.ndarray) -> np.ndarray:
    """Return the centred log-ratio of probabilities (..., K), float32."""
    logarithm = np.log(np.maximum(probabilities, _MIN_PROBABILITY))
    return (logarithm - logarithm.mean(-1, keepdims=True)).astype(np.float32)


def step_number(
    times: np.ndarray | float, start_s: np.ndarray | float, step_s: float
) -> np.ndarray:
    """Return the number of the step of each time, counted from ``start_s``."""
    return np.floor((np.asarray(times) - start_s + _TOLERANCE_S) / step_s).astype(np.int64)


def step_inputs(
    log_ratios: np.ndarray, tracks: np.ndarray, times: np.ndarray, step_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the input of the step at every look, and the looks that end the steps before.

    Args:
        log_ratios: float32 (N, K).
        tracks: int64 (N,); the looks of a track follow one another, in order of time.
        times: float64 (N,), seconds.

    Returns:
        Inputs, float32 (N, K + 1): of the looks of a step up to this one. Then int64 (N,): the
        last look of the step before, -1 in the first step of a track.
    """
    n = len(times)
    new_track = np.diff(tracks, prepend=tracks[:1] - 1) != 0
    first = np.maximum.accumulate(np.where(new_track, np.arange(n), 0))
    numbers = step_number(times, times[first], step_s)
    new_step = new_track | (np.diff(numbers, prepend=-1) != 0)
    start = np.maximum.accumulate(np.where(new_step, np.arange(n), 0))
    sums = np.concatenate([np.zeros((1, log_ratios.shape[1])), log_ratios.cumsum(0, np.float64)])
    means = (sums[1:] - sums[start]) / (np.arange(n) - start + 1)[:, None]
    previous = np.where(start == first, -1, start - 1)
    gap = np.where(previous < 0, 0.0, times - times[np.maximum(previous, 0)])
    inputs = np.column_stack([means, np.minimum(gap, MAX_GAP_S)]).astype(np.float32)
    return inputs, previous


def windows(
    inputs: np.ndarray, previous: np.ndarray, positions: np.ndarray, steps: int
) -> np.ndarray:
    """Return the last ``steps`` steps up to each position, float32 (B, steps, K + 1).

    Windows at the start of a track are shorter; rows after their end are 0, with the time
    :data:`PADDING`.

    Args:
        inputs: See :func:`step_inputs`.
        previous: See :func:`step_inputs`.
        positions: int64 (B,), looks that end the windows.
    """
    chain = np.empty((len(positions), steps), np.int64)  # from the last step backwards
    at = positions
    for i in range(steps):
        chain[:, i] = at
        at = np.where(at < 0, -1, previous[np.maximum(at, 0)])
    lengths = (chain >= 0).sum(1)
    order = lengths[:, None] - 1 - np.arange(steps)
    looks = np.take_along_axis(chain, np.maximum(order, 0), 1)
    result = inputs[looks]
    result[order < 0] = 0.0
    result[order < 0, -1] = PADDING
    return result
