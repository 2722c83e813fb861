"""A backbone of your own: a small CNN for images of at least 16x16.

    autosplit search --backbone examples/backbone.py:small_cnn --budget-ms 100
    autosplit search --backbone examples/backbone.py:small_cnn --dry-run

A factory is called with `num_classes` and `in_channels`, each only if it has a parameter of that name. The network
takes images (N, C, H, W), returns logits (N, num_classes), and has no control flow that depends on tensor values, so
that `torch.fx` can trace it. Each block is a module of its own: its end becomes a split point, named like the
attribute. Trained weights come with `--weights my-weights.safetensors`; without them autosplit trains the network.
"""

from __future__ import annotations

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three blocks of convolution, batch norm, ReLU and pooling, then a linear classifier.

    Args:
        num_classes: Outputs.
        in_channels: Channels of an image.
        width: Channels of the first block; doubled in the second and third.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int = 16) -> None:
        super().__init__()
        self.block1 = _block(in_channels, width)
        self.block2 = _block(width, 2 * width)
        self.block3 = _block(2 * width, 4 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        x = self.block3(self.block2(self.block1(x)))
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)
    )


def small_cnn(num_classes: int, in_channels: int) -> SmallCNN:
    """What `--backbone` names."""
    return SmallCNN(num_classes, in_channels)
