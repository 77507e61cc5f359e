"""A small convolutional network, for digits and other small pictures on a laptop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from faal_lab.models.normalize import Normalize


class SmallConvNet(nn.Module):
    """Two 3x3 convolutions, a map of at most 4x4, and one linear layer: quick enough for AutoAttack on a laptop.

    Images of 24 pixels and more are halved once more in the first convolution.
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
        """Images [B, channels, H, W] in [0, 1] to logits [B, num_classes]."""
        return self.classifier(self.pool(self.features(self.normalize(images))).flatten(1))
