"""Networks and measures that tests of int8 share."""

from __future__ import annotations

import torch
import torchvision
from torch import fx, nn
from torch.nn import functional as F

from autosplit.compression.int8 import FloatGraph, place_observers
from autosplit.compression.int8_layers import Requantise
from autosplit.compression.network import recalibrate
from autosplit.models.splitting import cut, find_split_points
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8, resnet20, resnet56
from tests.tiny import randomise_norms

ZOO = {"resnet8": resnet8, "resnet20": resnet20, "resnet56": resnet56}


def images(n=16, size=32, seed=0, channels=3):
    """Noise on three scales, so that images differ as photographs do."""
    generator = torch.Generator().manual_seed(seed)

    def noise(side):
        x = torch.randn(n, channels, side, side, generator=generator)
        return F.interpolate(x, size=size, mode="bilinear") if side < size else x

    return noise(size) / 2 + noise(4) + noise(12)


def ready(network, x, seed=0):
    """In evaluation mode, batch norms with statistics of `x` and scales of their own."""
    for i, norm in enumerate(m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.affine):
        randomise_norms(norm, seed + i)
    recalibrate(network, x, len(x))
    return network.eval()


def build(name, x, split=""):
    """A network of the zoo or of torchvision, up to a split point where one is given."""
    torch.manual_seed(0)
    network = ZOO[name]() if name in ZOO else torchvision.models.get_model(name, num_classes=10)
    graph = trace(ready(network, x), tuple(x.shape[1:]))
    if not split:
        return graph
    return cut(graph, next(p for p in find_split_points(graph, tuple(x.shape[1:])) if split in (p.name, *p.aliases)))[0]


def run(network, x):
    with torch.inference_mode():
        return network(x)


def snr_db(reference, other):
    return float(10 * torch.log10(reference.var() / (reference - other).square().mean()))


def weakest_step_db(network, quantised, x):
    """Lowest ratio of signal to error among the steps of a quantised network, each given what the last one made.

    What an untrained network makes of the errors of its first layers says little; a wrong scale anywhere shows here.
    """
    net = FloatGraph(network)
    place_observers(net)
    exact = fx.Interpreter(net.build())
    found = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n):
            found[n.name] = super().run_node(n)
            return found[n.name]

    with torch.inference_mode():
        Recorder(quantised).run(x)
        ratios = {}
        for node in exact.module.graph.nodes:
            if node.op in {"call_module", "call_function", "call_method"}:
                exact.env = {n: found[n.name] for n in node.all_input_nodes}
                out = exact.run_node(node)
                got = found.setdefault(node.name, out)  # in a table, together with the rounding that follows
                step = getattr(quantised, node.name, None)
                if isinstance(step, Requantise) and isinstance(out, torch.Tensor) and out.is_floating_point():
                    out = out.clamp(-step.zero * step.scale, (255 - step.zero) * step.scale)  # ranges are tested apart
                if isinstance(out, torch.Tensor) and out.is_floating_point():
                    ratios[node.name] = float(10 * torch.log10(out.square().sum() / (got - out).square().sum()))
    return min(ratios.values())


def count(network, kind):
    return sum(type(m) is kind for m in network.modules())


def layout(network):
    return {name: (t.shape, t.dtype) for name, t in network.state_dict().items()}


class Encoder(nn.Module):
    """As the codecs have it."""

    def __init__(self, channels, width, patch, grid, margin=0):
        super().__init__()
        self.pad = nn.ZeroPad2d((0, margin, 0, margin)) if margin else nn.Identity()
        self.conv = nn.Conv2d(channels, width, patch, patch, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(grid) if grid else nn.Identity()
        self.norm = nn.BatchNorm2d(width, affine=False)

    def forward(self, x):
        return self.norm(self.pool(self.conv(self.pad(x))))


class Mixed(nn.Module):
    """One of each kind of operation that is computed on integers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.norm, self.pool = nn.BatchNorm2d(16), nn.AvgPool2d(3, 2, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu6(self.depthwise(x))
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        y += x
        left, right = (y * scale).chunk(2, 1)
        x = F.hardtanh(self.norm(torch.cat([x, right, left], 1)), -2.0, 2.0)
        x = F.dropout(F.max_pool2d(F.pad(self.pool(x), (1, 0, 1, 0)), 2), 0.5, self.training)
        return self.head(x.mean([2, 3]).view(x.size(0), -1))
