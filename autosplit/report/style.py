"""What all figures share: colours, fonts, and how they are written to a file.

Drawn with matplotlib's object interface (no pyplot, no global state, no display); equal input gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autosplit.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GOLD", "GRID", "INK", "RED", "SOFT", "figure_file", "plain_number"]

INK, SOFT, RED, GOLD, GRID = "#222222", "#6b6b6b", "#b3261e", "#f5b800", "#e4e4e4"
_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.labelcolor": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "axes.edgecolor": SOFT, "axes.spines.top": False,
    "axes.spines.right": False, "svg.hashsalt": "autosplit", "svg.fonttype": "none", "pdf.fonttype": 42,
}
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
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=size, dpi=150)
        FigureCanvasAgg(figure)
        yield figure
        for path in paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                figure.savefig(path, metadata=_METADATA[path.suffix])
            except OSError as e:
                raise ConfigError(f"cannot write {path}: {e.strerror or e}; give another directory with --out") from e


def plain_number(value: float) -> str:
    """A tick of a logarithmic axis, without powers of ten."""
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"
