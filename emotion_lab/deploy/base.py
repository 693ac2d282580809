"""What a runtime is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emotion_lab.errors import UserError
from emotion_lab.models.base import EmotionNet, InputSpec
from emotion_lab.models.ensemble import Ensemble
from emotion_lab.models.restore import restore
from emotion_lab.registry import Registry


@dataclass(frozen=True)
class Source:
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
class Runtime:
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


class Unusable(UserError):
    """This runtime cannot serve this checkpoint here; ``runtime=auto`` tries the next one."""


#: Name -> (conf/runtime/<name>.yaml as a plain dict, checkpoint) -> runtime.
RUNTIMES: Registry[Callable[[dict[str, Any], Source], Runtime]] = Registry(
    "runtime", "emotion_lab.deploy"
)

#: What conf/runtime/base.yaml says.
DEFAULTS: dict[str, Any] = {"precision": "auto", "device": "auto", "threads": None}
#: What may stand there, for one runtime or another.
WORDS = {"precision": ("auto", "f32", "bf16"), "device": ("auto", "cpu", "cuda")}


def choice(cfg: dict[str, Any], key: str, *able: str) -> str:
    """Return ``cfg[key]``, which must be ``auto`` or one of what this runtime is able to do.

    Raises:
        Unusable: If it is something that only another runtime can do.
    """
    value = cfg[key]
    if value not in ("auto", *able):
        raise Unusable(
            f"runtime.{key}={value} is not for runtime={cfg['name']}: "
            f"set runtime.{key}={' or '.join(('auto', *able))}."
        )
    return value


def missing(name: str, packages: str, error: ImportError) -> Unusable:
    """Build the error for a runtime whose packages are not installed."""
    reason = str(error).splitlines()[0]
    return Unusable(f"runtime={name} is not installed ({reason}): pip install {packages}")
