"""autosplit: deep-RL AutoML for device-edge co-inference."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
