"""What stands around the network in an exported graph: from uint8 faces to probabilities.

The graph does what :class:`emotion_lab.data.transforms.Resize` does with OpenCV, in integers and
bit-exactly, so that a caller who knows nothing of the network gives it the pixels it was
trained on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from emotion_lab.exporters.base import DYNAMIC
from emotion_lab.inference.loader import LARGEST
from emotion_lab.models.base import EmotionNet, InputSpec
from emotion_lab.models.ensemble import Ensemble

#: OpenCV's weights of red, green and blue (ITU-R BT.601), in parts of 2**15.
GREY = (9798, 19235, 3735)
#: OpenCV's linear interpolation weighs in parts of 2**11.
PARTS = 2048


def _count(line: Tensor) -> Tensor:
    """Return the length of a line of pixels, a tensor: every exporter keeps it open."""
    return torch.ones_like(line, dtype=torch.int32).sum(dtype=torch.int32)


class Preprocess(nn.Module):
    """Bring faces of any size to the network's input.

    Args:
        spec: The network's input.
    """

    steps: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("steps", torch.arange(spec.image_size, dtype=torch.int32))

    def _two(self, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return for each new pixel the old ones (S,), (S,) and the second's weight (S,)."""
        size = self.spec.image_size
        # ((2 i + 1) length / size - 1) / 2, the centre of a new pixel, without a fraction; a pixel
        # is added so that nothing is below 0, where exporters round to different sides.
        place = (2 * self.steps + 1) * length + size
        left = torch.div(place, 2 * size, rounding_mode="trunc")
        rest = place - left * (2 * size)
        weight = torch.div(rest * PARTS + size, 2 * size, rounding_mode="trunc")
        first = torch.clamp(left - 1, min=0)
        return torch.minimum(first, length - 1), torch.minimum(left, length - 1), weight

    def _enlarge(self, x: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Interpolate linearly as OpenCV does, whose whole numbers drop bits on the way."""
        first, second, weight = self._two(width)
        x = x.index_select(3, first) * (PARTS - weight) + x.index_select(3, second) * weight
        first, second, weight = self._two(height)
        x = torch.div(x, 16, rounding_mode="trunc")
        high = torch.div(x, 256, rounding_mode="trunc")
        low = x - high * 256

        def share(rows: Tensor, part: Tensor) -> Tensor:
            """Return (part * x) >> 16; no number on the way needs more than 24 bits."""
            part = part.reshape(-1, 1)
            rest = torch.div(part * low.index_select(2, rows), 256, rounding_mode="trunc")
            return torch.div(part * high.index_select(2, rows) + rest, 256, rounding_mode="trunc")

        both = share(first, PARTS - weight) + share(second, weight)
        return torch.div(both + 2, 4, rounding_mode="trunc")

    def _areas(self, line: Tensor, length: Tensor) -> Tensor:
        """Return (S, L): how much of each old pixel lies in a new one, times S."""
        size = self.spec.image_size
        old = (torch.ones_like(line, dtype=torch.int32).cumsum(0, dtype=torch.int32) - 1) * size
        new = (self.steps * length).reshape(-1, 1)
        over = torch.minimum(new + length, old + size) - torch.maximum(new, old)
        return torch.clamp(over, min=0).float()

    def _shrink(self, x: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Average areas."""
        rows = self._areas(x[0, 0, :, 0], height)
        columns = self._areas(x[0, 0, 0, :], width)
        total = rows @ x.float() @ columns.t()
        mean = total / (height.float() * width.float())
        size = self.spec.image_size
        halved = (height == 2 * size) & (width == 2 * size)
        # Only where it takes means of two by two OpenCV rounds a half up, else to the even.
        return torch.where(halved, torch.floor(mean + 0.5), torch.round(mean))

    def forward(self, faces: Tensor) -> Tensor:
        """Return float (B, C, S, S), whole numbers from 0 to 255, of faces uint8 (B, H, W, 3).

        Not uint8: OpenVINO 2026.4 reads a quantised network's input wrongly where it was converted
        from int32 to uint8 to float.
        """
        x = faces.permute(0, 3, 1, 2).to(torch.int32)
        if self.spec.channels == 1:
            red, green, blue = (x[:, i : i + 1] * part for i, part in enumerate(GREY))
            x = torch.div(red + green + blue + 2**14, 2**15, rounding_mode="trunc")
        height, width = _count(faces[0, :, 0, 0]), _count(faces[0, 0, :, 0])
        size = self.spec.image_size
        shrinks = (height >= size) & (width >= size)
        small, large = self._shrink(x, height, width), self._enlarge(x, height, width)
        return torch.where(shrinks, small, large.float())


class Postprocess(nn.Module):
    """From logits to probabilities.

    Args:
        temperature: Logits are divided by it.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor) -> Tensor:
        """Return float32 (B, K)."""
        return (logits.float() / self.temperature).softmax(1)


class ExportModel(nn.Module):
    """The whole: RGB faces of one size in, uint8 (B, H, W, 3); probabilities out, float32 (B, K).

    Args:
        net: In eval mode.
        temperature: Of the checkpoint.
    """

    def __init__(self, net: EmotionNet | Ensemble, temperature: float) -> None:
        super().__init__()
        self.prepare, self.net = Preprocess(net.spec), net
        self.finish = Postprocess(temperature)

    def forward(self, faces: Tensor) -> Tensor:
        """Classify faces."""
        return self.finish(self.net(self.prepare(faces)))


def example(model: ExportModel, batch: int | str = DYNAMIC) -> Tensor:
    """Return faces to trace a graph with; no two of their sizes are alike."""
    size = model.prepare.spec.image_size
    count = 2 if batch == DYNAMIC else int(batch)
    return torch.zeros((count, size + 3, size + 5, 3), dtype=torch.uint8)


def open_sizes(batch: int | str) -> dict[int, Any]:
    """Return which sizes of the input stay open, for torch's exporters."""
    free = {1: ("height", 2), 2: ("width", 2)}
    if batch == DYNAMIC:
        free[0] = ("batch", 1)
    return {i: torch.export.Dim(name, min=low, max=LARGEST) for i, (name, low) in free.items()}
