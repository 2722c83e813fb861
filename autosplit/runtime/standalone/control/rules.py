"""Controllers without training: one level for all, the best one for this picture, and two that mind the queue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .view import Array, BoolArray, IntArray, View

__all__ = ["DriftPlusPenalty", "FairShare", "Fixed", "Myopic", "QueueAware", "Rule"]

_MARGINS = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class Fixed:
    """Always the same level.

    Attributes:
        level: Its number.
    """

    level: int

    def decide(self, view: View) -> IntArray:
        """See `Controller.decide`."""
        return np.full(len(view.age_ms), self.level)

    @classmethod
    def all(cls, levels: int) -> list[Fixed]:
        """Those to choose among."""
        return [cls(k) for k in range(levels)]


@dataclass(frozen=True)
class Myopic:
    """The level that is worth most of those that the picture in hand can be answered by in time, or the quickest.

    What a bundle with several rates does on the device (`RateSwitch`), and what it cannot know: how old the picture is.

    Attributes:
        margin: By which predicted times are multiplied.
        skips: Whether to skip a picture that no level is expected to answer in time.
    """

    margin: float = 1.0
    skips: bool = False

    def decide(self, view: View) -> IntArray:
        """See `Controller.decide`."""
        fits = _fits(view, view.left_ms / self.margin)
        return _or_else(_best(_worth(view), fits), fits, self.skips, view)

    @classmethod
    def all(cls, levels: int) -> list[Myopic]:  # noqa: ARG003
        """Those to choose among."""
        return [cls(margin, skips) for margin in _MARGINS for skips in (False, True)]


@dataclass(frozen=True)
class QueueAware:
    """Like `Myopic`, with less time for a picture the more are waiting behind it.

    Attributes:
        margin: By which predicted times are multiplied.
        yielding: A waiting picture takes this share of the time: with n waiting 1 / (1 + yielding * n) is left.
        skips: As of `Myopic`.
    """

    margin: float
    yielding: float
    skips: bool = False

    def decide(self, view: View) -> IntArray:
        """See `Controller.decide`."""
        left = view.left_ms / self.margin
        fits = _fits(view, left)
        quick = fits & (view.takes_ms <= (left / (1 + self.yielding * view.waiting))[:, None])
        # where nothing is quick enough, the quickest that fits
        quickest = np.where(fits, view.takes_ms, np.inf).argmin(axis=1)
        found = np.where(quick.any(axis=1), _best(_worth(view), quick), quickest)
        return _or_else(found, fits, self.skips, view)

    @classmethod
    def all(cls, levels: int) -> list[QueueAware]:  # noqa: ARG003
        """Those to choose among."""
        return [cls(margin, share, skips) for margin in _MARGINS for share in (0.1, 0.3, 1.0, 3.0)
                for skips in (False, True)]


@dataclass(frozen=True)
class FairShare:
    """Like `Myopic`, of those levels that take no more of the link than is the device's due; the quickest if none is.

    Of n devices each may send for a share of 1 / n of the time, in the long run and at its profile's rate.

    Attributes:
        share: In multiples of that.
        margin: As of `Myopic`.
        skips: As of `Myopic`.
    """

    share: float = 1.0
    margin: float = 1.0
    skips: bool = False

    def decide(self, view: View) -> IntArray:
        """See `Controller.decide`."""
        due = view.air_ms * view.usual_per_s[:, None] / 1e3 <= (self.share / view.sharing)[:, None]
        fits = _fits(view, view.left_ms / self.margin)
        quickest = np.where(fits, view.takes_ms, np.inf).argmin(axis=1)
        found = np.where((fits & due).any(axis=1), _best(_worth(view), fits & due), quickest)
        return _or_else(found, fits, self.skips, view)

    @classmethod
    def all(cls, levels: int) -> list[FairShare]:  # noqa: ARG003
        """Those to choose among."""
        return [cls(share, margin, skips) for share in (0.15, 0.3, 0.5, 0.8, 1.2, 2.0) for margin in _MARGINS
                for skips in (False, True)]


@dataclass(frozen=True)
class DriftPlusPenalty:
    """Lyapunov optimisation: weighs what a level brings against how long the queue waits for it.

    Of all levels that fit the one with the highest (V * reward - Q * (arrivals in the frame - 1)) / frame, where Q are
    the pictures held: drift plus penalty over a renewal frame (Neely, Stochastic Network Optimization, 2010, chapter
    7). A frame lasts while the device is busy, and where nothing waits until the next arrival is expected.

    Attributes:
        margin: By which predicted times are multiplied.
        weight: V, of what is gained against the queue.
        skips: As of `Myopic`.
    """

    margin: float
    weight: float
    skips: bool = False

    def decide(self, view: View) -> IntArray:
        """See `Controller.decide`."""
        fits = _fits(view, view.left_ms / self.margin)
        held = (view.waiting + 1.0)[:, None]
        gain = self.weight * _worth(view)
        gap_ms = np.where(view.waiting > 0, 1e-3, 1e3 / view.arrivals_per_s)[:, None]
        frame_ms = np.maximum(view.busy_ms, gap_ms)
        drift = held * (view.arrivals_per_s[:, None] * frame_ms / 1e3 - 1.0)
        return _or_else(_best((gain - drift) / frame_ms, fits), fits, self.skips, view)

    @classmethod
    def all(cls, levels: int) -> list[DriftPlusPenalty]:  # noqa: ARG003
        """Those to choose among."""
        return [cls(margin, weight, skips) for margin in _MARGINS for weight in (0.1, 0.3, 1.0, 3.0, 10.0)
                for skips in (False, True)]


Rule = Fixed | Myopic | QueueAware | FairShare | DriftPlusPenalty
"""Any of them; `all` of its class gives the settings to choose among."""


def _worth(view: View) -> Array:
    """What an answer in time of each level is worth, shape (n, K)."""
    found: Array = view.accuracy - view.price[:, None] * view.energy_mj
    return found


def _fits(view: View, left_ms: Array) -> BoolArray:
    """Levels that answer within a time, shape (n, K)."""
    found: BoolArray = view.takes_ms <= left_ms[:, None]
    return found


def _or_else(found: IntArray, fits: BoolArray, skips: bool, view: View) -> IntArray:
    """What was found; where no level fits, the quickest one or none, shape (n,)."""
    otherwise = view.levels if skips else view.takes_ms.argmin(axis=1)
    return np.where(fits.any(axis=1), found, otherwise)


def _best(values: Array, allowed: BoolArray) -> IntArray:
    """The highest of the allowed ones of each row; the number of columns where none is."""
    found: IntArray = np.where(allowed, values, -np.inf).argmax(axis=1)
    return np.where(allowed.any(axis=1), found, values.shape[1])
