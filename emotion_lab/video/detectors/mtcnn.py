"""MTCNN with the weights of facenet-pytorch; that package need not be installed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors.nms import postprocess
from emotion_lab.video.detectors.resize import resize_longest_side
from emotion_lab.video.detectors.weights import find_weights
from emotion_lab.video.types import DETECTORS, Detections

WHAT = (
    "facenet_pytorch-<version>-py3-none-any.whl (pip download facenet-pytorch --no-deps) "
    "or a folder with its pnet.pt, rnet.pt and onet.pt"
)
CELL, STRIDE = 12, 2  # window and stride of the first network, in pixels
PYRAMID = 0.709  # scale step of the image pyramid: half the area
MAX_CANDIDATES = 1000  # kept per stage: a noisy image can give tens of thousands
BATCH = 256


def _conv(first: int, *layers: tuple[int, int, int]) -> dict[str, nn.Module]:
    """Return conv1, prelu1, pool1, ... for layers of (channels, kernel size, pooling size)."""
    parts: dict[str, nn.Module] = {}
    for i, (channels, kernel, pool) in enumerate(layers, 1):
        parts[f"conv{i}"] = nn.Conv2d(first, channels, kernel)
        parts[f"prelu{i}"] = nn.PReLU(channels)
        if pool:
            parts[f"pool{i}"] = nn.MaxPool2d(pool, 2, ceil_mode=True)
        first = channels
    return parts


class _Stage(nn.Module):
    """One network of the cascade; module names are those of the state dict.

    Args:
        dense: Name, in_features and out_features of the hidden linear layer, if any.
        heads: Name -> output channels: scores (no face, face), box regression, landmarks.
    """

    def __init__(
        self, body: dict[str, nn.Module], dense: tuple[str, int, int] | None, heads: dict[str, int]
    ) -> None:
        super().__init__()
        self.body = list(body)
        for name, module in body.items():
            self.add_module(name, module)
        self.dense = dense[0] if dense else None
        if dense:
            self.add_module(dense[0], nn.Linear(*dense[1:]))
            self.add_module(dense[0].replace("dense", "prelu"), nn.PReLU(dense[2]))
        self.heads = list(heads)
        for name, width in heads.items():
            head = nn.Linear(dense[2], width) if dense else nn.Conv2d(32, width, 1)
            self.add_module(name, head)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) in -1..1 to face probabilities (B, ...) and the other heads' outputs."""
        for name in self.body:
            x = getattr(self, name)(x)
        if self.dense:
            # The weights expect features flattened column by column, channels last.
            x = getattr(self, self.dense)(x.permute(0, 3, 2, 1).flatten(1))
            x = getattr(self, self.dense.replace("dense", "prelu"))(x)
        scores, *others = [getattr(self, name)(x) for name in self.heads]
        return [scores.softmax(1)[:, 1], *others]


def _networks() -> dict[str, _Stage]:
    """Return the three networks of Zhang et al. 2016, figure 2, without weights."""
    return {
        "pnet": _Stage(
            _conv(3, (10, 3, 2), (16, 3, 0), (32, 3, 0)), None, {"conv4_1": 2, "conv4_2": 4}
        ),
        "rnet": _Stage(
            _conv(3, (28, 3, 3), (48, 3, 3), (64, 2, 0)),
            ("dense4", 576, 128),
            {"dense5_1": 2, "dense5_2": 4},
        ),
        "onet": _Stage(
            _conv(3, (32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)),
            ("dense5", 1152, 256),
            {"dense6_1": 2, "dense6_2": 4, "dense6_3": 10},
        ),
    }


def _read(path: Path, name: str) -> bytes:
    """Read ``<name>.pt`` from a folder, the folder of a .pt file, or a wheel."""
    file = f"{name}.pt"
    try:
        if path.is_dir() or path.suffix == ".pt":
            return ((path if path.is_dir() else path.parent) / file).read_bytes()
        with zipfile.ZipFile(path) as wheel:
            entries = [entry for entry in wheel.namelist() if entry.endswith(f"/{file}")]
            return wheel.read(entries[0])
    except (OSError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} has no {file}: detector=mtcnn needs {WHAT}.") from error


def load_networks(path: Path) -> dict[str, _Stage]:
    """Load the three networks from ``path`` with ``weights_only``."""
    networks = _networks()
    for name, network in networks.items():
        data = _read(path, name)
        try:
            network.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
        except Exception as error:  # corrupt files raise arbitrary exceptions
            raise UserError(
                f"{name}.pt in {path} does not hold MTCNN weights: detector=mtcnn needs {WHAT}."
            ) from error
        network.eval().requires_grad_(False)
    return networks


