"""MTCNN: parameter counts, model files, and geometry of the cascade."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors import build_detector, mtcnn
from emotion_lab.video.types import Detections
from tests.helpers_detectors import config, iou


def test_parameter_counts_match_the_paper() -> None:
    sizes = {
        name: sum(p.numel() for p in net.parameters()) for name, net in mtcnn._networks().items()
    }
    assert sizes == {"pnet": 6632, "rnet": 100178, "onet": 389040}


def test_model_files(tmp_path: Path) -> None:
    import zipfile

    networks = mtcnn._networks()
    for name, net in networks.items():
        torch.save(net.state_dict(), tmp_path / f"{name}.pt")
    wheel = tmp_path / "facenet.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in networks:
            archive.write(tmp_path / f"{name}.pt", f"facenet_pytorch/data/{name}.pt")
    for path in (tmp_path, tmp_path / "rnet.pt", wheel):
        loaded = mtcnn.load_networks(path)
        for name, net in networks.items():
            for key, value in net.state_dict().items():
                assert torch.equal(loaded[name].state_dict()[key], value)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "onet.pt")
    with pytest.raises(UserError, match=r"onet\.pt in .* does not hold MTCNN weights"):
        build_detector(config("mtcnn", file=str(tmp_path)))
    (tmp_path / "onet.pt").unlink()
    with pytest.raises(UserError, match=r"has no onet\.pt"):
        build_detector(config("mtcnn", file=str(tmp_path)))


def test_cascade_geometry(tmp_path: Path) -> None:
    """The networks are replaced by filters for a bright square in a dark frame of twice its side,
    so that the test covers the arithmetic of the cascade."""
    for name, net in mtcnn._networks().items():
        torch.save(net.state_dict(), tmp_path / f"{name}.pt")
    detector = build_detector(config("mtcnn", file=str(tmp_path), size=320, min_face=24))

    def match_square(x: torch.Tensor, side: int) -> torch.Tensor:
        kernel = torch.full((side, side), -1 / (1.5 * side**2))
        kernel[side // 4 : -side // 4, side // 4 : -side // 4] = 2 / side**2
        grey = x.mean(1, keepdim=True)
        return torch.nn.functional.conv2d(grey, kernel[None, None], stride=2)[:, 0]

    def propose(x: torch.Tensor) -> list[torch.Tensor]:
        probability = match_square(x, 12)
        return [probability, torch.zeros(len(x), 4, *probability.shape[1:])]

    def refine(x: torch.Tensor) -> list[torch.Tensor]:
        points = torch.tensor([0.3, 0.7, 0.5, 0.3, 0.7, 0.4, 0.4, 0.6, 0.8, 0.8])
        # Half the size, shifted right by a tenth.
        offsets = torch.tensor([0.35, 0.25, -0.15, -0.25])
        probability = match_square(x, x.shape[-1]).flatten()
        return [probability, offsets.repeat(len(x), 1), points.repeat(len(x), 1)]

    detector.nets = {
        "pnet": propose,
        "rnet": lambda x: [refine(x)[0], torch.zeros(len(x), 4)],
        "onet": refine,
    }
    image = np.zeros((480, 640, 3), np.uint8)
    image[200:300, 400:500] = 255
    detections = detector(image)
    square = Detections(np.array([[420, 200, 100, 100]], np.float32), np.ones(1, np.float32))
    assert iou(square, detections)[0, 0] > 0.7 and len(detections) == 1
    x, y, w, h = detections.boxes[0]
    # Landmarks are relative to the window: twice the box, shifted left by a tenth.
    left, top = x - 0.7 * w, y - 0.5 * h
    expected = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.3, 0.8], [0.7, 0.8]]
    np.testing.assert_allclose(
        detections.landmarks[0], np.array(expected) * [2 * w, 2 * h] + [left, top], atol=0.1
    )
    assert len(detector(np.zeros((1, 1, 3), np.uint8))) == 0


def test_nested_suppression_crops_and_squares() -> None:
    boxes = torch.tensor([[0.0, 0, 40, 40], [10, 10, 20, 20], [100, 0, 140, 40]])
    kept = mtcnn._nms_min_area(boxes, torch.tensor([0.8, 0.7, 0.9]), 0.7)
    assert kept.tolist() == [2, 0]  # the nested box is removed although the IoU is 1/16
    image = np.full((20, 20, 3), 255, np.uint8)
    crop = mtcnn._crops(image, torch.tensor([[-10.0, 0, 10, 20]]), 24)[0]
    assert (crop[:, :12] == 0).all() and (crop[:, 12:] == 255).all()
    assert math.isclose(mtcnn._square(torch.tensor([[0.0, 0, 10, 20]]))[0, 0], -5)
