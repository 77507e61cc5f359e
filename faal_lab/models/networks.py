"""Define the networks for small images: a small CNN, PreActResNet-18, ResNet-18 and Wide ResNets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from faal_lab.models.normalize import Normalize, Normalized


class SmallConvNet(nn.Module):
    """Two 3x3 convolutions, a map of at most 4x4, and one linear layer.

    It is fast enough for AutoAttack on a laptop. For images of 24 pixels and more, the first convolution has stride 2.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        filters: int = 24,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        stride = 2 if min(size) >= 24 else 1
        self.features = nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1, stride=stride),
            nn.ReLU(),
            nn.Conv2d(filters, 2 * filters, 3, padding=1, stride=2),
            nn.ReLU(),
        )
        whole = [-(-side // (2 * stride)) for side in size]
        pooled = [min(4, side) for side in whole]
        self.pool = nn.Identity() if pooled == whole else nn.AdaptiveAvgPool2d((pooled[0], pooled[1]))
        self.classifier = nn.Linear(2 * filters * pooled[0] * pooled[1], num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, channels, H, W] in [0, 1] to logits [B, num_classes]."""
        return self.classifier(self.pool(self.features(self.normalize(images))).flatten(1))


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU.

    A shortcut that changes the shape starts after the first ReLU; any other starts before the batch norm.
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
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        active = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + kept


class PreActResNet18(nn.Module):
    """Four stages of two blocks; 11.2 million weights at 64 filters.

    The first stage is `filters` wide, and each next one is twice as wide.
    """

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
        """Map normalised images [B, channels, H, W] to logits [B, num_classes]."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))  # the 4x4 average pool of 32x32 images, at any size


def preact_resnet_18(
    num_classes: int, channels: int, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], filters: int = 64
) -> Normalized:
    """Build PreActResNet-18 behind its normalisation, for images of 8x8 (`size`) and more."""
    return Normalized(Normalize(mean, std), PreActResNet18(num_classes, channels, filters))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each before a batch norm, and a shortcut added before the last ReLU."""

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
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Four stages of two blocks; 11.2 million weights at 64 filters.

    The first stage is `filters` wide, and each next one is twice as wide.
    """

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
        """Map normalised images [B, channels, H, W] to logits [B, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))  # the 4x4 average pool of 32x32 images, at any size


def resnet_18(
    num_classes: int, channels: int, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], filters: int = 64
) -> Normalized:
    """Build ResNet-18 behind its normalisation, for images of 8x8 (`size`) and more."""
    return Normalized(Normalize(mean, std), ResNet18(num_classes, channels, filters))


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU.

    If the width changes, a 1x1 convolution is the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        active = F.relu(self.bn1(x))
        kept = x if self.convShortcut is None else self.convShortcut(active)
        return kept + self.conv2(F.relu(self.bn2(self.conv1(active))))


class WideStage(nn.Module):
    """`depth` blocks of one width. The attribute `layer` keeps the names of published weights."""

    def __init__(self, depth: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        rest = [WideBlock(outputs, outputs, 1) for _ in range(depth - 1)]
        self.layer = nn.Sequential(WideBlock(inputs, outputs, stride), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        return self.layer(x)


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks, 16, 32 and 64 filters wide, times `widen`; no dropout.

    Convolutions start from He's normal distribution of the fan out, the bias of the linear layer from zero.
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
        """Map normalised images [B, channels, H, W] to logits [B, num_classes]."""
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
    """Build WRN-`depth`-`widen` behind its normalisation, for images of 8x8 (`size`) and more."""
    return Normalized(Normalize(mean, std), WideResNet(depth, widen, num_classes, channels))
