"""A bundle on disk: its manifest, the networks of both halves, its self-check.

Imports `payload` and `control` alone. Begin with `load_device` and `load_edge`; `docs/deploying.md` describes the
files.
"""

from .parts import load_device, load_edge

__all__ = ["load_device", "load_edge"]
