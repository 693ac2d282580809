"""Optional dependencies: the packages of each extra, and what a command cannot run without."""

from __future__ import annotations

import importlib.util

from emotion_lab.core.errors import UserError

#: Extra of ``pyproject.toml`` -> import names of its packages.
PACKAGES = {
    "train": (
        *("torch", "torchvision", "lightning", "timm", "torchmetrics", "jinja2"),
        *("albumentations", "captum", "cleanlab", "tensorboard", "wandb", "optuna"),
        *("kagglehub", "matplotlib", "scipy"),
    ),
    "deploy": ("onnx", "onnxscript", "openvino", "nncf"),
    "scale": ("webdataset", "boto3", "pyarrow", "ray"),
}
#: Commands that run with the base installation.
BASE_COMMANDS = ("live", "predict")
#: What all other commands import; further packages are imported when an option needs them.
_CORE = PACKAGES["train"][:6]
_FURTHER = {"sweep": ("optuna",), "shard": ("webdataset",)}


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def require(package: str, reason: str) -> None:
    """Raise a one-line error if a package is missing that an option needs.

    Args:
        reason: The option, for instance ``format=parquet``.
    """
    if not _is_installed(package):
        raise UserError(f"{reason} needs {package}, which is not installed: {_install([package])}")


def _install(packages: list[str]) -> str:
    extras = [extra for extra, names in PACKAGES.items() if {*names} & {*packages}]
    return f'pip install "emotion_lab[{",".join(extras)}]"'


def check_installed(command: str) -> None:
    """Raise a one-line error if packages are missing that ``command`` cannot run without."""
    if command in BASE_COMMANDS:
        return
    needed = (*_CORE, *_FURTHER.get(command, ()))
    missing = [package for package in needed if not _is_installed(package)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{command} needs {', '.join(missing)}, which {verb} not installed: {_install(missing)}"
        )


def missing_package(error: ModuleNotFoundError) -> UserError | None:
    """Return the error for a user if the missing module belongs to an extra, else None."""
    package = (error.name or "").partition(".")[0]
    if not any(package in names for names in PACKAGES.values()):
        return None
    return UserError(f"this needs {package}, which is not installed: {_install([package])}")
