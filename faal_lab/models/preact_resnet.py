"""PreActResNet-18 for small images (He et al., ECCV 2016), the network that most adversarial training is compared on.

State-dict names and the batch norm behind the last stage are those of Rice, Wong and Kolter's release (ICML 2020); older
PreActResNets go without that one, and their weights do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from faal_lab.models.normalize import Normalize, Normalized


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and ReLU.

    A shortcut that changes the shape is taken behind the first ReLU, any other before the batch norm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        active = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + kept


class PreActResNet18(nn.Module):
    """Four stages of two blocks, `filters` wide and twice as wide in each next one; 11.2 million weights at 64."""

    def __init__(self, num_classes: int, channels: int, filters: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(PreActBlock(filters, filters, 1), PreActBlock(filters, filters, 1))
        self.layer2 = nn.Sequential(PreActBlock(filters, 2 * filters, 2), PreActBlock(2 * filters, 2 * filters, 1))
        self.layer3 = nn.Sequential(PreActBlock(2 * filters, 4 * filters, 2), PreActBlock(4 * filters, 4 * filters, 1))
        self.layer4 = nn.Sequential(PreActBlock(4 * filters, 8 * filters, 2), PreActBlock(8 * filters, 8 * filters, 1))
        self.bn = nn.BatchNorm2d(8 * filters)
        self.linear = nn.Linear(8 * filters, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images [B, channels, H, W] to logits [B, num_classes]."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))  # the 4x4 average pool of 32x32 images, at any size


def preact_resnet_18(
    num_classes: int, channels: int, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], filters: int = 64
) -> Normalized:
    """PreActResNet-18 behind its normalisation; images of 8x8 (`size`) and more."""
    return Normalized(Normalize(mean, std), PreActResNet18(num_classes, channels, filters))
