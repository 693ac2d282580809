"""Run an exported file: ``load("senet.fp32.onnx")(face)``; of this program nothing else is needed.

Importing this needs numpy and OpenCV; opening a file needs its runtime (onnxruntime or openvino;
torch only for what torch exported). What the file says of itself is held against two hashes inside
it, so a file that was cut off, changed or relabelled by hand is noticed. The hashes keep no forger
out: whoever can write a file can seal it.
"""

from __future__ import annotations

import hashlib
import html
import importlib
import json
import logging
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.data.transforms import Resize
from emotion_lab.inference import openvino_core

#: Name of the entry that holds what a file says of itself.
ENTRY = "emotion_lab"
#: Raised when its meaning changes; readers refuse what they do not know.
FORMAT = 1
#: Inside the zip files that torch writes.
EXTRA = f"extra/{ENTRY}.json"
#: Name of the tensor between bringing faces to size and the network, in OpenVINO's files.
PIXELS = "pixels"
#: How OpenVINO's .xml carries it.
XML_ENTRY = re.compile(rb'<emotion_lab value="([^"]*)" ?/>')
#: Longest side of a face, and most faces, that a graph is given; torch wants a limit.
LARGEST = 1 << 14

Run = Callable[[np.ndarray], np.ndarray]


class InvalidImageError(UserError, ValueError):
    """What was given is no face."""


def metadata_digest(meta: dict[str, Any]) -> str:
    """Return the sha256 of what a file says of itself, its own ``seal`` left out."""
    rest = {key: value for key, value in meta.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def onnx_entry(text: str) -> bytes:
    """Return the entry as the end of an .onnx file: protobuf reads two messages in a row as one."""

    def field(tag: int, content: bytes) -> bytes:
        size, rest = b"", len(content)
        while rest > 127:
            size, rest = size + bytes([rest & 127 | 128]), rest >> 7
        return bytes([tag]) + size + bytes([rest]) + content

    # ModelProto.metadata_props, a key and a value.
    return field(0x72, field(0x0A, ENTRY.encode()) + field(0x12, text.encode()))


def graph_hash(path: Path, size: int | None = None) -> str:
    """Return the sha256 of a file without what it says of itself.

    Args:
        path: An exported file.
        size: Of ONNX only: where the graph ends; the rest is the entry. None takes all.
    """
    if path.suffix == ".onnx":
        return hashlib.sha256(path.read_bytes()[:size]).hexdigest()
    if path.suffix == ".xml":
        digest = hashlib.sha256(XML_ENTRY.sub(b"", path.read_bytes(), count=1))
        digest.update(path.with_suffix(".bin").read_bytes())
        return digest.hexdigest()
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(EXTRA):
                digest.update(f"{name}\0".encode() + archive.read(name))
    return digest.hexdigest()


def _xml_text(path: Path) -> str | None:
    found = XML_ENTRY.search(path.read_bytes())
    return html.unescape(found[1].decode()) if found else None


def _zip_text(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith(EXTRA)), None)
        return archive.read(name).decode() if name else None


def _lacks(path: Path, package: str, error: Exception) -> UserError:
    """Build the error for a runtime that is not installed."""
    reason = str(error).splitlines()[0]
    return UserError(
        f"{path} runs with {package}, which is not installed ({reason}): pip install {package}"
    )


def _need(path: Path, package: str, part: str) -> Any:
    """Import a runtime.

    Args:
        path: The file it is needed for.
        package: The runtime.
        part: What has to be in it: of a removed package an empty folder may be left.

    Raises:
        UserError: If it is not installed.
    """
    try:
        if package == "openvino":
            module = openvino_core.import_openvino()
        else:
            module = importlib.import_module(package)
        getattr(module, part)
        return module
    except (ImportError, AttributeError, OSError) as error:
        raise _lacks(path, package, error) from None


def _onnx(path: Path, threads: int | None) -> tuple[str | None, Callable[[dict], Run]]:
    ort = _need(path, "onnxruntime", "InferenceSession")
    # Its Windows builds report usage to Microsoft.
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Waiting threads would spin, and take the cores from whoever feeds it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads:
        options.intra_op_num_threads = threads
    session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map.get(ENTRY)
    return text, lambda meta: lambda faces: session.run(None, {"faces": faces})[0]


