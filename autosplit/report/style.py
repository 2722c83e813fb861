"""What all figures share: colours, fonts, and how they are written to a file.

Drawn with matplotlib's object interface (no pyplot, no global state, no display); equal input gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autosplit.core.errors import ConfigError
from autosplit.core.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DARK", "GOLD", "GRID", "INK", "LOOKS", "RED", "SOFT", "SPAN", "STAGE_COLOURS", "Look", "figure_file",
           "level_range", "look", "nice_ticks", "plain_number", "quantity", "shades", "short_number"]

INK, SOFT, RED, GOLD, GRID = "#222222", "#6b6b6b", "#b3261e", "#f5b800", "#e4e4e4"
DARK = {INK: "#ececec", SOFT: "#a8a8a8", RED: "#ff8a80", GRID: "#3d3d3d", "#ffffff": "#1b1c1e",
        "#7b4fa3": "#b48ad6", "#a08060": "#c4a484"}
"""What a colour of the figures becomes on a dark page."""

SPAN = 45.0
"""Percentage points that a figure tells apart; what is further below the best plan is hopeless."""

STAGE_COLOURS = {"device": "#0072b2", "encode": "#56b4e9", "uplink": "#e69f00", "edge": "#009e73",
                 "downlink": "#cc79a7"}
"""Colours of the stages, Okabe and Ito's."""

_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.labelcolor": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "axes.edgecolor": SOFT, "axes.spines.top": False,
    "axes.spines.right": False, "text.parse_math": False,  # a dollar in a name is one
    "svg.hashsalt": "autosplit", "svg.fonttype": "none", "pdf.fonttype": 42,
}
# Dates and versions within a file would make equal figures differ.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None}, ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@contextmanager
def figure_file(*paths: Path, size: tuple[float, float] = (10.0, 5.8)) -> Iterator[Figure]:
    """An empty figure to draw on, which is written to the paths in the end.

    Args:
        paths: Files to write: `.png`, `.svg` or `.pdf`.
        size: Width and height, inches.

    Raises:
        ConfigError: A file cannot be written or its format is not one of these.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for path in paths:
        if path.suffix not in _METADATA:
            raise ConfigError(f"{path}: figures are written as {', '.join(_METADATA)}")
    with mpl.rc_context():
        # A user's own settings must not change the figures.
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        # No pyplot, which keeps figures and asks for a display.
        figure = Figure(figsize=size, dpi=150)
        FigureCanvasAgg(figure)
        yield figure
        for path in paths:
            try:
                with written_whole(path) as draft:
                    figure.savefig(draft, metadata=_METADATA[path.suffix])
            except OSError as e:
                raise ConfigError(f"cannot write {path}: {e.strerror or e}; give another directory with --out") from e


def plain_number(value: float) -> str:
    """A tick of a logarithmic axis, without powers of ten."""
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def short_number(value: float) -> str:
    """Three figures, no powers of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def quantity(value: float, unit: str) -> str:
    """Three figures and the unit."""
    return f"{short_number(value)} {unit}"


def level_range(levels: NDArray[np.float64]) -> tuple[float, float]:
    """The range of per cent in which plans differ, for the colours of a heat map: not down to the hopeless ones.

    Args:
        levels: Any shape, NaN where nothing is known.
    """
    known = levels[np.isfinite(levels)]
    low, top = (float(known.min()), float(known.max())) if known.size else (0.0, 100.0)
    return max(low, top - SPAN), top


def nice_ticks(values: NDArray[np.float64], home: int) -> tuple[tuple[float, str], ...]:
    """Every fourth place of a grid with four steps an octave, the scenario's own among them, and what is written there.

    Args:
        values: The grid, ascending.
        home: The scenario's own place.
    """
    return tuple((float(i), plain_number(float(f"{values[i]:.2g}"))) for i in range(home % 4, len(values), 4))


@dataclass(frozen=True)
class Look:
    """How a baseline or a codec is drawn in every figure.

    Attributes:
        label: In legends.
        colour: Of its line and mark.
        marker: Of its mark.
    """

    label: str
    colour: str
    marker: str


# Okabe and Ito's colours, which people with any kind of colour vision tell apart, and greys for what learns nothing
LOOKS = {
    "device": Look("whole network on device", INK, "s"),
    "device-pruned": Look("pruned network on device", INK, "d"),
    "device-reduced": Look("network on device, smaller pictures", INK, "p"),
    "file": Look("own files as they are", SOFT, "8"),
    "finalist": Look("another finalist", GOLD, "o"),
    "png": Look("raw image (PNG)", SOFT, "D"),
    "jpeg": Look("JPEG", "#d55e00", "^"),
    "jpeg-shared": Look("JPEG with shared tables", RED, "v"),
    "webp": Look("WebP", "#5b8c2a", "^"),
    "webp-shared": Look("WebP with shared tables", "#5b8c2a", "v"),
    "avif": Look("AVIF", "#7a6bb5", "^"),
    "avif-shared": Look("AVIF with shared tables", "#7a6bb5", "v"),
    "raw": Look("split, fp32 feature", "#a08060", "P"),
    "two-step": Look("split + pruning (2-step)", "#7b4fa3", "X"),
    "aecnn": Look("AECNN", "#0072b2", "o"),
    "bottlenet++": Look("BottleNet++", "#009e73", "h"),
    "jalad": Look("JALAD", "#56b4e9", "p"),
    "entropic": Look("Entropic Student", "#005f40", ">"),
    "uniform": Look("uniform 50 %, 64x", "#cc79a7", "<"),
    "autosplit": Look("autosplit", GOLD, "*"),
    "nested": Look("nested (autosplit's codec)", GOLD, "*"),
    "factorised": Look("factorised (autosplit's, with bits in the loss)", "#8c510a", "*"),
}


def look(name: str) -> Look:
    """How a method or codec family is drawn; one that has no look of its own in grey under its name."""
    return LOOKS.get(name) or Look(name, "#999999", ">")


def shades(count: int) -> list[str]:
    """Colours from dark to light for things in an order, such as split points from shallow to deep, as `#rrggbb`."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    # Not up to the lightest yellow, which cannot be seen on white.
    return [to_hex(colour) for colour in mpl.colormaps["viridis"](np.linspace(0.0, 0.87, count))]
