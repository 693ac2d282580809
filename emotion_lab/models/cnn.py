"""A plain convolutional network, the baseline that everything else is held against."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from emotion_lab.core.errors import UserError
from emotion_lab.models.base import MODELS, Backbone, check_dropout


def init_weights(net: nn.Module) -> None:
    """Initialise convolutions for ReLU (He et al. 2015) and the classifier near zero.

    A small classifier starts the loss at log(number of classes) whatever the width.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def check_list(cfg: dict[str, Any], key: str) -> list[int]:
    """Return ``cfg[key]`` as a list of positive whole numbers.

    Raises:
        UserError: If it is anything else.
    """
    values = list(cfg[key]) if isinstance(cfg[key], (list, tuple)) else []
    if not values or not all(type(v) is int and v > 0 for v in values):
        raise UserError(
            f"model.{key} must be a list of whole numbers above 0, got {cfg[key]}. "
            f"Example: model.{key}=[1,2]."
        )
    return values


class CNN(nn.Module):
    """Stages of two 3x3 convolutions and a max pooling, then global average pooling.

    Args:
        channels: Input channels.
        widths: Channels of each stage; each halves the image.
        dropout: Probability before the classifier.
        num_classes: Number of logits.
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
                    # The two commute; this way round the ReLU has a quarter of the work.
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
    """Build a :class:`CNN`; one fine-tuning stage for each width.

    Raises:
        UserError: If a key is out of range or there are more stages than the image can be halved.
    """
    widths = check_list(cfg, "widths")
    if cfg["image_size"] >> len(widths) < 1:
        raise UserError(
            f"model.widths has {len(widths)} stages; each halves the image and "
            f"model.image_size={cfg['image_size']} is too small for that."
        )
    net = CNN(cfg["channels"], widths, check_dropout(cfg), num_classes)
    return Backbone(net, ["classifier"], [[f"stages.{i}"] for i in range(len(widths))])