def _openvino(path: Path, threads: int | None) -> tuple[str | None, Callable[[dict], Run]]:
    _need(path, "openvino", "Core")
    if not path.with_suffix(".bin").is_file():
        raise UserError(f"{path} lacks {path.with_suffix('.bin').name}: keep the two together.")
    model = openvino_core.core().read_model(path)

    def start(meta: dict[str, Any]) -> Run:
        precision = meta["run_precision"]
        if precision == "bf16" and not openvino_core.computes_bf16():
            raise UserError(
                f"{path} computes in bfloat16, and this CPU has no instructions for it: "
                "export it with precision=fp16."
            )
        if precision != "bf16":
            return openvino_core.start(model, precision, threads)
        # Pixels would lose their last bits before the network sees them.
        resize, net = openvino_core.split(model, PIXELS)
        fit = openvino_core.start(resize, "fp32", threads)
        classify = openvino_core.start(net, precision, threads)
        return lambda faces: classify(fit(faces))

    return _xml_text(path), start


def _torch(path: Path, threads: int | None) -> tuple[str | None, Callable[[dict], Run]]:
    torch = _need(path, "torch", "export")
    text = _zip_text(path)
    script = path.suffix == ".torchscript"
    # Of a damaged file it writes its own tracebacks.
    logger = logging.getLogger("torch.export")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and stays
        logger.disabled = True
        try:
            model = torch.jit.load(path) if script else torch.export.load(path).module()
        finally:
            logger.disabled = False
    if threads:  # for the whole process; torch knows no other way
        torch.set_num_threads(threads)

    def run(faces: np.ndarray) -> np.ndarray:
        # It warns of arrays that cannot be written to.
        given = torch.from_numpy(np.require(faces, requirements="W"))
        with torch.inference_mode():
            return model(given).numpy()

    return text, lambda meta: run


#: By suffix: opens (file, threads); gives the entry's text and what starts it.
_OPEN: dict[str, Callable[[Path, int | None], tuple[str | None, Callable[[dict], Run]]]] = {
    ".onnx": _onnx,
    ".xml": _openvino,
    ".torchscript": _torch,
    ".pt2": _torch,
}


def _checked(path: Path, text: str | None) -> dict[str, Any]:
    """Return what a file says of itself, once it holds against the hashes.

    Raises:
        UserError: If it is missing, of a newer version, or something was changed.
    """
    if text is None:
        raise UserError(f"{path} holds no metadata of emotion_lab: export it again.")
    changed = UserError(f"{path}: its metadata was changed after the export. Export it again.")
    try:
        meta = json.loads(text)
        if "logits" in meta and "seal" not in meta:
            raise UserError(
                f"{path} is what backend=... keeps beside a checkpoint, no exported file: give the "
                "checkpoint, or export it."
            )
        version, whole = meta["version"], meta["seal"] == metadata_digest(meta)
    except (ValueError, KeyError, TypeError):
        raise changed from None
    if version != FORMAT:
        raise UserError(f"{path} has version {version}, this one reads {FORMAT}: upgrade.")
    if not whole:
        raise changed
    size = meta.get("graph_bytes")
    longer = path.suffix == ".onnx" and path.read_bytes()[size:] != onnx_entry(text)
    if longer or graph_hash(path, size) != meta["graph_sha256"]:
        raise UserError(f"{path}: its graph was changed after the export. Export it again.")
    return meta


