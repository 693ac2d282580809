"""MTCNN, with the weights of the facenet-pytorch wheel but without that package."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import nms as keep_best

from emotion_lab.core.errors import UserError
from emotion_lab.video.detectors.common import collect, find_file, shrink
from emotion_lab.video.types import DETECTORS, Detections

WHAT = (
    "facenet_pytorch-<version>-py3-none-any.whl (pip download facenet-pytorch --no-deps) "
    "or a folder with its pnet.pt, rnet.pt and onet.pt"
)
CELL, STRIDE = 12, 2  # what the first network sees of the image, and how far apart
PYRAMID = 0.709  # each image of the pyramid has half the area of the one before
MOST = 1000  # candidates kept after a stage: noise may bring tens of thousands
BATCH = 256


def _conv(first: int, *layers: tuple[int, int, int]) -> dict[str, nn.Module]:
    """Return conv1, prelu1, pool1, ...; a layer is (channels, kernel, kernel of the pooling)."""
    parts: dict[str, nn.Module] = {}
    for i, (channels, kernel, pool) in enumerate(layers, 1):
        parts[f"conv{i}"] = nn.Conv2d(first, channels, kernel)
        parts[f"prelu{i}"] = nn.PReLU(channels)
        if pool:
            parts[f"pool{i}"] = nn.MaxPool2d(pool, 2, ceil_mode=True)
        first = channels
    return parts


class _Stage(nn.Module):
    """One of the three networks; the names of its parts are those of the weights.

    Args:
        body: Convolutions.
        dense: (name, inputs, outputs) of the hidden fully connected layer, None for the first
            network, which is convolutions throughout.
        heads: Name -> outputs: scores (no face, face), box corrections, landmarks.
    """

    def __init__(
        self,
        body: dict[str, nn.Module],
        dense: tuple[str, int, int] | None,
        heads: dict[str, int],
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
            # The weights come from a framework that flattens column by column, channels last.
            x = getattr(self, self.dense)(x.permute(0, 3, 2, 1).flatten(1))
            x = getattr(self, self.dense.replace("dense", "prelu"))(x)
        scores, *others = [getattr(self, name)(x) for name in self.heads]
        return [scores.softmax(1)[:, 1], *others]


def _networks() -> dict[str, _Stage]:
    """Return the three networks of Zhang et al. 2016, figure 2."""
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
    """Return the bytes of ``<name>.pt`` in a folder, beside a .pt file or in a wheel."""
    file = f"{name}.pt"
    try:
        if path.is_dir() or path.suffix == ".pt":
            return ((path if path.is_dir() else path.parent) / file).read_bytes()
        with zipfile.ZipFile(path) as wheel:
            inside = [entry for entry in wheel.namelist() if entry.endswith(f"/{file}")]
            return wheel.read(inside[0])
    except (OSError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no {file}: detector=mtcnn needs {WHAT}.") from error


def load_networks(path: Path) -> dict[str, _Stage]:
    """Build the three networks with the weights at ``path``; nothing in a file is run.

    Raises:
        UserError: If a file is missing, damaged or holds other weights.
    """
    networks = _networks()
    for name, network in networks.items():
        data = _read(path, name)
        try:
            network.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
        except Exception as error:  # damaged bytes fail in any way they like
            raise UserError(
                f"{name}.pt in {path} holds no weights of MTCNN: detector=mtcnn needs {WHAT}."
            ) from error
        network.eval().requires_grad_(False)
    return networks


def _tensor(images: np.ndarray) -> Tensor:
    """Turn uint8 (B, H, W, 3) RGB into (B, 3, H, W), -1..1."""
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127.5) / 128


def _correct(boxes: Tensor, change: Tensor) -> Tensor:
    """Move the corners of (N, 4) boxes by (N, 4) shares of their width and height."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + change * size