def _tensor(images: np.ndarray) -> Tensor:
    """Convert uint8 (B, H, W, 3) RGB to float32 (B, 3, H, W) in -1..1."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127.5) / 128


def _regress(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Shift the corners of boxes (N, 4) by offsets (N, 4), in units of width and height."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + offsets * size


def _square(boxes: Tensor) -> Tensor:
    """Enlarge the shorter side of boxes (N, 4), corners, around the centre."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdim=True).values / 2
    return torch.cat([centre - half, centre + half], 1)


def _nms_min_area(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Suppress by intersection over the smaller area, which also removes nested boxes."""
    order = scores.argsort(descending=True)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept: list[int] = []
    for i in order.tolist():
        others = torch.tensor(kept, dtype=torch.long)
        low = torch.maximum(boxes[others, :2], boxes[i, :2])
        high = torch.minimum(boxes[others, 2:], boxes[i, 2:])
        intersection = (high - low).clamp(min=0).prod(1)
        if (intersection <= threshold * torch.minimum(area[others], area[i])).all():
            kept.append(i)
    return torch.tensor(kept, dtype=torch.long)


def _crops(image: np.ndarray, boxes: Tensor, side: int) -> np.ndarray:
    """Crop boxes (N, 4), padded with black: uint8 (N, side, side, 3)."""
    height, width = image.shape[:2]
    corners = boxes.round().int().numpy()
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    left, top = np.maximum(-corners[:, :2].min(0), 0)
    right, bottom = np.maximum(corners[:, 2:].max(0) - (width, height), 0)
    image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    corners += [left, top, left, top]
    return np.stack(
        [
            cv2.resize(image[y1:y2, x1:x2], (side, side), interpolation=cv2.INTER_AREA)
            for x1, y1, x2, y2 in corners
        ]
    )


@DETECTORS.register("mtcnn")
class Mtcnn:
    """Cascade of three networks (Zhang et al. 2016, "Joint Face Detection and Alignment")."""

    name = "mtcnn"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        self.nets = load_networks(find_weights(cfg, WHAT, allow_dir=True))

    def _propose(self, image: np.ndarray) -> Tensor:
        """Run the first network on the image pyramid; return corners (N, 4)."""
        height, width = image.shape[:2]
        scale = CELL / self.cfg["min_face"]
        boxes, scores = [torch.zeros(0, 4)], [torch.zeros(0)]
        while min(height, width) * scale >= CELL:
            size = (round(width * scale), round(height * scale))
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            probability, offsets = self.nets["pnet"](_tensor(small[None]))
            rows, columns = torch.nonzero(
                probability[0] >= self.cfg["thresholds"][0], as_tuple=True
            )
            first = torch.stack([columns, rows], 1) * STRIDE
            ratio = torch.tensor([width / size[0], height / size[1]]).repeat(2)
            box = torch.cat([first, first + CELL], 1) * ratio
            score = probability[0, rows, columns]
            keep = nms(box, score, 0.5)[:MAX_CANDIDATES]
            boxes.append(_regress(box[keep], offsets[0, :, rows, columns].T[keep]))
            scores.append(score[keep])
            scale *= PYRAMID
        proposals, score = torch.cat(boxes), torch.cat(scores)
        return proposals[nms(proposals, score, 0.7)[:MAX_CANDIDATES]]

    def _run(self, name: str, image: np.ndarray, boxes: Tensor, side: int) -> list[Tensor]:
        parts = [
            self.nets[name](_tensor(_crops(image, boxes[i : i + BATCH], side)))
            for i in range(0, len(boxes), BATCH)
        ]
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Detections:
        """Detect faces in uint8 (H, W, 3) RGB."""
        resized = resize_longest_side(image, self.cfg["size"], self.cfg["enlarge"])
        boxes = _square(self._propose(resized.image))
        if not len(boxes):
            return Detections.none()
        scores, offsets = self._run("rnet", resized.image, boxes, 24)
        passed = scores >= self.cfg["thresholds"][1]
        boxes, scores, offsets = boxes[passed], scores[passed], offsets[passed]
        keep = nms(boxes, scores, 0.7)
        boxes = _square(_regress(boxes[keep], offsets[keep]))
        if not len(boxes):
            return Detections.none()
        scores, offsets, points = self._run("onet", resized.image, boxes, 48)
        # Landmarks are relative to the input box: five x, then five y.
        size = (boxes[:, 2:] - boxes[:, :2])[:, None]
        landmarks = boxes[:, None, :2] + points.reshape(-1, 2, 5).transpose(1, 2) * size
        boxes = _regress(boxes, offsets)
        keep = torch.nonzero(scores >= self.cfg["score_threshold"]).flatten()
        keep = keep[_nms_min_area(boxes[keep], scores[keep], self.cfg["nms_threshold"])]
        boxes, scores, landmarks = boxes[keep], scores[keep], landmarks[keep]
        arrays = (boxes.numpy(), scores.numpy(), landmarks.numpy())
        return postprocess(resized, *arrays, self.cfg, apply_nms=False)
