"""Windows over the looks of a track, for temporal models."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.data.samplers import BatchKeys
from emotion_lab.data.torch_dataset import Batch, SplitDataset
from emotion_lab.data.transforms import Resize
from emotion_lab.data.types import Split
from emotion_lab.temporal.steps import log_ratio, step_inputs, windows


class FrameNetwork(Protocol):
    """The network of single images whose outputs a temporal model reads."""

    classes: list[str]

    def __call__(self, split: Split) -> np.ndarray:
        """Return the probabilities of the images of a split, float32 (N, K)."""


class WindowDataset(SplitDataset):
    """For each look of a split, the steps of its track up to it; the target is its label.

    Args:
        split: Images of clips.
        resize: Input of the frame network.
        frame: The frame network.
        step_s: See :mod:`emotion_lab.temporal.steps`.
        steps: Length of a window.
    """

    def __init__(
        self, split: Split, resize: Resize, frame: FrameNetwork, step_s: float, steps: int
    ) -> None:
        super().__init__(split, resize)
        if split.looks is None:
            raise UserError(
                "a temporal model learns from clips, and this data has single images: set "
                "data=clips data.path=<folder>, or data=synthetic_clips."
            )
        self._steps, looks = steps, split.looks
        log_ratios = log_ratio(frame(split))
        self._inputs, self._previous = step_inputs(log_ratios, looks.tracks, looks.times, step_s)

    def __getitems__(self, keys: BatchKeys) -> Batch:
        """Return the batch of (epoch, position) ``keys``; its images are float32 (B, T, K + 1)."""
        positions = np.asarray([position for _, position in keys], dtype=np.int64)
        inputs = windows(self._inputs, self._previous, positions, self._steps)
        tensor = torch.from_numpy(np.ascontiguousarray(inputs))
        return self.batch(tensor, positions, keys[0][0])