def _square(boxes: Tensor) -> Tensor:
    """Grow the shorter side of (N, 4) corners around the centre."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdim=True).values / 2
    return torch.cat([centre - half, centre + half], 1)


def _keep_outer(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Suppress by the share of the smaller box, which also takes a box within a box."""
    order = scores.argsort(descending=True)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept: list[int] = []
    for i in order.tolist():
        others = torch.tensor(kept, dtype=torch.long)
        low = torch.maximum(boxes[others, :2], boxes[i, :2])
        high = torch.minimum(boxes[others, 2:], boxes[i, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        if (shared <= overlap * torch.minimum(area[others], area[i])).all():
            kept.append(i)
    return torch.tensor(kept, dtype=torch.long)


def _crops(image: np.ndarray, boxes: Tensor, side: int) -> np.ndarray:
    """Cut (N, 4) boxes out of the image, black beyond its border: uint8 (N, side, side, 3)."""
    height, width = image.shape[:2]
    corners = boxes.round().int().numpy()
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    before = np.maximum(-corners[:, :2].min(0), 0)
    after = np.maximum(corners[:, 2:].max(0) - (width, height), 0)
    image = cv2.copyMakeBorder(
        image, before[1], after[1], before[0], after[0], cv2.BORDER_CONSTANT, value=0
    )
    corners += np.tile(before, 2)
    return np.stack(
        [
            cv2.resize(image[y1:y2, x1:x2], (side, side), interpolation=cv2.INTER_AREA)
            for x1, y1, x2, y2 in corners
        ]
    )


@DETECTORS.register("mtcnn")
class Mtcnn:
    """A cascade of three small networks (Zhang et al. 2016, "Joint Face Detection and Alignment").

    Args:
        cfg: ``conf/detector/mtcnn.yaml`` as a plain dict.

    Raises:
        UserError: If the weights are missing or no MTCNN's.
    """

    name = "mtcnn"

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.cfg = cfg
        self.nets = load_networks(find_file(cfg, WHAT, folder=True))

    def _propose(self, image: np.ndarray) -> Tensor:
        """Run the first network over the pyramid; return (N, 4) corners."""
        height, width = image.shape[:2]
        scale = CELL / self.cfg["min_face"]
        boxes, scores = [torch.zeros(0, 4)], [torch.zeros(0)]
        while min(height, width) * scale >= CELL:
            size = (round(width * scale), round(height * scale))
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            chance, change = self.nets["pnet"](_tensor(small[None]))
            rows, columns = torch.nonzero(chance[0] >= self.cfg["thresholds"][0], as_tuple=True)
            first = torch.stack([columns, rows], 1) * STRIDE
            ratio = torch.tensor([width / size[0], height / size[1]]).repeat(2)
            box = torch.cat([first, first + CELL], 1) * ratio
            score = chance[0, rows, columns]
            keep = keep_best(box, score, 0.5)[:MOST]
            boxes.append(_correct(box[keep], change[0, :, rows, columns].T[keep]))
            scores.append(score[keep])
            scale *= PYRAMID
        found, score = torch.cat(boxes), torch.cat(scores)
        return found[keep_best(found, score, 0.7)[:MOST]]

    def _run(self, name: str, image: np.ndarray, boxes: Tensor, side: int) -> list[Tensor]:
        parts = [
            self.nets[name](_tensor(_crops(image, boxes[i : i + BATCH], side)))
            for i in range(0, len(boxes), BATCH)
        ]
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Detections:
        """Find faces in uint8 (H, W, 3) RGB."""
        fitted = shrink(image, self.cfg["size"], self.cfg["enlarge"])
        boxes = _square(self._propose(fitted.image))
        if not len(boxes):
            return Detections.none()
        scores, change = self._run("rnet", fitted.image, boxes, 24)
        good = scores >= self.cfg["thresholds"][1]
        boxes, scores, change = boxes[good], scores[good], change[good]
        keep = keep_best(boxes, scores, 0.7)
        boxes = _square(_correct(boxes[keep], change[keep]))
        if not len(boxes):
            return Detections.none()
        scores, change, points = self._run("onet", fitted.image, boxes, 48)
        # Landmarks are shares of the box the network saw: five across, then five down.
        size = (boxes[:, 2:] - boxes[:, :2])[:, None]
        landmarks = boxes[:, None, :2] + points.reshape(-1, 2, 5).transpose(1, 2) * size
        boxes = _correct(boxes, change)
        keep = torch.nonzero(scores >= self.cfg["score_threshold"]).flatten()
        keep = keep[_keep_outer(boxes[keep], scores[keep], self.cfg["nms_threshold"])]
        found = [part[keep].numpy() for part in (boxes, scores, landmarks)]
        return collect(fitted, *found, self.cfg, nms=False)
