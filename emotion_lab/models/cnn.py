"""Plain convolutional network, the baseline of all comparisons."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from emotion_lab.core.errors import UserError
from emotion_lab.models.base import MODELS, Backbone


def init_weights(net: nn.Module) -> None:
    """Initialise convolutions for ReLU (He et al. 2015) and the classifier near zero.

    A small classifier starts training at a loss of log(number of classes) for any width.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


class CNN(nn.Module):
    """Stages of two 3x3 convolutions and a max pooling, then global average pooling.

    ``widths`` are the channels of each stage; each stage halves the resolution.
    """

    def __init__(self, channels: int, widths: list[int], dropout: float, num_classes: int) -> None:
        super().__init__()
        stages = []
        for width in widths:
            stages.append(
                nn.Sequential(
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    # Pooling and ReLU commute; in this order ReLU has a quarter of the values.
                    nn.MaxPool2d(2),
                    nn.ReLU(inplace=True),
                )
            )
            channels = width
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, C, S, S) to logits (B, K)."""
        x = self.stages(x).mean((2, 3))
        return self.classifier(self.dropout(x))


@MODELS.register("cnn")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build a :class:`CNN`; each width is one fine-tuning stage."""
    widths = cfg["widths"]
    if cfg["image_size"] >> len(widths) < 1:
        raise UserError(
            f"model.widths has {len(widths)} stages; each halves the image and "
            f"model.image_size={cfg['image_size']} is too small for that."
        )
    net = CNN(cfg["channels"], widths, cfg["dropout"], num_classes)
    return Backbone(net, ["classifier"], [[f"stages.{i}"] for i in range(len(widths))])
