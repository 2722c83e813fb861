"""Every baseline and a search side by side, for one scenario or a list of them."""

from __future__ import annotations

from autosplit.experiments.compare.run import Comparison, Failure, Report, compare

__all__ = ["Comparison", "Failure", "Report", "compare"]
