"""Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_lab.temporal.base import TEMPORAL, Arrays, TemporalModel, sigmoid

if TYPE_CHECKING:
    from torch import Tensor, nn


@TEMPORAL.register("gru")
class Gru(TemporalModel):
    """One layer of ``hidden`` gated recurrent units."""

    @staticmethod
    def network(cfg: dict[str, Any], num_inputs: int) -> nn.Module:
        """Build ``torch.nn.GRU``."""
        from torch import nn

        return nn.GRU(num_inputs, cfg["hidden"], batch_first=True)

    @staticmethod
    def run(network: nn.Module, inputs: Tensor) -> Tensor:
        """Return the hidden states (B, T, hidden)."""
        return network(inputs)[0]

    def start(self) -> Arrays:
        """Return the hidden state 0."""
        return {"h": np.zeros(self.weights["weight_hh_l0"].shape[1], np.float32)}

    def step(self, state: Arrays, inputs: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """Return the next hidden state (hidden,), which is also the output."""
        w, h = self.weights, state["h"]
        of_input = w["weight_ih_l0"] @ inputs + w["bias_ih_l0"]
        of_state = w["weight_hh_l0"] @ h + w["bias_hh_l0"]
        n = len(h)
        gates = sigmoid(of_input[: 2 * n] + of_state[: 2 * n])
        reset, keep = gates[:n], gates[n:]
        new = np.tanh(of_input[2 * n :] + reset * of_state[2 * n :])
        h = new + keep * (h - new)
        return h, {"h": h}
