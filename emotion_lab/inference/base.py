"""What a runtime is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.registry import Registry
from emotion_lab.models.base import EmotionNet, InputSpec
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.load import restore


@dataclass(frozen=True)
class ModelSource:
    """The checkpoint that is to run.

    Attributes:
        path: The file.
        sha256: Of the file, hex.
        spec: The network's input.
        temperature: Logits are divided by it before the softmax.
    """

    path: Path
    sha256: str
    spec: InputSpec
    temperature: float

    def net(self) -> EmotionNet | Ensemble:
        """Build the network itself: eval mode, float32, on the CPU. Slow, so only when needed."""
        return restore(self.path)[0]


@dataclass
class InferenceBackend:
    """A network that is ready to run.

    Attributes:
        name: For people: program, version, precision.
        run: Maps uint8 (B, C, S, S), any B of 1 or more, to float32 logits (B, K). One caller at
            a time.
        notes: How it came to be, in words.
    """

    name: str
    run: Callable[[np.ndarray], np.ndarray]
    notes: list[str] = field(default_factory=list)


class BackendUnavailableError(UserError):
    """This runtime cannot serve this checkpoint here; ``backend=auto`` tries the next one."""


#: Name -> (conf/backend/<name>.yaml as a plain dict, checkpoint) -> runtime.
RUNTIMES: Registry[Callable[[dict[str, Any], ModelSource], InferenceBackend]] = Registry(
    "backend", "emotion_lab.inference"
)

#: What conf/backend/base.yaml says.
DEFAULTS: dict[str, Any] = {"precision": "auto", "device": "auto", "threads": None}
#: What may stand there, for one runtime or another.
WORDS = {"precision": ("auto", "fp32", "bf16"), "device": ("auto", "cpu", "cuda")}


def choice(cfg: dict[str, Any], key: str, *able: str) -> str:
    """Return ``cfg[key]``, which must be ``auto`` or one of what this runtime is able to do.

    Raises:
        Unusable: If it is something that only another runtime can do.
    """
    value = cfg[key]
    if value not in ("auto", *able):
        raise BackendUnavailableError(
            f"backend.{key}={value} is not for backend={cfg['name']}: "
            f"set backend.{key}={' or '.join(('auto', *able))}."
        )
    return value


def missing(name: str, packages: str, error: ImportError) -> BackendUnavailableError:
    """Build the error for a runtime whose packages are not installed."""
    reason = str(error).splitlines()[0]
    return BackendUnavailableError(
        f"backend={name} is not installed ({reason}): pip install {packages}"
    )
