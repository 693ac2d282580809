"""Small residual network with squeeze-and-excitation, for 48x48 faces on a CPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from emotion_lab.core.errors import UserError
from emotion_lab.models.base import MODELS, Backbone
from emotion_lab.models.cnn import init_weights


class SqueezeExcite(nn.Module):
    """Channel gate computed from the channel means (Hu et al. 2018).

    It uses linear layers on (B, C) instead of 1x1 convolutions on (B, C, 1, 1): the result is the
    same, and on a CPU the overhead of such a convolution exceeds its computation. The hidden layer
    has ``channels / reduction`` units, at least 8.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(8, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        gate = F.relu(self.squeeze(x.mean((2, 3))), inplace=True)
        gate = self.excite(gate).sigmoid()
        return x * gate[:, :, None, None]


class SEBlock(nn.Module):
    """conv-BN-ReLU-conv-BN-SE plus shortcut, then ReLU (He et al. 2016, Hu et al. 2018)."""

    def __init__(self, channels: int, width: int, stride: int, reduction: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcite(width, reduction)
        # Averaging before a 1x1 convolution loses less than a strided one (He et al. 2019,
        # "Bag of Tricks", ResNet-D); and oneDNN 3.x corrupts memory in the strided one on
        # AVX-512 CPUs when a channels_last input has 8 channels.
        parts: list[nn.Module] = []
        if stride != 1:
            parts.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        if stride != 1 or channels != width:
            parts += [nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.shortcut = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, width, H / stride, W / stride), rounded up."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.se(self.bn2(self.conv2(out)))
        return F.relu(out + self.shortcut(x), inplace=True)


class SENet(nn.Module):
    """Stem, stages of :class:`SEBlock`, global average pooling, classifier.

    Args:
        cfg: The keys of ``conf/model/senet.yaml``.
        num_classes: Number of logits.
    """

    def __init__(self, cfg: dict[str, Any], num_classes: int) -> None:
        super().__init__()
        width_in = cfg["stem"]
        self.stem = nn.Sequential(
            nn.Conv2d(cfg["channels"], width_in, 3, cfg["stem_stride"], padding=1, bias=False),
            nn.BatchNorm2d(width_in),
            nn.ReLU(inplace=True),
        )
        stages = []
        for width, count, stride in zip(cfg["widths"], cfg["blocks"], cfg["strides"], strict=True):
            stage = []
            for i in range(count):
                stage.append(SEBlock(width_in, width, stride if i == 0 else 1, cfg["reduction"]))
                width_in = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(cfg["dropout"])
        self.classifier = nn.Linear(width_in, num_classes)
        init_weights(self)
        # The last batch norm of a block keeps gamma 1: with one block per stage, the shortcuts
        # alone extract almost no shape, and training would not progress.
        for module in self.modules():
            if isinstance(module, SEBlock):
                # The linear layers of the gates keep the default initialisation of torch.
                module.se.squeeze.reset_parameters()
                module.se.excite.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (B, C, S, S) to logits (B, K)."""
        x = self.stages(self.stem(x)).mean((2, 3))
        return self.classifier(self.dropout(x))


@MODELS.register("senet")
def build(cfg: dict[str, Any], num_classes: int) -> Backbone:
    """Build a :class:`SENet`; the stem and each stage are the fine-tuning stages."""
    widths, blocks, strides = (cfg[key] for key in ("widths", "blocks", "strides"))
    if not len(widths) == len(blocks) == len(strides):
        raise UserError(
            "model.widths, model.blocks and model.strides need one value for each stage, got "
            f"{len(widths)}, {len(blocks)} and {len(strides)}."
        )
    net = SENet(cfg, num_classes)
    return Backbone(net, ["classifier"], [["stem"], *([f"stages.{i}"] for i in range(len(widths)))])
