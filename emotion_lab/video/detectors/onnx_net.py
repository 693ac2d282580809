"""An ONNX file that can be run: by ONNX Runtime where it is installed, else by OpenCV."""

from __future__ import annotations

import ast
from pathlib import Path

import cv2
import numpy as np

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors.common import LetterboxedImage, letterbox, shrink

#: Strides of the coarsest maps of YOLO and SCRFD: sides must be multiples of it.
MULTIPLE = 32


class OnnxNet:
    """A detection network with one image input (1, 3, H, W) and any outputs.

    Args:
        path: The ``.onnx`` file.
        size: Longest side in pixels for a network that takes any size; the others say theirs.

    Attributes:
        path: The file.
        size: (width, height) the network takes, or None where it takes any multiple of 32.
        longest: Longest side of the image within the input.
        metadata: What the exporter wrote into the file; empty with OpenCV.

    Raises:
        UserError: If the file is no ONNX file or its input is no RGB image.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size: tuple[int, int] | None = None
        self.metadata: dict[str, str] = {}
        self._session = None
        self._net = None
        self.dtype = np.float32
        self.longest = max(MULTIPLE, round(size / MULTIPLE) * MULTIPLE)
        try:
            import onnxruntime
        except ImportError:
            self._load_opencv()
        else:
            self._load_runtime(onnxruntime)
        if self.size:
            self.longest = max(self.size)

    def _load_runtime(self, onnxruntime) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # warnings about unused initialisers help nobody here
        # A pool that spins between frames takes the cores from the rest of the pipeline.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # it raises a dozen kinds of its own
            raise self._unreadable(error) from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if inputs else []
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in kinds:
            raise self._no_image([(i.name, i.shape, i.type) for i in inputs])
        if shape[1] not in (3, None) and not isinstance(shape[1], str):
            raise self._no_image([(inputs[0].name, shape, inputs[0].type)])
        self.dtype = kinds[inputs[0].type]
        self._input = inputs[0].name
        if all(isinstance(side, int) and side > 0 for side in shape[2:]):
            self.size = (shape[3], shape[2])
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)

    def _load_opencv(self) -> None:
        try:
            self._net = cv2.dnn.readNetFromONNX(str(self.path))
        except cv2.error as error:
            raise self._unreadable(error) from error
        # OpenCV neither tells the input's size nor likes it to change from frame to frame.
        self.size = (self.longest, self.longest)
        self._names = self._net.getUnconnectedOutLayersNames()

    def _unreadable(self, error: Exception) -> UserError:
        text = " ".join(str(error).split())[:120]
        return UserError(
            f"{self.path} cannot be read as an ONNX network ({text}). Export it again."
        )

    def _no_image(self, inputs: list) -> UserError:
        return UserError(
            f"{self.path} is no face detector: expected one float image (1, 3, H, W) as input, "
            f"found {inputs}. Set detector.file=<a face detector>."
        )

    def literal(self, key: str) -> object:
        """Return a value of the metadata as Python data, None where it is absent or odd."""
        try:
            return ast.literal_eval(self.metadata[key])
        except (KeyError, ValueError, SyntaxError):
            return None

    def fit(self, image: np.ndarray, pad: int, centre: bool, enlarge: bool) -> LetterboxedImage:
        """Fit uint8 (H, W, 3) to the network's input."""
        if self.size:
            return letterbox(image, *self.size, pad=pad, centre=centre, enlarge=enlarge)
        h, w = shrink(image, self.longest, enlarge, MULTIPLE).image.shape[:2]
        return letterbox(image, w, h, pad=pad, centre=centre, enlarge=enlarge)

    def run(self, blob: np.ndarray) -> list[np.ndarray]:
        """Return all outputs, float32, for a (1, 3, H, W) blob.

        Raises:
            UserError: If the network refuses the blob; that is a matter of its size.
        """
        try:
            if self._session is not None:
                outputs = self._session.run(None, {self._input: blob.astype(self.dtype)})
            else:
                self._net.setInput(blob.astype(np.float32))
                outputs = self._net.forward(self._names)
        except Exception as error:  # ONNX Runtime and OpenCV raise kinds of their own
            mend = "Set detector.size to the size it was exported with"
            if self._session is None:
                mend += ", or pip install onnxruntime"
            text = " ".join(str(error).split())[-120:]
            raise UserError(
                f"{self.path} cannot run on {blob.shape[3]}x{blob.shape[2]} px ({text}). {mend}."
            ) from error
        return [np.asarray(output, np.float32) for output in outputs]

    def probe(self) -> list[np.ndarray]:
        """Return the outputs for a black image: their shapes tell the layout."""
        width, height = self.size or (self.longest, self.longest)
        return self.run(np.zeros((1, 3, height, width), np.float32))
