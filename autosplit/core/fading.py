"""What a channel's rate and losses do over time, as blocks of a channel profile.

Bandwidth and signal-to-noise ratio give a rate (Shannon, Bell System Technical Journal 27, 1948), of which real modems
reach a share, up to what their densest modulation carries. Fading moves the ratio: Rayleigh fading from block to block
(the power of many scattered paths is exponential; blocks as in Ozarow, Shamai, Wyner, IEEE Trans. Veh. Technol. 43,
1994), log-normal shadowing from transfer to transfer. A trace gives recorded rates instead. Losses come in bursts
where a two-state Markov chain says so (Gilbert, Bell System Technical Journal 39, 1960; Elliott, 42, 1963).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pydantic import Field, field_validator, model_validator

from autosplit.core.arrays import Array
from autosplit.core.parameters import Decibels, Parameter, absent
from autosplit.core.recorded import RecordedFile
from autosplit.core.traces import Samples, read_trace
from autosplit.core.validation import Frozen

__all__ = ["Bursts", "Chain", "Rayleigh", "Shadowing", "Shannon", "Trace", "bits_per_hz",
           "faded_bits_per_hz", "mean_bits_per_hz", "stationary_loss"]

Chain = tuple[float, float, float, float]
"""Loss in the good and in the bad state, mean number of transmissions that the good and the bad state last."""

_LONGEST = 1000.0  # transmissions that a state lasts: beyond it a transfer sees one state only
_MOST_LOSS = 0.99  # tables of retransmissions grow with 1 / (1 - loss)


class Shannon(Frozen):
    """Rate from bandwidth and signal-to-noise ratio: bandwidth * min(efficiency * log2(1 + snr), most_bits_per_hz).

    Attributes:
        bandwidth_khz: Bandwidth, kilohertz.
        snr_db: Signal-to-noise ratio, decibels: the mean power under Rayleigh fading, the median under shadowing.
        efficiency: Share of Shannon's bound that the modem reaches, above 0 and at most 1.
        most_bits_per_hz: What the densest modulation and code carry, bits per second and hertz; no limit if left out.
    """

    bandwidth_khz: Parameter
    snr_db: Decibels
    efficiency: Parameter
    most_bits_per_hz: Parameter | None = Field(default=None, exclude_if=absent)

    @model_validator(mode="after")
    def _sensible(self) -> Shannon:
        if self.bandwidth_khz.value <= 0:
            raise ValueError("bandwidth_khz must be above 0")
        if not 0 < self.efficiency.value <= 1:
            raise ValueError(f"efficiency must be above 0 and at most 1, got {self.efficiency.value:g}")
        if self.most_bits_per_hz is not None and self.most_bits_per_hz.value <= 0:
            raise ValueError("most_bits_per_hz must be above 0; leave it out for no limit")
        return self

    @property
    def most(self) -> float:
        """`most_bits_per_hz`, or infinity."""
        return np.inf if self.most_bits_per_hz is None else self.most_bits_per_hz.value

    def scaled(self, rate: float) -> Shannon:
        """The same link with so many times the bandwidth."""
        return self.model_copy(update={"bandwidth_khz": self.bandwidth_khz.times(rate)})


class Rayleigh(Frozen):
    """Block fading: the signal-to-noise ratio is drawn anew, exponentially, whenever the coherence time has passed.

    Attributes:
        coherence_ms: How long a block holds, milliseconds; about 423 / (Doppler frequency in hertz) after Clarke's and
            Jakes' model, with the Doppler frequency speed * carrier frequency / speed of light.
    """

    coherence_ms: Parameter

    @field_validator("coherence_ms")
    @classmethod
    def _positive(cls, value: Parameter) -> Parameter:
        if value.value <= 0:
            raise ValueError("must be above 0")
        return value


class Shadowing(Frozen):
    """Obstacles: the signal-to-noise ratio of a transfer is normal in decibels around `snr_db`.

    Attributes:
        sigma_db: Standard deviation, decibels.
    """

    sigma_db: Parameter

    @field_validator("sigma_db")
    @classmethod
    def _moderate(cls, value: Parameter) -> Parameter:
        if value.value > 20:
            raise ValueError(f"must be at most 20 dB, got {value.value:g}")
        return value


class Trace(RecordedFile):
    """Recorded rates, played in a loop from an instant drawn uniformly: a CSV with the columns `time_s,rate_kbps`.

    Attributes:
        file: See `RecordedFile`.
        factor: See `RecordedFile`.
        sha256: See `RecordedFile`.
        source: Where it was recorded, or how it was made up.
        assumption: Whether it was made up.
    """

    what = "trace"
    changed = "is not the file that was recorded; restore it, or leave out sha256 to take it as it is"

    source: str = Field(min_length=3)
    assumption: bool = False

    @classmethod
    def check(cls, file: str, sha256: str) -> None:
        """See `RecordedFile.check`."""
        read_trace(file, sha256)

    @property
    def samples(self) -> Samples:
        """The file's content, without the factor."""
        return read_trace(self.file, self.sha256)

    def scaled(self, rate: float) -> Trace:
        """The same trace with so many times the rates."""
        return self.model_copy(update={"factor": self.factor * rate, "assumption": True})


