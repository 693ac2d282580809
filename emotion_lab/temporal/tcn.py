"""Temporal convolutional network without residuals (Bai et al. 2018, arXiv:1803.01271)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_lab.temporal.base import TEMPORAL, Arrays, TemporalModel

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Steps that one convolution sees.
KERNEL = 3


@TEMPORAL.register("tcn")
class Tcn(TemporalModel):
    """Causal convolutions of ``hidden`` channels with the dilations 1, 2, 4, ...

    With ``layers`` of them a feature depends on the last ``2 ** (layers + 1) - 1`` steps.
    """

    @staticmethod
    def network(cfg: dict[str, Any], num_inputs: int) -> nn.Module:
        """Build a sequence of padding, convolution and ReLU for each layer."""
        from torch import nn

        layers: list[nn.Module] = []
        for i in range(cfg["layers"]):
            dilation, inputs = 2**i, cfg["hidden"] if i else num_inputs
            layers += [
                nn.ConstantPad1d(((KERNEL - 1) * dilation, 0), 0.0),
                nn.Conv1d(inputs, cfg["hidden"], KERNEL, dilation=dilation),
                nn.ReLU(),
            ]
        return nn.Sequential(*layers)

    @staticmethod
    def run(network: nn.Module, inputs: Tensor) -> Tensor:
        """Return the outputs of the last layer (B, T, hidden)."""
        return network(inputs.transpose(1, 2)).transpose(1, 2)

    def __init__(self, weights: Arrays) -> None:
        super().__init__(weights)
        names = sorted((n for n in weights if n.endswith(".weight")), key=lambda n: int(n[:-7]))
        # (hidden, inputs, KERNEL) as a matrix over the inputs of KERNEL steps, the oldest first.
        self._layers = [
            (weights[n].transpose(0, 2, 1).reshape(len(weights[n]), -1), weights[f"{n[:-7]}.bias"])
            for n in names
        ]

    def start(self) -> Arrays:
        """Return past inputs 0 of every layer, (steps, inputs) each, the oldest first."""
        return {
            str(i): np.zeros(((KERNEL - 1) * 2**i, matrix.shape[1] // KERNEL), np.float32)
            for i, (matrix, _) in enumerate(self._layers)
        }

    def step(self, state: Arrays, inputs: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """Return the output of the last layer (hidden,)."""
        x, new = inputs, {}
        for i, (matrix, bias) in enumerate(self._layers):
            past = np.concatenate([state[str(i)], x[None]])
            new[str(i)] = past[1:]
            x = np.maximum(matrix @ past[:: 2**i].reshape(-1) + bias, 0)
        return x, new
