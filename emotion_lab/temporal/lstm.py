"""Long short-term memory (Hochreiter, Schmidhuber 1997; forget gate of Gers et al. 2000)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_lab.temporal.base import TEMPORAL, Arrays, TemporalModel, sigmoid

if TYPE_CHECKING:
    from torch import Tensor, nn


@TEMPORAL.register("lstm")
class Lstm(TemporalModel):
    """One layer of ``hidden`` cells."""

    @staticmethod
    def network(cfg: dict[str, Any], num_inputs: int) -> nn.Module:
        """Build ``torch.nn.LSTM``."""
        from torch import nn

        return nn.LSTM(num_inputs, cfg["hidden"], batch_first=True)

    @staticmethod
    def run(network: nn.Module, inputs: Tensor) -> Tensor:
        """Return the hidden states (B, T, hidden)."""
        return network(inputs)[0]

    def start(self) -> Arrays:
        """Return hidden and cell state 0."""
        zeros = np.zeros(self.weights["weight_hh_l0"].shape[1], np.float32)
        return {"h": zeros, "c": zeros}

    def step(self, state: Arrays, inputs: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """Return the next hidden state (hidden,), which is also the output."""
        w, n = self.weights, len(state["h"])
        x = w["weight_ih_l0"] @ inputs + w["bias_ih_l0"]
        x += w["weight_hh_l0"] @ state["h"] + w["bias_hh_l0"]
        gates, new = sigmoid(x), np.tanh(x[2 * n : 3 * n])
        cell = gates[n : 2 * n] * state["c"] + gates[:n] * new
        h = gates[3 * n :] * np.tanh(cell)
        return h, {"h": h, "c": cell}
