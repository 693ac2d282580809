"""Weights from a file or the web: checked tensor by tensor, never half loaded."""

from __future__ import annotations

import hashlib
import http.client
import os
import pickle
import pickletools
import re
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import file_hash

if TYPE_CHECKING:
    from emotion_lab.models.base import Backbone

TIMEOUT_S = 10  # of one read or connect
DEADLINE_S = 15  # of reaching the host: a name look-up keeps no timeout of its own
OWN_PREFIX = "model.backbone.net."
PREFIXES = ("_orig_mod.", "module.", "model.", "backbone.", "net.")
POSITIONS = ("pos_embed", "encoder.pos_embedding")
# DenseNet files of 2017 write norm.1 where the module is called norm1.
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..+)$")


def _names_code(path: Path) -> bool:
    """Say whether a bare pickle names functions or classes; it is only read, never unpickled."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"\x80" and any(
                op.name in ("GLOBAL", "STACK_GLOBAL", "INST")
                for op, _, _ in pickletools.genops(b"\x80" + file.read())
            )
    except Exception:  # damaged
        return False


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a weights file without running code from it.

    Args:
        path: A ``.safetensors`` file or anything ``torch.save`` wrote.

    Raises:
        UserError: If it is no file, damaged, or holds more than tensors and plain values.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"No weights file at {path}. Set model.weights=<file>.")
    broken = UserError(f"{path} is truncated or not a weights file. Fetch or save it again.")
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise UserError(f"Reading {path} needs: pip install safetensors") from error
        try:
            return load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise broken from error
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch has one exception for both cases; only a refused name mentions a GLOBAL.
        if "GLOBAL" in str(error) or _names_code(path):
            raise UserError(
                f"{path} holds Python objects that could run code; it was refused, nothing was "
                "run. Save a plain state_dict: torch.save(model.state_dict(), file)."
            ) from error
        raise broken from error
    # Damaged bytes can make the unpickler fail in any way it likes.
    except Exception as error:
        raise broken from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}, not a state_dict.")
    return data


def _tensors(data: dict[Any, Any]) -> dict[str, Tensor]:
    return {k: v for k, v in data.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _state_dict(data: dict[str, Any], own_names: set[str], path: object) -> dict[str, Tensor]:
    """Find the tensors of the network in a file and name them as the network does."""
    if "emotion_lab" in data and isinstance(data.get("state_dict"), dict):
        # A checkpoint of ours also holds metric and loss state, which is not the network's.
        state = {
            key.replace("_orig_mod.", "").removeprefix(OWN_PREFIX): value
            for key, value in data["state_dict"].items()
            if key.replace("_orig_mod.", "").startswith(OWN_PREFIX)
        }
        state = _tensors(state)
    else:
        state = data
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(data.get(key), dict):
                state = data[key]
                break
        state = _tensors(state)
        # Stop as soon as names match: "net." may be the network's own name for a part.
        while not own_names & state.keys():
            prefix = next((p for p in PREFIXES if any(k.startswith(p) for k in state)), None)
            if prefix is None:
                break
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    if not state:
        raise UserError(f"{path} holds no tensors of a network.")
    return {_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}


def _resize_positions(net: nn.Module, source: Tensor, target: Tensor) -> Tensor | None:
    """Resample position embeddings (1, N, D) to the target's grid; None where that cannot be."""
    prefix = 0 if getattr(net, "no_embed_class", False) else getattr(net, "num_prefix_tokens", 1)
    old, new = ((t.shape[1] - prefix) ** 0.5 if t.ndim == 3 else 0.5 for t in (source, target))
    if old % 1 or new % 1 or source.shape[2] != target.shape[2]:
        return None
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(source, [int(new)] * 2, num_prefix_tokens=prefix)


def first_conv(net: nn.Module) -> str | None:
    """Return the name of the convolution that sees the image, None where there is none."""
    return next((n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)), None)


