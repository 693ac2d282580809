"""Pretrained weights from a file or a URL; every tensor is checked before any is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import pickle
import pickletools
import re
import tempfile
import urllib.error
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from emotion_lab.core import weights
from emotion_lab.core.checkpoint import CARD
from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash
from emotion_lab.core.labels import normalize
from emotion_lab.core.paths import find_checkpoint
from emotion_lab.core.timeout import open_url

if TYPE_CHECKING:
    from emotion_lab.models.base import Backbone

#: Prefix of the network in checkpoints of this package.
CHECKPOINT_PREFIX = "model.backbone.net."
#: Prefixes that other programs put before the names of the network.
PREFIXES = ("_orig_mod.", "module.", "model.", "backbone.", "net.")
POSITION_EMBEDDINGS = ("pos_embed", "encoder.pos_embedding")
# DenseNet files of 2017 use norm.1 for the module norm1.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)$")


def _references_code(path: Path) -> bool:
    """Return whether a pickle refers to functions or classes; the pickle is not executed."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"\x80" and any(
                op.name in ("GLOBAL", "STACK_GLOBAL", "INST")
                for op, _, _ in pickletools.genops(b"\x80" + file.read())
            )
    except Exception:  # damaged
        return False


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a weights file without executing code from it.

    Args:
        path: A ``.safetensors`` file, a file written by ``torch.save``, a run directory of train,
            or the name of a shipped model.
    """
    path = weights.find(str(path), ".ckpt") if weights.is_name(path) else Path(path).expanduser()
    if path.is_dir():
        path = find_checkpoint(path)
    if not path.is_file():
        raise UserError(f"No weights file at {path}. Set model.weights=<file>.")
    corrupt = UserError(f"{path} is truncated or not a weights file. Download or save it again.")
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise UserError(f"Reading {path} needs: pip install safetensors") from error
        try:
            return load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise corrupt from error
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch raises one exception for both cases; only a refused name mentions GLOBAL.
        if "GLOBAL" in str(error) or _references_code(path):
            raise UserError(
                f"{path} holds Python objects that could run code; it was refused, nothing was "
                "run. Save a plain state_dict: torch.save(model.state_dict(), file)."
            ) from error
        raise corrupt from error
    except Exception as error:  # corrupt bytes make the unpickler raise arbitrary exceptions
        raise corrupt from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}, not a state_dict.")
    return data


def _tensors(data: dict[Any, Any]) -> dict[str, Tensor]:
    return {k: v for k, v in data.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _state_dict(data: dict[str, Any], names: set[str], path: object) -> dict[str, Tensor]:
    """Return the tensors of the network in a file, with the prefixes removed.

    ``names`` are those in the state_dict of the network.
    """
    if CARD in data and isinstance(data.get("state_dict"), dict):
        # A checkpoint of this package also contains the state of metrics and loss.
        tensors = _tensors(data["state_dict"])
        tensors = {key.replace("_orig_mod.", ""): value for key, value in tensors.items()}
        state = {
            key.removeprefix(CHECKPOINT_PREFIX): value
            for key, value in tensors.items()
            if key.startswith(CHECKPOINT_PREFIX)
        }
    else:
        candidates = [data.get(key) for key in ("state_dict", "model_state_dict", "model")]
        state = _tensors(next((c for c in candidates if isinstance(c, dict)), data))
        # Stop as soon as names match: "net." may be part of a name in the network.
        while not names & state.keys():
            prefix = next((p for p in PREFIXES if any(k.startswith(p) for k in state)), None)
            if prefix is None:
                break
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    if not state:
        raise UserError(f"{path} holds no tensors of a network.")
    return {_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}


def _resize_positions(net: nn.Module, source: Tensor, target: Tensor) -> Tensor | None:
    """Resample position embeddings (1, N, D) to the grid of ``target``; None if impossible."""
    prefix = 0 if getattr(net, "no_embed_class", False) else getattr(net, "num_prefix_tokens", 1)
    old, new = ((t.shape[1] - prefix) ** 0.5 if t.ndim == 3 else 0.5 for t in (source, target))
    if old % 1 or new % 1 or source.shape[2] != target.shape[2]:
        return None
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(source, [int(new)] * 2, num_prefix_tokens=prefix)


def first_conv(net: nn.Module) -> str | None:
    """Return the name of the first convolution, or None."""
    return next((n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)), None)


def _adapt_to_input(
    backbone: Backbone, state: dict[str, Tensor], target: dict[str, Tensor]
) -> list[str]:
    """Adapt first convolution and position embeddings in ``state`` to the state_dict ``target``.

    ``state`` is changed in place.

    Returns:
        One note for each adapted tensor.
    """
    notes = []
    conv = f"{first_conv(backbone.net)}.weight"
    if conv in target and conv in state and target[conv].shape[1] == 1:
        weight = state[conv]
        if weight.shape == (target[conv].shape[0], 3, *target[conv].shape[2:]):
            # Same output as the colour network for a grey image repeated to RGB.
            state[conv] = weight.sum(1, keepdim=True)
            notes.append(f"{conv} summed over RGB for grey input")
    for name in POSITION_EMBEDDINGS:
        if name in target and name in state and state[name].shape != target[name].shape:
            resized = _resize_positions(backbone.net, state[name], target[name])
            if resized is not None:
                notes.append(f"{name} resized {state[name].shape[1]} -> {target[name].shape[1]}")
                state[name] = resized
    return notes


def _summarize(names: list[str], kind: str) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{kind} {', '.join(names[:3])}{more}"]


def _match_classes(
    state: dict[str, Tensor], head: set[str], saved: Sequence[str], classes: Sequence[str]
) -> list[str]:
    """Bring the classifier in ``state`` into the order of ``classes``.

    It is removed if a class is new and the shapes would not tell. ``state`` is changed in place.

    Args:
        state: Tensors of a checkpoint.
        head: Names of the tensors of the head.
        saved: Class names of the checkpoint, in the order of its logits.
        classes: Class names of the network.

    Returns:
        A note if the classifier was changed.
    """
    old, new = ([normalize(name) for name in names] for names in (saved, classes))
    missing = [name for name in new if name not in old]
    if old == new or (missing and len(old) != len(new)):
        return []
    for name in head & state.keys():
        # A classifier can have hidden layers.
        if len(state[name].shape) and len(state[name]) == len(old):
            weight = state.pop(name)
            if not missing:
                state[name] = weight[[old.index(other) for other in new]]
    if missing:
        return [f"no weights for {', '.join(missing)}, so the classifier is new"]
    return [f"classifier of {len(new)} of {len(old)} classes, matched by name"]


def load_local(backbone: Backbone, path: str | Path, classes: Sequence[str] | None = None) -> str:
    """Load weights from a file into ``backbone``; all or none are loaded.

    The file may hold a state_dict, a state_dict under ``state_dict``, ``model_state_dict`` or
    ``model``, or be a checkpoint of this package. Only the classifier head may be missing or
    have another shape; it then keeps its initial weights. For grey input the first convolution
    is summed over RGB. Position embeddings of a transformer are resampled to the grid
    (Dosovitskiy et al. 2021, section 3.2). The classifier of a checkpoint of this package is
    matched by class name if ``classes``, those of the network, are given.

    Returns:
        One line with the number of loaded tensors and the names of new ones.
    """
    target = backbone.net.state_dict()
    data = read_file(path)
    state = _state_dict(data, set(target), path)
    notes = _adapt_to_input(backbone, state, target)
    head = {name for name in target if backbone.stage_index(name) == len(backbone.stages)}
    saved = (data.get(CARD) or {}).get("classes")
    if saved and classes is not None:
        notes += _match_classes(state, head, saved, classes)

    missing, wrong, new, load = [], [], [], {}
    for name, tensor in target.items():
        if name not in state:
            # Old files lack num_batches_tracked, which a momentum average does not use.
            if name in head:
                new.append(name)
            elif not name.endswith("num_batches_tracked"):
                missing.append(name)
        elif state[name].shape == tensor.shape:
            load[name] = state[name]
        elif name in head:
            # The number of classes is shown for the weight only, not for the bias.
            old_classes, classes = state[name].shape[0], tensor.shape[0]
            new.append(f"{name} ({old_classes} -> {classes} classes)" if tensor.ndim > 1 else name)
        else:
            wrong.append(f"{name} {tuple(state[name].shape)} (not {tuple(tensor.shape)})")
    unexpected = [name for name in state if name not in target]
    problems = [
        *_summarize(missing, "missing"),
        *_summarize(unexpected, "unexpected"),
        *_summarize(wrong, "wrong shape"),
    ]
    if problems:
        raise UserError(f"{path} holds weights of another network: {'; '.join(problems)}.")
    backbone.net.load_state_dict(load, strict=False)
    report = f"loaded {len(load)} of {len(target)} tensors from {Path(path).name}"
    return "; ".join([report, *notes, *([f"new: {', '.join(new)}"] if new else [])])


def unreachable_error(url: str, name: str) -> UserError:
    """Return the error for weights at ``url`` that cannot be downloaded."""
    host = urllib.parse.urlsplit(url).netloc
    return UserError(
        f"Cannot reach {host} for the ImageNet weights of {name}. Download {url} elsewhere and set "
        "model.weights=<file>, or set model.pretrained=false."
    )


def check_reachable(url: str, name: str) -> None:
    """Raise :func:`unreachable_error` unless the host answers within seconds."""
    # After an HTTP error the host is reachable; the hub uses several file names for weights.
    with _network_access(url, name), contextlib.suppress(urllib.error.HTTPError):
        open_url(url).close()


@contextlib.contextmanager
def _network_access(url: str, name: str) -> Iterator[None]:
    """Convert connection errors to :func:`unreachable_error`."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise unreachable_error(url, name) from error


