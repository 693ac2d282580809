"""Registry and interface of the temporal models. Imports no torch: ``live`` runs without it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_lab.core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Arrays by name: weights, and the state of a model between two steps.
Arrays = dict[str, np.ndarray]


class TemporalModel(ABC):
    """A causal model over the steps of one track, in torch for training and in numpy for live.

    Both forms give the same features. A linear layer maps them to logits.

    Args:
        weights: The ``state_dict`` of :meth:`network`, as float32 arrays.
    """

    def __init__(self, weights: Arrays) -> None:
        self.weights = weights

    @staticmethod
    @abstractmethod
    def network(cfg: dict[str, Any], num_inputs: int) -> nn.Module:
        """Build the network of ``conf/model/<name>.yaml``; its features have ``cfg['hidden']``."""

    @staticmethod
    @abstractmethod
    def run(network: nn.Module, inputs: Tensor) -> Tensor:
        """Return features (B, T, hidden) of inputs (B, T, num_inputs); none depends on the future.

        The state before the first step is zero.
        """

    @abstractmethod
    def start(self) -> Arrays:
        """Return the state before the first step."""

    @abstractmethod
    def step(self, state: Arrays, inputs: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """Return the features (hidden,) of one step, inputs (num_inputs,), and the new state.

        ``state`` is not changed.
        """


#: Name -> class, one for each ``conf/model/<name>.yaml`` of a temporal model.
TEMPORAL: Registry[type[TemporalModel]] = Registry("model", "emotion_lab.temporal")


def is_temporal(model: dict[str, Any]) -> bool:
    """Return whether a ``model`` group is that of a temporal model."""
    return str(model["name"]) in TEMPORAL.names()


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return the logistic function; it does not overflow."""
    return 0.5 * (np.tanh(0.5 * x) + 1)
