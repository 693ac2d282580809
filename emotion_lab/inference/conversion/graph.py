"""Preprocessing, network and softmax as one module to export.

The graph reproduces :class:`emotion_lab.data.transforms.Resize` (OpenCV) in integer arithmetic, bit
for bit, so that callers pass faces of any size and the network receives the pixels of training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from emotion_lab.core.input_spec import InputSpec
from emotion_lab.inference.conversion.base import DYNAMIC
from emotion_lab.inference.metadata import LARGEST
from emotion_lab.models.network import Network

#: OpenCV's weights of red, green and blue (ITU-R BT.601), multiplied by 2**15.
GREY = (9798, 19235, 3735)
#: Denominator of OpenCV's fixed-point weights of linear interpolation.
PARTS = 2048


def _length(line: Tensor) -> Tensor:
    """Return the length of a 1-D tensor as a tensor, which every exporter keeps dynamic."""
    return torch.ones_like(line, dtype=torch.int32).sum(dtype=torch.int32)


class Preprocess(nn.Module):
    """Resize faces of any size to the network's input, as OpenCV does."""

    pixels: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("pixels", torch.arange(spec.image_size, dtype=torch.int32))

    def _neighbors(self, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the two source pixels of each new pixel, (S,) and (S,), and the second's weight.

        The weight, (S,), is in parts of :data:`PARTS`.
        """
        size = self.spec.image_size
        # The centre of a new pixel is ((2 i + 1) length / size - 1) / 2; here times 2 size. One
        # pixel is added because exporters round negative numbers differently.
        centre = (2 * self.pixels + 1) * length + size
        second = torch.div(centre, 2 * size, rounding_mode="trunc")
        rest = centre - second * (2 * size)
        weight = torch.div(rest * PARTS + size, 2 * size, rounding_mode="trunc")
        first = torch.clamp(second - 1, min=0)
        return torch.minimum(first, length - 1), torch.minimum(second, length - 1), weight

    def _enlarge(self, x: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Interpolate linearly with the fixed-point rounding of OpenCV."""
        first, second, weight = self._neighbors(width)
        x = x.index_select(3, first) * (PARTS - weight) + x.index_select(3, second) * weight
        first, second, weight = self._neighbors(height)
        x = torch.div(x, 16, rounding_mode="trunc")
        high = torch.div(x, 256, rounding_mode="trunc")
        low = x - high * 256

        def weighted(rows: Tensor, weight: Tensor) -> Tensor:
            """Return (weight * x) >> 16; no intermediate result needs more than 24 bits."""
            weight = weight.reshape(-1, 1)
            rest = torch.div(weight * low.index_select(2, rows), 256, rounding_mode="trunc")
            return torch.div(weight * high.index_select(2, rows) + rest, 256, rounding_mode="trunc")

        total = weighted(first, PARTS - weight) + weighted(second, weight)
        return torch.div(total + 2, 4, rounding_mode="trunc")

    def _overlaps(self, line: Tensor, length: Tensor) -> Tensor:
        """Return (S, L): overlap of each source pixel with each new one, in 1/S source pixels."""
        size = self.spec.image_size
        source = (torch.ones_like(line, dtype=torch.int32).cumsum(0, dtype=torch.int32) - 1) * size
        new = (self.pixels * length).reshape(-1, 1)
        overlap = torch.minimum(new + length, source + size) - torch.maximum(new, source)
        return torch.clamp(overlap, min=0).float()

    def _shrink(self, x: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Average areas."""
        rows = self._overlaps(x[0, 0, :, 0], height)
        columns = self._overlaps(x[0, 0, 0, :], width)
        total = rows @ x.float() @ columns.t()
        mean = total / (height.float() * width.float())
        size = self.spec.image_size
        halved = (height == 2 * size) & (width == 2 * size)
        # For means of 2 x 2 pixels OpenCV rounds 0.5 up, otherwise to the even number.
        return torch.where(halved, torch.floor(mean + 0.5), torch.round(mean))

    def forward(self, faces: Tensor) -> Tensor:
        """Return float (B, C, S, S), integers from 0 to 255, from faces uint8 (B, H, W, 3).

        The result is not uint8: OpenVINO 2026.4 reads the input of a quantized network incorrectly
        after a conversion from int32 to uint8 to float.
        """
        x = faces.permute(0, 3, 1, 2).to(torch.int32)
        if self.spec.channels == 1:
            red, green, blue = (x[:, i : i + 1] * part for i, part in enumerate(GREY))
            x = torch.div(red + green + blue + 2**14, 2**15, rounding_mode="trunc")
        height, width = _length(faces[0, :, 0, 0]), _length(faces[0, 0, :, 0])
        size = self.spec.image_size
        shrinks = (height >= size) & (width >= size)
        small, large = self._shrink(x, height, width), self._enlarge(x, height, width)
        return torch.where(shrinks, small, large.float())


class Postprocess(nn.Module):
    """Softmax of the logits divided by ``temperature``, and the learned quantities.

    Args:
        temperature: The checkpoint's calibration temperature.
        num_quantities: Number of learned quantities Q, the last columns of the input.
    """

    def __init__(self, temperature: float, num_quantities: int = 0) -> None:
        super().__init__()
        self.temperature, self.num_quantities = temperature, num_quantities

    def forward(self, outputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return probabilities, float32 (B, K), and with learned quantities these, (B, Q)."""
        if not self.num_quantities:
            return (outputs.float() / self.temperature).softmax(1)
        logits = outputs[:, : -self.num_quantities].float()
        quantities = outputs[:, -self.num_quantities :].float()
        return (logits / self.temperature).softmax(1), quantities


class ExportModel(nn.Module):
    """Map RGB faces of one size, uint8 (B, H, W, 3), to probabilities, float32 (B, K).

    A network that learned quantities has a second output with them, float32 (B, Q).

    With ``resize=False`` it is the network alone: images that are resized already, uint8
    (B, C, S, S), to its outputs, float32 (B, K + Q). OpenCV resizes faster than the graph.

    Args:
        net: In eval mode; see :func:`emotion_lab.models.quantities_head.join`.
        temperature: The checkpoint's calibration temperature.
        resize: Whether preprocessing and softmax are part of the graph.
        num_quantities: Number of learned quantities Q.
    """

    net: Network

    def __init__(
        self, net: Network, temperature: float, resize: bool = True, num_quantities: int = 0
    ) -> None:
        super().__init__()
        self.spec, self.resize = net.spec, resize
        self.preprocess = Preprocess(net.spec) if resize else nn.Identity()
        self.net = net
        self.postprocess = Postprocess(temperature, num_quantities) if resize else nn.Identity()
        self.input_name = "faces" if resize else "images"
        self.output_names = ["probabilities" if resize else "logits"]
        if resize and num_quantities:
            self.output_names.append("quantities")

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Classify images."""
        return self.postprocess(self.net(self.preprocess(images)))

    def input_shape(self, batch: int | str = DYNAMIC) -> tuple[int, int, int, int]:
        """Return the shape of the input; -1 marks dynamic sizes."""
        count = -1 if batch == DYNAMIC else int(batch)
        if self.resize:
            return count, -1, -1, 3
        return count, self.spec.channels, self.spec.image_size, self.spec.image_size

    def example(self, batch: int | str = DYNAMIC) -> Tensor:
        """Return an input for tracing; its dynamic sizes are pairwise different."""
        examples = (2, self.spec.image_size + 3, self.spec.image_size + 5, 3)
        shape = [
            example if size == -1 else size
            for size, example in zip(self.input_shape(batch), examples, strict=True)
        ]
        return torch.zeros(shape, dtype=torch.uint8)

    def dynamic_shapes(self, batch: int | str = DYNAMIC) -> dict[int, Any]:
        """Return the dynamic sizes of the input, for torch's exporters."""
        names = (("batch", 1), ("height", 2), ("width", 2))
        return {
            i: torch.export.Dim(name, min=smallest, max=LARGEST)
            for i, (name, smallest) in enumerate(names)
            if self.input_shape(batch)[i] == -1
        }
