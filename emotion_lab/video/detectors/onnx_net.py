"""Detection networks in ONNX files, run by ONNX Runtime if installed, else by OpenCV."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.core.io import native_path
from emotion_lab.core.threads import thread_limit
from emotion_lab.video.detectors.resize import LetterboxedImage, letterbox, resize_longest_side

#: Coarsest stride of YOLO and SCRFD: input sides must be multiples of it.
MULTIPLE = 32


class OnnxNet:
    """Detection network with one image input (1, 3, H, W) and any number of outputs.

    Args:
        size: Longest input side in pixels; ignored by networks with a fixed input size.

    Attributes:
        size: Fixed (width, height) of the input, or None if any multiple of 32 is accepted.
        longest_side: Longest side of the input in pixels.
        metadata: Custom metadata of the file; empty with OpenCV.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size: tuple[int, int] | None = None
        self.metadata: dict[str, str] = {}
        self._session: Any = None
        self._net: cv2.dnn.Net | None = None
        self._dtype: type[np.floating] = np.float32
        self.longest_side = max(MULTIPLE, round(size / MULTIPLE) * MULTIPLE)
        try:
            import onnxruntime
        except ImportError:
            self._load_opencv()
        else:
            self._load_runtime(onnxruntime)
        if self.size:
            self.longest_side = max(self.size)

    def _load_runtime(self, onnxruntime: ModuleType) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # no warnings about unused initialisers
        # Spinning threads would take the cores from the rest of the pipeline between frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.intra_op_num_threads = thread_limit() or 0  # 0: all cores
        try:
            with native_path(self.path) as name:
                self._session = onnxruntime.InferenceSession(
                    name, options, providers=["CPUExecutionProvider"]
                )
        except Exception as error:  # onnxruntime raises many classes of its own
            raise self._unreadable(error) from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if inputs else []
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in kinds:
            raise self._no_image([(i.name, i.shape, i.type) for i in inputs])
        if shape[1] not in (3, None) and not isinstance(shape[1], str):
            raise self._no_image([(inputs[0].name, shape, inputs[0].type)])
        self._dtype = kinds[inputs[0].type]
        self._input = inputs[0].name
        if all(isinstance(side, int) and side > 0 for side in shape[2:]):
            self.size = (shape[3], shape[2])
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    def _load_opencv(self) -> None:
        try:
            with native_path(self.path) as name:
                self._net = cv2.dnn.readNetFromONNX(name)
        except cv2.error as error:
            raise self._unreadable(error) from error
        # OpenCV does not expose the input size and is slow if it changes from frame to frame.
        self.size = (self.longest_side, self.longest_side)
        self._names = self._net.getUnconnectedOutLayersNames()

    def _unreadable(self, error: Exception) -> UserError:
        text = " ".join(str(error).split())[:120]
        return UserError(
            f"{self.path} cannot be read as an ONNX network ({text}). Export it again."
        )

    def _no_image(self, inputs: list) -> UserError:
        return UserError(
            f"{self.path} is not a face detector: expected one float image (1, 3, H, W) as input, "
            f"got {inputs}. Set detector.file=<a face detector>."
        )

    def literal(self, key: str) -> object:
        """Return a metadata value as a Python literal, or None if missing or not a literal."""
        try:
            return ast.literal_eval(self.metadata[key])
        except (KeyError, ValueError, SyntaxError):
            return None

    def fit(self, image: np.ndarray, pad: int, centre: bool, enlarge: bool) -> LetterboxedImage:
        """Letterbox uint8 (H, W, 3) to the input size of the network."""
        if self.size:
            return letterbox(image, *self.size, pad=pad, centre=centre, enlarge=enlarge)
        h, w = resize_longest_side(image, self.longest_side, enlarge, MULTIPLE).image.shape[:2]
        return letterbox(image, w, h, pad=pad, centre=centre, enlarge=enlarge)

    def run(self, blob: np.ndarray) -> list[np.ndarray]:
        """Return all outputs, float32, for a (1, 3, H, W) blob."""
        try:
            if self._net is None:
                outputs = self._session.run(None, {self._input: blob.astype(self._dtype)})
            else:
                self._net.setInput(blob.astype(np.float32))
                outputs = self._net.forward(self._names)
        except Exception as error:  # onnxruntime and OpenCV raise classes of their own
            fix = "Set detector.size to the size it was exported with"
            if self._net is not None:
                fix += ", or pip install onnxruntime"
            text = " ".join(str(error).split())[-120:]
            raise UserError(
                f"{self.path} cannot run on {blob.shape[3]}x{blob.shape[2]} px ({text}). {fix}."
            ) from error
        return [np.asarray(output, np.float32) for output in outputs]

    def probe(self) -> list[np.ndarray]:
        """Return the outputs for a black image, to recognise the layout by their shapes."""
        width, height = self.size or (self.longest_side, self.longest_side)
        return self.run(np.zeros((1, 3, height, width), np.float32))
