"""A learned model of how the values of a code are distributed, so that its bytes can be a term of the loss.

The entropy coder spends about `-log2 p(symbol)` bits on a symbol. Rounding has no gradient, so in training the same
number is taken of the code with uniform noise of one step's width in place of the rounding, under a smooth density that
is learned at the same time (Balle et al. 2018, arXiv 1802.01436: the factorised prior). One density a channel serves
every step size, which is how one set of weights serves all rates (Cui et al. 2021, arXiv 2003.02012).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autosplit.compression.codecs.base import Quantiser
from autosplit.compression.quantise import fake_quantise, levels, quantise
from autosplit.data.base import in_batches
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables

__all__ = ["EntropyModel", "RateQuantiser"]

_LEAST = 2.0**-16  # the coder's tables give no symbol less
# of the logarithm of the price, per logarithm of bits too many: what stays with each step, and what holds for one step
_INTEGRAL, _PROPORTIONAL = 0.2, 2.0


class EntropyModel(nn.Module):
    """Density of each channel of a code: a mixture of logistic distributions.

    Args:
        channels: Channels of the code.
        components: Logistic distributions a channel.
    """

    def __init__(self, channels: int, components: int = 3) -> None:
        super().__init__()
        # narrow to wide around zero: codes have zero mean and unit variance, and many a value near zero
        self.centre = nn.Parameter(torch.linspace(-0.5, 0.5, components).repeat(channels, 1))
        self.log_scale = nn.Parameter(torch.linspace(-1.7, -0.3, components).repeat(channels, 1))
        self.logit = nn.Parameter(torch.zeros(channels, components))

    def bits(self, code: Tensor, step: Tensor, channels: Tensor | None = None) -> Tensor:
        """Bits that each image's code takes.

        Args:
            code: (N, K, gh, gw).
            step: Distance of two levels, (K, 1, 1).
            channels: Which K channels of the model these are; all by default.

        Returns:
            Shape (N,); differentiable in the code, the steps and the density.
        """
        centre, log_scale, logit = (p if channels is None else p[channels]
                                    for p in (self.centre, self.log_scale, self.logit))
        shape = (-1, 1, 1, centre.shape[1])
        noisy = code + (torch.rand_like(code) - 0.5) * step
        offset = noisy[..., None] - centre.view(shape)
        inverse = torch.exp(-log_scale).view(shape)
        half = step[..., None] / 2
        # the difference of two sigmoids in the tail where they are small, or it would be one of two ones
        side = -torch.sign(offset).detach()
        mass = (torch.sigmoid(side * (offset + half) * inverse) - torch.sigmoid(side * (offset - half) * inverse)).abs()
        weight = torch.softmax(logit, 1).view(shape)
        return -torch.log2((mass * weight).sum(-1).clamp_min(_LEAST)).sum((1, 2, 3))


class RateQuantiser(Quantiser):
    """A quantiser with a learned step for each channel, which knows what its symbols cost.

    The range is as many steps as the bits have levels; what lies beyond is clipped.

    At a fixed price, a network that gets better at its task also sends less. Once `hold` was called, training keeps the
    bytes instead and adapts the price, as the rate control of a video encoder does: a bit is dearer where a batch took
    more than it may, and cheaper where it took less. What it took is the entropy of its symbols, as the coder finds it,
    and not the bits with noise: those of coarse steps are many more, and stay so when nearly all symbols become zero.
    The gradient is that of noise all the same; rounded symbols, passed straight through, do not find their way out of
    zero.

    Args:
        bits: Bits of a symbol before entropy coding.
        channels: Channels of the code.
        price: What one bit of a code costs in the loss, at first.
    """

    price: Tensor
    held_bits: Tensor

    def __init__(self, bits: int, channels: int, price: float) -> None:
        super().__init__(bits, channels, limit=levels(bits) / 2, learned=False)
        self.log_step = nn.Parameter(torch.zeros(channels, 1, 1))
        self.entropy_model = EntropyModel(channels)
        self.register_buffer("price", torch.tensor(price))
        self.register_buffer("held_bits", torch.tensor(0.0))
        self._cost = torch.zeros(())

    @property
    def bound(self) -> Tensor:
        """Values are clipped to [-bound, bound], (channels, 1, 1)."""
        return self.limit * self.log_step.exp()

    def forward(self, code: Tensor) -> Tensor:
        """Code -> the values that the decoder will see; in training the code's cost is kept for `cost`."""
        if self.training:
            price = self.price
            if self.held_bits > 0:
                excess = torch.log(self._spent(code) / self.held_bits).clamp(-1, 1)
                self.price *= torch.exp(_INTEGRAL * excess)
                price = self.price * torch.exp(_PROPORTIONAL * excess)
            self._cost = price * self.entropy_model.bits(code, self.log_step.exp()).mean()
        return fake_quantise(code, self.bits, self.bound)

    def hold(self, code: Tensor, batch: int) -> None:
        """Keep, in training, the bytes that a code takes now.

        Args:
            code: Of some images, (N, K, gh, gw).
            batch: Images of a batch in training: the entropy of few symbols is less than that of many.
        """
        size = min(batch, len(code))
        spent = [self._spent(part) for part in in_batches(code, size) if len(part) == size]
        self.held_bits.copy_(torch.stack(spent).mean())

    def _spent(self, code: Tensor) -> Tensor:
        """Bits that the coder spends on an image of a batch (N, K, gh, gw), with tables of its own; at least 1.

        Without contexts, of which the tables of a batch would have too few symbols.
        """
        symbols = quantise(code.detach(), self.bits, self.bound.detach()).clamp_min(0).cpu().numpy()  # -1 is NaN
        tables = FrequencyTables.fit(symbols, self.bits, contexts=False)
        return torch.tensor(max(1.0, tables.entropy_bits(symbols).mean()))

    def cost(self) -> Tensor:
        """What the bits of the last batch add to the loss; asked for once a batch."""
        cost, self._cost = self._cost, torch.zeros(())  # a network that is copied must not hold a graph
        return cost

    def expected(self) -> NDArray[np.float64]:
        """How probable each symbol is under the learned density, (channels, levels); the outermost have its tails."""
        model, step = self.entropy_model, self.log_step.detach().cpu().exp()[:, 0].double()
        with torch.no_grad():
            centre, log_scale = (t.cpu().double()[:, None] for t in (model.centre, model.log_scale))
            edges = (torch.arange(levels(self.bits) - 1, dtype=torch.float64) - levels(self.bits) // 2 + 0.5) * step
            scaled = (edges[..., None] - centre) * torch.exp(-log_scale)
            below = (torch.sigmoid(scaled) * torch.softmax(model.logit, 1).cpu().double()[:, None]).sum(-1)
            whole = torch.cat([torch.zeros_like(step), below, torch.ones_like(step)], 1)
        return np.asarray(whole.diff(dim=1).clamp_min(0).numpy())


def prices(rates: int) -> list[float]:
    """What one bit costs in the loss at each rate, dearest (fewest bytes) first.

    The loss is that of distillation: 1 stands for a network that is about as good as lost, so that 0.03 is paid for
    codes of some tens of bytes and 0.0001 for a few kilobytes.
    """
    dearest, cheapest = 3e-2, 1e-4
    span = math.log(cheapest / dearest) / max(1, rates - 1)
    return [dearest * math.exp(span * i) for i in range(rates)]
