"""Compression: structured pruning, codecs, quantisation, entropy coding."""

from __future__ import annotations

from autosplit.plugins import Registry

__all__ = ["list_codecs", "load_codec"]

_CODECS = Registry("codec", "autosplit.codecs", {"nested": "autosplit.compression.codecs:NestedCodec"})


def list_codecs() -> list[str]:
    """Names of the codec families, sorted."""
    return _CODECS.names()


def load_codec(name: str) -> type:
    """The class of a codec family.

    Raises:
        UnknownNameError: No codec has this name.
    """
    found: type = _CODECS.load(name)
    return found