def _adapt(backbone: Backbone, state: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Fit the first convolution and the position embeddings in ``state``; return what was done."""
    notes = []
    conv = f"{first_conv(backbone.net)}.weight"
    if conv in own and conv in state and own[conv].shape[1] == 1:
        weight = state[conv]
        if weight.shape == (own[conv].shape[0], 3, *own[conv].shape[2:]):
            # The same answer as the colour network gives on a grey image copied to RGB.
            state[conv] = weight.sum(1, keepdim=True)
            notes.append(f"{conv} summed over RGB for grey input")
    for name in POSITIONS:
        if name in own and name in state and state[name].shape != own[name].shape:
            resized = _resize_positions(backbone.net, state[name], own[name])
            if resized is not None:
                notes.append(f"{name} resized {state[name].shape[1]} -> {own[name].shape[1]}")
                state[name] = resized
    return notes


def _few(names: list[str], kind: str) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{kind} {', '.join(names[:3])}{more}"]


def load_local(backbone: Backbone, path: str | Path) -> str:
    """Load weights from a file into ``backbone``, strictly.

    The file may hold a plain state_dict, one under ``state_dict``, ``model_state_dict`` or
    ``model``, or be a checkpoint of ours. Only the classifier head may be absent or of another
    shape; it then keeps its fresh weights. The first convolution is summed over RGB for grey
    input, position embeddings of a transformer are resampled to the grid (Dosovitskiy et al.
    2021, section 3.2).

    Returns:
        One line that says what was loaded and what is new.

    Raises:
        UserError: If the file cannot be read or belongs to another network; nothing is loaded.
    """
    own = backbone.net.state_dict()
    state = _state_dict(read_file(path), set(own), path)
    notes = _adapt(backbone, state, own)
    head = {name for name in own if backbone.stage_of(name) == len(backbone.stages)}

    missing, wrong, new, load = [], [], [], {}
    for name, tensor in own.items():
        if name not in state:
            # Old files lack this counter, and a momentum average does not use it.
            if name in head:
                new.append(name)
            elif not name.endswith("num_batches_tracked"):
                missing.append(name)
        elif state[name].shape == tensor.shape:
            load[name] = state[name]
        elif name in head:
            # Only the first mismatch of a layer is worth its numbers.
            was, now = state[name].shape[0], tensor.shape[0]
            new.append(f"{name} ({was} -> {now} classes)" if tensor.ndim > 1 else name)
        else:
            wrong.append(f"{name} {tuple(state[name].shape)} (not {tuple(tensor.shape)})")
    unexpected = [name for name in state if name not in own]
    problems = [
        *_few(missing, "missing"),
        *_few(unexpected, "unexpected"),
        *_few(wrong, "wrong shape"),
    ]
    if problems:
        raise UserError(f"{path} holds weights of another network: {'; '.join(problems)}.")
    backbone.net.load_state_dict(load, strict=False)
    report = f"loaded {len(load)} of {len(own)} tensors from {Path(path).name}"
    return "; ".join([report, *notes, *([f"new: {', '.join(new)}"] if new else [])])


def open_url(url: str) -> http.client.HTTPResponse:
    """Open ``url`` or raise OSError within DEADLINE_S."""
    result: list[Any] = []

    def work() -> None:
        try:
            result.append(urllib.request.urlopen(url, timeout=TIMEOUT_S))
        except Exception as error:  # handed over to the waiting thread
            result.append(error)

    # A daemon: a name look-up that hangs must not hold the program up, not even at exit.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    if not result:
        raise TimeoutError(f"no answer in {DEADLINE_S} s")
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def unreachable(url: str, name: str) -> UserError:
    """Build the error for weights at ``url`` that cannot be fetched."""
    host = urllib.parse.urlsplit(url).netloc
    return UserError(
        f"Cannot reach {host} for the ImageNet weights of {name}. Fetch {url} elsewhere and set "
        "model.weights=<file>, or set model.pretrained=false."
    )


def check_reachable(url: str, name: str) -> None:
    """Raise the UserError of :func:`unreachable` unless the host answers, within seconds."""
    try:
        open_url(url).close()
    except urllib.error.HTTPError:
        return  # an answer too; the hub keeps weights under more than one file name
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(url, name) from error


def _read(response: http.client.HTTPResponse, url: str, name: str) -> bytes:
    try:
        return response.read(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(url, name) from error


def fetch(url: str, sha256: str | None, name: str) -> Path:
    """Return a verified local copy of ``url`` in torch's hub folder, downloading it if absent.

    Args:
        url: Address of the weights.
        sha256: Full hash or its first digits; None takes the eight that torchvision puts into
            its file names.
        name: The model, for the error message.

    Raises:
        UserError: If the host does not answer, what it sends has another hash, or the folder
            cannot be written.
    """
    file_name = os.path.basename(urllib.parse.urlsplit(url).path)
    if sha256 is None:
        match = re.search(r"-([0-9a-f]{8,64})\.", file_name)
        sha256 = match.group(1) if match else ""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    target = folder / file_name
    if target.is_file():
        if file_hash(target).startswith(sha256.lower()):
            return target
    # Connect first, so that nothing is left behind where there is no network.
    try:
        response = open_url(url)
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(url, name) from error
    digest = hashlib.sha256()
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Renamed only when whole and verified: a broken download is never taken for weights.
        with (
            response,
            tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file,
        ):
            temporary = Path(file.name)
            while block := _read(response, url, name):
                digest.update(block)
                file.write(block)
        if not digest.hexdigest().startswith(sha256.lower()):
            raise UserError(
                f"{url} did not send the file expected (sha256 {digest.hexdigest()[:16]}, "
                f"expected {sha256}). Try again, or fetch it elsewhere and set "
                "model.weights=<file>."
            )
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(
            f"Cannot write the weights of {name} to {folder}: {error.strerror}. "
            "Set TORCH_HOME to a folder with room."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return target
