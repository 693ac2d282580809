"""Run an exported file: ``load("senet.fp32.onnx")(face)``.

Needs numpy, OpenCV and the file's runtime (onnxruntime or openvino; torch only for files of torch),
and nothing else of this package's dependencies.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError, first_line
from emotion_lab.core.io import print_any_name
from emotion_lab.core.threads import thread_limit
from emotion_lab.data.transforms import Resize
from emotion_lab.inference import openvino_core
from emotion_lab.inference.metadata import ENTRY, LARGEST, parse_metadata, xml_text, zip_text

#: Runs a graph; several outputs (B, ...) are returned side by side.
Run = Callable[[np.ndarray], np.ndarray]


class InvalidImageError(UserError, ValueError):
    """The input is not an image of a face."""


@dataclass(frozen=True)
class RunOptions:
    """How a graph runs.

    Attributes:
        threads: CPU threads of one call; None leaves the choice to the runtime.
        precision: Precision of the computation, for OpenVINO; None is the file's own.
        device: ``cpu``, or ``cuda`` for ONNX Runtime.
        openvino: Whether OpenVINO runs an .onnx or .xml file for faces that have the network's size
            already, and are grey for a grey network: nothing is resized in the graph.
    """

    threads: int | None = None
    precision: str | None = None
    device: str = "cpu"
    openvino: bool = False


def _import_runtime(path: Path, package: str, attribute: str) -> Any:
    """Import a runtime; a removed package may leave an empty folder without the attribute."""
    try:
        if package == "openvino":
            module = openvino_core.import_openvino()
        else:
            module = importlib.import_module(package)
        getattr(module, attribute)
        return module
    except (ImportError, AttributeError, OSError) as error:
        raise UserError(
            f"{path} runs with {package}, which is not installed ({first_line(error)}): pip "
            f"install {package}"
        ) from None


#: The metadata text of a file, and the function that starts its graph.
Opened = tuple[str | None, Callable[[dict[str, Any]], Run]]


def _open_onnx(path: Path, options: RunOptions) -> Opened:
    if options.openvino:
        return _open_openvino(path, options)
    ort = _import_runtime(path, "onnxruntime", "InferenceSession")
    # Its Windows builds report usage to Microsoft.
    ort.disable_telemetry_events()
    session_options = ort.SessionOptions()
    session_options.log_severity_level = 4
    # Idle threads would spin and occupy the cores that capture and detection need.
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session_options.intra_op_num_threads = options.threads or thread_limit() or 0  # 0: all cores
    provider: Any = "CPUExecutionProvider"
    if options.device == "cuda":
        # TensorFloat-32 has 10 significant bits, float32 has 23.
        provider = ("CUDAExecutionProvider", {"use_tf32": "0"})
    session = ort.InferenceSession(path.read_bytes(), session_options, providers=[provider])
    if options.device not in session.get_providers()[0].lower():
        raise RuntimeError("onnxruntime could not start its CUDAExecutionProvider")
    name = session.get_inputs()[0].name
    text = session.get_modelmeta().custom_metadata_map.get(ENTRY)
    return text, lambda meta: lambda images: _side_by_side(session.run(None, {name: images}))


def _side_by_side(outputs: Sequence[np.ndarray]) -> np.ndarray:
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, 1)


def _open_openvino(path: Path, options: RunOptions) -> Opened:
    _import_runtime(path, "openvino", "Core")
    is_onnx = path.suffix == ".onnx"
    if not (is_onnx or path.with_suffix(".bin").is_file()):
        raise UserError(f"{path} lacks {path.with_suffix('.bin').name}: keep both in one folder.")
    model = openvino_core.core().read_model(path)

    def start(meta: dict[str, Any]) -> Run:
        precision = options.precision or meta["run_precision"]
        if precision == "bf16" and not openvino_core.computes_bf16():
            raise UserError(
                f"{path} computes in bfloat16, and this CPU has no instructions for it: "
                "export it with precision=fp16."
            )
        if options.openvino:
            return _start_resized(model, meta, precision, options.threads)
        if precision != "bf16" or meta["input"]["layout"] != "NHWC":
            return openvino_core.start(model, precision, options.threads)
        # In bfloat16 the pixels would lose their last bits during resizing.
        preprocess, network = openvino_core.split(model, openvino_core.PIXELS)
        resize = openvino_core.start(preprocess, "fp32", options.threads)
        classify = openvino_core.start(network, precision, options.threads)
        return lambda faces: classify(resize(faces))

    if is_onnx:
        entry = ["framework", ENTRY]
        return model.get_rt_info(entry).value if model.has_rt_info(entry) else None, start
    return xml_text(path), start


def _start_resized(model: Any, meta: dict[str, Any], precision: str, threads: int | None) -> Run:
    """Start a graph for faces that have the network's size and colours already."""
    size, channels = meta["input"]["image_size"], meta["input"]["channels"]
    network = openvino_core.network_of(model)
    if network is None:  # of an earlier version: it resizes, but only to the same size
        batch = meta["batch"]
        model.reshape([-1 if batch == "dynamic" else batch, size, size, 3])
        return openvino_core.start(model, precision, threads)
    classify = openvino_core.start(network, precision, threads)

    def run(faces: np.ndarray) -> np.ndarray:
        return classify(np.ascontiguousarray(faces[..., :channels].transpose(0, 3, 1, 2)))

    return run


