"""Interface and registry of the inference backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_lab.core.errors import UserError, first_line
from emotion_lab.core.input_spec import InputSpec
from emotion_lab.core.registry import Registry

if TYPE_CHECKING:
    from emotion_lab.models.network import Network


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint to run.

    Attributes:
        path: The file.
        sha256: Of the file, hex.
        spec: The network's input.
        temperature: Logits are divided by it before the softmax.
        card: What running it needs: ``classes``, ``temperature``, ``input``, the learned
            ``quantities`` and the name of the data, ``config.data.name``.
    """

    path: Path
    sha256: str
    spec: InputSpec
    temperature: float
    card: dict[str, Any] = field(repr=False, compare=False)

    def restore(self) -> tuple[Network, dict[str, Any]]:
        """Build the network in eval mode, float32, on the CPU, which takes seconds.

        Returns:
            The network, whose outputs are the logits and the learned quantities, and the
            checkpoint's whole card.
        """
        from emotion_lab.models.load import restore  # imports torch
        from emotion_lab.models.quantities_head import join

        net, card = restore(self.path)
        return join(net), card


@dataclass
class InferenceBackend:
    """A network that is ready to run.

    Attributes:
        name: Program, version, precision and device.
        run: Maps uint8 (B, C, S, S), B of 1 or more, to float32 (B, K + Q): logits and the Q
            ``quantities`` of the card. Not thread-safe.
        notes: How it was chosen, converted and verified.
    """

    name: str
    run: Callable[[np.ndarray], np.ndarray]
    notes: list[str] = field(default_factory=list)


class BackendUnavailableError(UserError):
    """This backend cannot run this checkpoint here; ``backend=auto`` tries the next one."""


#: Name -> function of (conf/backend/<name>.yaml as a plain dict, checkpoint) that builds it. It
#: raises BackendUnavailableError if a package is missing or an option is not supported here.
BACKENDS: Registry[Callable[[dict[str, Any], ModelSource], InferenceBackend]] = Registry(
    "backend", "emotion_lab.inference.backends"
)

#: Values of conf/backend/base.yaml.
DEFAULTS: dict[str, Any] = {"precision": "auto", "device": "auto", "threads": None}


def input_spec(values: dict[str, Any]) -> InputSpec:
    """Build the input from a card's or an exported file's ``input``."""
    mean, std = (tuple(float(value) for value in values[key]) for key in ("mean", "std"))
    return InputSpec(int(values["image_size"]), int(values["channels"]), mean, std)


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(logits / temperature) over the classes, (N, K), in the dtype of the logits.

    scipy is not among the packages that prediction needs.
    """
    logits = logits / logits.dtype.type(temperature)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def supported_option(cfg: dict[str, Any], key: str, *supported: str) -> str:
    """Return ``cfg[key]``; raise BackendUnavailableError unless it is ``auto`` or supported."""
    value = cfg[key]
    if value not in ("auto", *supported):
        raise BackendUnavailableError(
            f"backend.{key}={value} is not for backend={cfg['name']}: "
            f"set backend.{key}={' or '.join(('auto', *supported))}."
        )
    return value


def not_installed(name: str, packages: str, error: ImportError) -> BackendUnavailableError:
    """Build the error for a backend whose packages are missing."""
    return BackendUnavailableError(
        f"backend={name} is not installed ({first_line(error)}): pip install {packages}"
    )
