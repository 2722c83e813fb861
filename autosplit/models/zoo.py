"""Small networks for 32x32 images, written so that block ends have clear names."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ResNetSmall", "resnet8", "resnet18_32", "resnet20", "resnet56"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016); a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]


class ResNetSmall(nn.Module):
    """A residual network of three stages for small images.

    With one block a stage and width 16 it is the ResNet-8 of MLPerf Tiny (Banbury et al. 2021): 12.5 million
    multiply-accumulates on 32x32 RGB images.

    Args:
        blocks: Blocks a stage.
        num_classes: Outputs.
        in_channels: Channels of the image.
        width: Channels of the first stage; doubled in the second and third.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        widths = (width, 2 * width, 4 * width)
        self.layer1 = self._stage(width, widths[0], blocks, 1)
        self.layer2 = self._stage(widths[0], widths[1], blocks, 2)
        self.layer3 = self._stage(widths[1], widths[2], blocks, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[2], num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.flatten(self.pool(x)))  # type: ignore[no-any-return]


def resnet8(num_classes: int = 10, in_channels: int = 3) -> ResNetSmall:
    """MLPerf Tiny's image classification network."""
    return ResNetSmall(1, num_classes, in_channels)


def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNetSmall:
    """He et al. 2016, CIFAR variant, 20 layers."""
    return ResNetSmall(3, num_classes, in_channels)


def resnet56(num_classes: int = 10, in_channels: int = 3) -> ResNetSmall:
    """He et al. 2016, CIFAR variant, 56 layers."""
    return ResNetSmall(9, num_classes, in_channels)


def resnet18_32(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Torchvision's ResNet-18 for 32x32 images: a 3x3 stem of stride 1 and no max pooling, 0.56 billion MACs."""
    from torchvision.models import resnet18

    model: nn.Module = resnet18(weights=None, num_classes=num_classes)
    stem = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as torchvision draws the others
    model.conv1 = stem
    model.maxpool = nn.Sequential()  # leaves no node in the graph, unlike nn.Identity
    return model