def _open_torch(path: Path, options: RunOptions) -> Opened:
    torch = _import_runtime(path, "torch", "export")
    text = zip_text(path)
    # It logs tracebacks about damaged files.
    logger = logging.getLogger("torch.export")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        logger.disabled = True
        try:
            script = path.suffix == ".torchscript"
            model = torch.jit.load(path) if script else torch.export.load(path).module()
        finally:
            logger.disabled = False
    if options.threads:  # for the process: torch has no threads per network
        torch.set_num_threads(options.threads)

    def run(faces: np.ndarray) -> np.ndarray:
        # torch warns about read-only arrays.
        batch = torch.from_numpy(np.require(faces, requirements="W"))
        with torch.inference_mode():
            outputs = model(batch)
            parts = outputs if isinstance(outputs, tuple) else (outputs,)
            return _side_by_side([part.numpy() for part in parts])

    return text, lambda meta: run


_OPENERS: dict[str, Callable[[Path, RunOptions], Opened]] = {
    ".onnx": _open_onnx,
    ".xml": _open_openvino,
    ".torchscript": _open_torch,
    ".pt2": _open_torch,
}


def open_graph(path: Path, options: RunOptions) -> tuple[dict[str, Any], Run]:
    """Verify a file and start its graph.

    Damaged files raise arbitrary exceptions, depending on the runtime.

    Returns:
        The metadata, and the function that runs the graph.
    """
    text, start = _OPENERS[path.suffix](path, options)
    meta = parse_metadata(path, text)
    return meta, start(meta)