class Bursts(Frozen):
    """Losses in bursts: a chain of a good and a bad state steps at every transmission of a packet.

    Attributes:
        good_loss: Probability that a packet sent in the good state is lost.
        bad_loss: The same in the bad state.
        good_packets: Mean number of transmissions that the good state lasts, at least 1.
        bad_packets: The same of the bad state.
    """

    good_loss: Parameter
    bad_loss: Parameter
    good_packets: Parameter
    bad_packets: Parameter

    @model_validator(mode="after")
    def _sensible(self) -> Bursts:
        for name in ("good_loss", "bad_loss"):
            if getattr(self, name).value > 1:
                raise ValueError(f"{name} is a probability, got {getattr(self, name).value:g}")
        for name in ("good_packets", "bad_packets"):
            if not 1 <= getattr(self, name).value <= _LONGEST:
                raise ValueError(f"{name} must be between 1 and {_LONGEST:,.0f}, "
                                 f"got {getattr(self, name).value:g}")
        if self.loss > _MOST_LOSS:
            raise ValueError(f"{self.loss:.2%} of all packets are lost; the states must let through at least 1 %")
        return self

    @property
    def chain(self) -> Chain:
        """The numbers alone."""
        return (self.good_loss.value, self.bad_loss.value, self.good_packets.value, self.bad_packets.value)

    @property
    def loss(self) -> float:
        """Share of transmissions that are lost in the long run."""
        return stationary_loss(self.chain)


def stationary_loss(chain: Chain) -> float:
    """Share of transmissions that are lost in the long run: each state counts by the time spent in it."""
    good_loss, bad_loss, good, bad = chain
    return (good * good_loss + bad * bad_loss) / (good + bad)


def bits_per_hz(snr: Array, efficiency: float, most: float) -> Array:
    """Spectral efficiency, bits per second and hertz.

    Args:
        snr: Signal-to-noise ratio as a plain ratio, any shape.
        efficiency: Share of Shannon's bound.
        most: Upper limit, infinity for none.
    """
    reached: Array = np.minimum(efficiency * np.log2(1.0 + snr), most)
    return reached


def mean_bits_per_hz(shannon: Shannon, rayleigh: Rayleigh | None, shadowing: Shadowing | None) -> float:
    """Mean spectral efficiency over all fading, bits per second and hertz; over shadowing by the trapezoidal rule."""
    sigma_db = 0.0 if shadowing is None else shadowing.sigma_db.value
    return _mean(shannon.snr_db.value, shannon.efficiency.value, shannon.most, rayleigh is not None, sigma_db)


@lru_cache(maxsize=256)
def _mean(snr_db: float, efficiency: float, most: float, rayleigh: bool, sigma_db: float) -> float:
    z, weights = np.zeros(1), np.ones(1)
    if sigma_db > 0:
        # up to eight standard deviations, where the density is 1e-14 of its peak
        z = np.linspace(-8.0, 8.0, 1601)
        weights = np.exp(-z**2 / 2)
    snr = 10.0 ** ((snr_db + sigma_db * z) / 10.0)
    reached = (faded_bits_per_hz if rayleigh else bits_per_hz)(snr, efficiency, most)
    return float((weights * reached).sum() / weights.sum())


def faded_bits_per_hz(snr: Array, efficiency: float, most: float) -> Array:
    """Mean of `bits_per_hz` under Rayleigh fading, bits per second and hertz.

    With the mean ratio g it is the integral of P(log2(1 + snr) > r) = exp(-(2 ** r - 1) / g) over r, by Gauss-Legendre
    quadrature.

    Args:
        snr: Mean signal-to-noise ratio as a plain ratio, shape (N,).
        efficiency: Share of Shannon's bound.
        most: Upper limit, infinity for none.
    """
    nodes, gauss = np.polynomial.legendre.leggauss(64)
    upper = np.minimum(np.log2(1.0 + 40.0 * snr), most / efficiency)[:, None]  # beyond 40 times the mean: exp(-40)
    bits = upper * (nodes + 1.0) / 2.0
    survival: Array = np.exp(-np.expm1(bits * np.log(2.0)) / snr[:, None])
    mean: Array = (survival * gauss).sum(axis=1) * upper[:, 0] / 2.0
    return efficiency * mean
