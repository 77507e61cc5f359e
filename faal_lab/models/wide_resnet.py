"""Wide ResNets (Zagoruyko and Komodakis, BMVC 2016): few layers, many filters.

State-dict names are those of the TRADES release (Zhang et al., ICML 2019), which Rice et al., MART and AWP share. That release
also stores `sub_block1`, a second first block that no image passes; it is not made here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from faal_lab.models.normalize import Normalize, Normalized


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and ReLU; where the width changes, so does the shortcut, by 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        active = F.relu(self.bn1(x))
        kept = x if self.convShortcut is None else self.convShortcut(active)
        return kept + self.conv2(F.relu(self.bn2(self.conv1(active))))


class WideStage(nn.Module):
    """`depth` blocks of one width, in a `layer` of their own for the names' sake."""

    def __init__(self, depth: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        rest = [WideBlock(outputs, outputs, 1) for _ in range(depth - 1)]
        self.layer = nn.Sequential(WideBlock(inputs, outputs, stride), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        return self.layer(x)


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks, 16, 32 and 64 filters wide, times `widen`; no dropout.

    Convolutions start from He's normal of the fan out, the linear layer's bias at zero.
    """

    def __init__(self, depth: int, widen: int, num_classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = WideStage(blocks, 16, 16 * widen, 1)
        self.block2 = WideStage(blocks, 16 * widen, 32 * widen, 2)
        self.block3 = WideStage(blocks, 32 * widen, 64 * widen, 2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels)))
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, channels, H, W] to logits [B, num_classes]."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))  # the 8x8 average pool of 32x32 images, at any size


def wide_resnet(
    depth: int,
    widen: int,
    num_classes: int,
    channels: int,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Normalized:
    """WRN-`depth`-`widen` behind its normalisation; images of 8x8 (`size`) and more."""
    return Normalized(Normalize(mean, std), WideResNet(depth, widen, num_classes, channels))