class Model:
    """An exported network, opened by :func:`load`; not thread-safe.

    Attributes:
        meta: Metadata of the file.
        classes: Class names, in the order of the probabilities.
        quantities: Learned quantities (valence, arousal, intensity); empty for a file without.
        crop_margin: Fraction of a detected box to add on every side before cropping the face.
    """

    def __init__(self, meta: dict[str, Any], run: Run) -> None:
        self.meta, self._run = meta, run
        self.classes: list[str] = list(meta["classes"])
        self.quantities: list[str] = list(meta.get("quantities", {}).get("columns", []))
        self.crop_margin = float(meta["crop_margin"])
        self._resize = Resize(meta["input"]["image_size"], 3)

    def run(self, faces: np.ndarray) -> np.ndarray:
        """Run the graph on RGB faces of one size.

        Args:
            faces: uint8 (B, H, W, 3); B, H and W of 1 or more.

        Returns:
            Probabilities, float32 (B, K).

        Raises:
            InvalidImageError: For any other input.
        """
        return self.predict(faces)[0]

    def predict(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities, float32 (B, K), and learned quantities, float32 (B, Q).

        The columns are :attr:`classes` and :attr:`quantities`; the arguments are those of
        :meth:`run`.
        """
        valid = isinstance(faces, np.ndarray) and faces.dtype == np.uint8 and faces.ndim == 4
        if not valid or faces.shape[3] != 3 or not faces.size:
            raise InvalidImageError(
                f"expected faces as uint8 (B, H, W, 3) RGB, got {_type_and_shape(faces)}"
            )
        sides = faces.shape[1:3]
        if min(sides) < 2 or max(sides) > LARGEST:  # outside of the graph's dynamic sizes
            faces = np.stack([self._resize(self._grey(face)) for face in faces])
        count, batch = len(faces), self.meta["batch"]
        step = LARGEST if batch == "dynamic" else batch
        if batch != "dynamic":
            faces = np.concatenate([faces, faces[-1:].repeat(-count % batch, axis=0)])
        parts = np.split(np.ascontiguousarray(faces), range(step, len(faces), step))
        outputs = np.concatenate([self._run(part) for part in parts])[:count]
        k = len(self.classes)
        return outputs[:, :k], outputs[:, k:]

    def __call__(self, faces: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Classify one face or several.

        Args:
            faces: A face of any size, uint8 (h, w, 3) RGB, (h, w, 1) or (h, w) grey; or a list of
                such faces, or an array (N, h, w, C). OpenCV reads BGR: convert it to RGB first.

        Returns:
            Probabilities, float32: (K,) for one face, (N, K) for several.

        Raises:
            InvalidImageError: If an image is empty or has another shape or dtype.
        """
        if isinstance(faces, np.ndarray) and faces.ndim in (2, 3):
            return self.run(_rgb(faces)[None])[0]
        if isinstance(faces, (str, bytes)) or not isinstance(faces, (np.ndarray, Sequence)):
            raise InvalidImageError(
                f"expected a face as uint8 (h, w, 3) RGB, got {_type_and_shape(faces)}"
            )
        batch = [_rgb(face) for face in faces]
        if not batch:
            return np.zeros((0, len(self.classes)), np.float32)
        if len({face.shape for face in batch}) > 1:
            # The graph takes one size per call.
            batch = [self._resize(self._grey(face)) for face in batch]
        return self.run(np.stack(batch))

    def _grey(self, face: np.ndarray) -> np.ndarray:
        """Convert to grey, if the network is grey, before resizing as in training."""
        if self.meta["input"]["channels"] == 3:
            return face
        return cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[:, :, None]


def _type_and_shape(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


def _rgb(face: Any) -> np.ndarray:
    """Return a face as uint8 (h, w, 3)."""
    if isinstance(face, np.ndarray) and face.dtype == np.uint8 and face.size:
        if face.ndim == 2:
            face = face[:, :, None]
        if face.ndim == 3 and face.shape[2] in (1, 3):
            return face if face.shape[2] == 3 else face.repeat(3, axis=2)
    raise InvalidImageError(
        f"expected a face as uint8 (h, w, 3) RGB or (h, w, 1) grey, got {_type_and_shape(face)}"
    )


def load(path: str | Path, threads: int | None = None) -> Model:
    """Open an exported file.

    Args:
        path: A file of ``python -m emotion_lab.export``: .onnx, .xml (its .bin in the same
            folder), .torchscript or .pt2.
        threads: CPU threads of one call, 1 or more; None leaves the choice to the runtime.

    Raises:
        UserError: If the file is missing, damaged, modified or not an exported one, or its runtime
            is not installed.
    """
    path = Path(path)
    if threads is not None and (type(threads) is not int or threads < 1):
        raise UserError(f"threads={threads!r} is not valid: expected a whole number above 0.")
    if not path.is_file():
        raise UserError(f"no such file: {path}.")
    if path.suffix not in _OPENERS:
        raise UserError(f"{path} is not an exported file: expected {', '.join(_OPENERS)}.")
    return open_model(path, RunOptions(threads))


def open_model(path: Path, options: RunOptions) -> Model:
    """Open an exported file that exists; see :func:`load`."""
    try:
        meta, run = open_graph(path, options)
    except UserError:
        raise
    except Exception as error:  # each runtime raises its own exceptions for a damaged file
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path} is truncated or damaged ({reason}). Export it again.") from None
    if meta["input"]["layout"] != "NHWC":
        raise UserError(
            f"{path} is a cached conversion of backend=..., which takes resized images only: use "
            "its checkpoint, or export it."
        )
    return Model(meta, run)


def main() -> None:
    """``python -m emotion_lab.inference.loader <exported file> <face image> ...``."""
    print_any_name()
    try:
        if len(sys.argv) < 3:
            raise UserError(
                "usage: python -m emotion_lab.inference.loader <exported file> <face image> ..."
            )
        model = load(sys.argv[1])
        for name in sys.argv[2:]:
            file = Path(name)
            # Decoded from memory: OpenCV accepts names in UTF-8 only.
            data = file.read_bytes() if file.is_file() else b""
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
            if image is None:
                raise UserError(f"{name} is missing or not an image.")
            probabilities = model(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            label = model.classes[int(probabilities.argmax())]
            print(f"{name} {label} {probabilities.max():.3f}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