class Model:
    """An exported network. Made by :func:`load`; one caller at a time.

    Attributes:
        meta: What the file says of itself.
        classes: Class names, in the order of the probabilities.
        crop_margin: Share of a detected box to add on every side before the face is cut out.
    """

    def __init__(self, meta: dict[str, Any], run: Run) -> None:
        self.meta, self._run = meta, run
        self.classes: list[str] = list(meta["classes"])
        self.crop_margin = float(meta["crop_margin"])
        self._fit = Resize(meta["input"]["image_size"], 3)
        self._batch = meta["batch"]

    def run(self, faces: np.ndarray) -> np.ndarray:
        """Run the graph itself on RGB faces of one size.

        Args:
            faces: uint8 (B, H, W, 3), B, H and W of 1 or more.

        Returns:
            Probabilities, float32 (B, K).

        Raises:
            BadImage: If they are anything else.
        """
        good = isinstance(faces, np.ndarray) and faces.dtype == np.uint8 and faces.ndim == 4
        if not good or faces.shape[3] != 3 or not faces.size:
            raise InvalidImageError(f"expected faces as uint8 (B, H, W, 3) RGB, got {_what(faces)}")
        sides = faces.shape[1:3]
        if min(sides) < 2 or max(sides) > LARGEST:  # what torch exports keeps open from 2 on
            faces = np.stack([self._fit(self._grey(face)) for face in faces])
        count, fixed = len(faces), self._batch
        step = LARGEST if fixed == "dynamic" else fixed
        if fixed != "dynamic":
            faces = np.concatenate([faces, faces[-1:].repeat(-count % fixed, axis=0)])
        parts = np.split(np.ascontiguousarray(faces), range(step, len(faces), step))
        return np.concatenate([self._run(part) for part in parts])[:count]

    def __call__(self, faces: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Classify a face, or several at once.

        Args:
            faces: A face of any size, uint8 (h, w, 3) RGB, (h, w, 1) or (h, w) grey; or a list of
                such, or an array (N, h, w, C). OpenCV's colour order is BGR: turn it round first.

        Returns:
            Probabilities, float32 (K,) of one face, (N, K) of several.

        Raises:
            BadImage: If an image is empty or of another shape or type.
        """
        if isinstance(faces, np.ndarray) and faces.ndim in (2, 3):
            return self.run(_rgb(faces)[None])[0]
        if isinstance(faces, (str, bytes)) or not isinstance(faces, (np.ndarray, Sequence)):
            raise InvalidImageError(f"expected a face as uint8 (h, w, 3) RGB, got {_what(faces)}")
        several = [_rgb(face) for face in faces]
        if not several:
            return np.zeros((0, len(self.classes)), np.float32)
        if len({face.shape for face in several}) > 1:
            # The graph would do the same, but takes one size at a time.
            several = [self._fit(self._grey(face)) for face in several]
        return self.run(np.stack(several))

    def _grey(self, face: np.ndarray) -> np.ndarray:
        """Take the colour out before the size changes, as in training."""
        if self.meta["input"]["channels"] == 3:
            return face
        return cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[:, :, None]


def _what(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


def _rgb(face: Any) -> np.ndarray:
    """Return a face as uint8 (h, w, 3).

    Raises:
        BadImage: If it is none.
    """
    if isinstance(face, np.ndarray) and face.dtype == np.uint8 and face.size:
        if face.ndim == 2:
            face = face[:, :, None]
        if face.ndim == 3 and face.shape[2] in (1, 3):
            return face if face.shape[2] == 3 else face.repeat(3, axis=2)
    raise InvalidImageError(
        f"expected a face as uint8 (h, w, 3) RGB or (h, w, 1) grey, got {_what(face)}"
    )


def load(path: str | Path, threads: int | None = None) -> Model:
    """Open an exported file.

    Args:
        path: What ``python -m emotion_lab.export`` wrote: .onnx, .xml (with its .bin beside it),
            .torchscript or .pt2.
        threads: CPU threads of one call, 1 or more; None leaves it to the runtime.

    Raises:
        UserError: If it is missing, damaged, changed or not ours, or its runtime is not installed.
    """
    path = Path(path)
    if threads is not None and (type(threads) is not int or threads < 1):
        raise UserError(f"threads={threads!r} is not valid: expected a whole number above 0.")
    if not path.is_file():
        raise UserError(f"no such file: {path}.")
    if path.suffix not in _OPEN:
        raise UserError(f"{path} is no exported file: expected {', '.join(_OPEN)}.")
    try:
        text, start = _OPEN[path.suffix](path, threads)
        return Model(_checked(path, text), start(json.loads(text or "")))
    except UserError:
        raise
    except Exception as error:  # each runtime has errors of its own for a damaged file
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path} is truncated or damaged ({reason}). Export it again.") from None


def main() -> None:
    """``python -m emotion_lab.inference.loader <exported file> <picture of a face> ...``."""
    try:
        if len(sys.argv) < 3:
            raise UserError(
                "python -m emotion_lab.inference.loader <exported file> <picture of a face> ..."
            )
        model = load(sys.argv[1])
        for name in sys.argv[2:]:
            picture = cv2.imread(name)
            if picture is None:
                raise UserError(f"{name} is missing or no picture.")
            shares = model(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
            print(f"{name} {model.classes[int(shares.argmax())]} {shares.max():.3f}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