def fetch(url: str, sha256: str | None, name: str) -> Path:
    """Return a verified local copy of ``url`` in torch's hub folder; download it if missing.

    Args:
        url: Address of the weights.
        sha256: Full hash or its first digits; None uses the digits in the file name, as in
            torchvision.
        name: The model, for error messages.
    """
    file_name = PurePosixPath(urllib.parse.urlsplit(url).path).name
    if sha256 is None:
        match = re.search(r"-([0-9a-f]{8,64})\.", file_name)
        sha256 = match.group(1) if match else ""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    target = folder / file_name
    if target.is_file() and file_hash(target).startswith(sha256.lower()):
        return target
    # Connect before creating the folder.
    with _network_access(url, name):
        response = open_url(url)
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Renamed after verification, so that a partial download is never used.
        with (
            response,
            tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file,
        ):
            temporary = Path(file.name)
            with _network_access(url, name):
                content = response.read()
            file.write(content)
        digest = hashlib.sha256(content).hexdigest()
        if not digest.startswith(sha256.lower()):
            raise UserError(
                f"{url} did not send the file expected (sha256 {digest[:16]}, "
                f"expected {sha256}). Try again, or download it elsewhere and set "
                "model.weights=<file>."
            )
        temporary.replace(target)
    except OSError as error:
        raise UserError(
            f"Cannot write the weights of {name} to {folder}: {error.strerror}. "
            "Set TORCH_HOME to a folder with room."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return target
