"""Helpers for tests of detectors: configs, photos, ONNX files with constant outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from emotion_lab.config.compose import defaults
from emotion_lab.data.images import read_image
from emotion_lab.video.types import Detections
from tests.conftest import SHARED

MODELS, MEDIA = SHARED / "detectors", SHARED / "media"
YUNET = MODELS / "face_detection_yunet_2023mar.onnx"
PHOTOS = {
    "six_faces.jpg": 6,
    "two_people.jpg": 2,
    "one_face.jpg": 1,
    "one_face_rgba.png": 1,
    "no_faces.jpg": 0,
}


def config(name: str, **values: Any) -> dict[str, Any]:
    """Return the default config of a detector with the given values."""
    cfg = defaults("detector", name)
    assert values.keys() <= cfg.keys()
    return {**cfg, **values}


def shared(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is missing (the shared material is a sibling of the checkout)")
    return path


def photo(name: str) -> np.ndarray:
    return read_image(shared(MEDIA / name))


def iou(a: Detections, b: Detections) -> np.ndarray:
    first, second = (
        torch.tensor(np.hstack([d.boxes[:, :2], d.boxes[:, :2] + d.boxes[:, 2:]])) for d in (a, b)
    )
    return box_iou(first, second).numpy()


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    return text


SIDE = 64
GRIDS = [(8, 8), (16, 4), (32, 2)]  # stride, cells per side
NUM_CELLS = sum(n * n for _, n in GRIDS)  # 84


def save_onnx(path: Path, outputs: list[np.ndarray], side: int | str = SIDE, **meta: Any) -> Path:
    """Write a network with constant ``outputs`` and the given metadata."""
    helper = pytest.importorskip("onnx.helper")
    import onnx

    nodes, results = [], []
    for i, output in enumerate(outputs):
        # Adding 0 times the image keeps runtimes from removing the input.
        value = onnx.numpy_helper.from_array(output.astype(np.float32), f"value{i}")
        nodes += [
            helper.make_node("Constant", [], [f"c{i}"], value=value),
            helper.make_node("Add", [f"c{i}", "nothing"], [f"out{i}"]),
        ]
        results.append(helper.make_tensor_value_info(f"out{i}", 1, list(output.shape)))
    zero = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    first = [
        helper.make_node("GlobalMaxPool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Constant", [], ["zero"], value=zero),
        helper.make_node("ReduceMax", ["flat"], ["top"], keepdims=0),
        helper.make_node("Mul", ["top", "zero"], ["nothing"]),
    ]
    image = helper.make_tensor_value_info("images", 1, [1, 3, side, side])
    graph = helper.make_graph(first + nodes, "net", [image], results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    helper.set_model_props(model, {key: str(value) for key, value in meta.items()})
    onnx.save(model, str(path))
    return path


def random_head(channels: int, seed: int = 0) -> np.ndarray:
    """Return a YOLO output float32 (1, channels, 84) with random boxes and scores."""
    rng = np.random.default_rng(seed)
    head = rng.uniform(0, SIDE, (1, channels, NUM_CELLS))
    head[:, 2:4] = rng.uniform(8, 30, (1, 2, NUM_CELLS))
    head[:, 4:] = rng.uniform(0, SIDE, head[:, 4:].shape)
    head[:, 4] = rng.permutation(NUM_CELLS) / NUM_CELLS
    return head.astype(np.float32)
