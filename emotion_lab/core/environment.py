"""Hardware and versions of this machine, and the choice of accelerator and precision.

Imports torch only inside the functions that need it.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from emotion_lab.core.errors import UserError

#: ``trainer.precision`` -> what Lightning's Trainer calls it.
LIGHTNING_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def _cpu_info(field: str) -> str:
    """Return the first value of a field of ``/proc/cpuinfo``, empty if missing."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    match = re.search(rf"^{field}\s*:(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def cpu_multiplies_bf16() -> bool:
    """Return whether the CPU has bfloat16 matrix instructions (AMX or AVX512-BF16)."""
    return bool({"amx_bf16", "avx512_bf16"} & set(_cpu_info("flags").split()))


def cpu_name() -> str:
    """Return the name of the processor."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_accelerator(wanted: str) -> str:
    """Return ``cuda``, ``mps`` or ``cpu`` for ``trainer.accelerator``."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if wanted == "gpu":
        wanted = "mps" if mps and not cuda else "cuda"
    if (wanted == "cuda" and not cuda) or (wanted == "mps" and not mps):
        raise UserError(f"no {wanted} device on this machine: use trainer=cpu or trainer=default.")
    return wanted


def choose_precision(wanted: str, accelerator: str) -> str:
    """Return Lightning's name for ``trainer.precision``; ``auto`` is bf16 where it is fast."""
    import torch

    if wanted == "fp16" and accelerator == "cpu":
        raise UserError("trainer.precision=fp16 needs a GPU: set bf16, fp32 or auto.")
    if wanted != "auto":
        return LIGHTNING_PRECISION[wanted]
    cuda = accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    fast = cuda or (accelerator == "cpu" and cpu_multiplies_bf16())
    return LIGHTNING_PRECISION["bf16" if fast else "fp32"]


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that numerical results depend on."""
    names = ("torch", "torchvision", "lightning", "timm", "torchmetrics", "albumentations", "numpy")
    installed = {"python": platform.python_version()}
    for name in ("emotion_lab", *names):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def hardware(accelerator: str) -> dict[str, Any]:
    """Return a description of the hardware, without the host name."""
    import torch

    description: dict[str, Any] = {
        "accelerator": accelerator,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16_instructions": cpu_multiplies_bf16(),
        "system": platform.system(),
    }
    if accelerator == "cuda":
        description["gpu"] = torch.cuda.get_device_name()
        description["gpus"] = torch.cuda.device_count()
    return description


def git_commit() -> str | None:
    """Return the git commit, with ``+dirty`` for uncommitted changes; None without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=10)

    try:
        head, changed = git("rev-parse", "HEAD").strip(), git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+dirty" if changed else "")
