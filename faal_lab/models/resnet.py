"""ResNet-18 for small images: a 3x3 stem that keeps the size, and no max-pooling (He et al., CVPR 2016).

State-dict names are those of the CIFAR ResNets that the robustness literature shares (conv1, bn1, layer1.0.conv1, linear).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from faal_lab.models.normalize import Normalize, Normalized


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm behind it, and a shortcut that is added before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Four stages of two blocks, `filters` wide and twice as wide in each next one; 11.2 million weights at 64."""

    def __init__(self, num_classes: int, channels: int, filters: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.layer1 = nn.Sequential(BasicBlock(filters, filters, 1), BasicBlock(filters, filters, 1))
        self.layer2 = nn.Sequential(BasicBlock(filters, 2 * filters, 2), BasicBlock(2 * filters, 2 * filters, 1))
        self.layer3 = nn.Sequential(BasicBlock(2 * filters, 4 * filters, 2), BasicBlock(4 * filters, 4 * filters, 1))
        self.layer4 = nn.Sequential(BasicBlock(4 * filters, 8 * filters, 2), BasicBlock(8 * filters, 8 * filters, 1))
        self.linear = nn.Linear(8 * filters, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, channels, H, W] to logits [B, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))  # the 4x4 average pool of 32x32 images, at any size


def resnet_18(
    num_classes: int, channels: int, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], filters: int = 64
) -> Normalized:
    """ResNet-18 behind its normalisation; images of 8x8 (`size`) and more."""
    return Normalized(Normalize(mean, std), ResNet18(num_classes, channels, filters))
