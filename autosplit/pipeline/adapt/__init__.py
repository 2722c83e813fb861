"""`adapt`: from a finished run to a bundle of several rates, and which of them goes with which link."""

from __future__ import annotations

from autosplit.pipeline.adapt.run import Adapted, adapt

__all__ = ["Adapted", "adapt"]
