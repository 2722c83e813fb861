"""Compression at the cut: codecs, quantisation of codes, and networks in the int8 arithmetic of small devices.

Imports `core`, `data` and `models`. Begin with `codecs.base`, then `network.SplitNetwork`: the parts of a plan joined.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from autosplit.core.errors import AutosplitError, ConfigError, PluginError
from autosplit.core.hashing import sha256_of
from autosplit.core.plugins import Registry, one_line, source_of

if TYPE_CHECKING:
    from autosplit.compression.codecs.base import Codec, Offer

__all__ = ["build_codec", "codec_key", "list_codecs", "load_codec"]

_WITH_OPTION = 4  # parameters of a family that takes options
_FOLDER = "autosplit.compression.codecs"
_CODECS = Registry("codec", "autosplit.codecs", {
    "nested": f"{_FOLDER}.nested:NestedCodec", "factorised": f"{_FOLDER}.factorised:FactorisedCodec",
    "aecnn": f"{_FOLDER}.aecnn:AecnnCodec",
    "bottlenet++": f"{_FOLDER}.bottlenet:BottleNetCodec", "jalad": f"{_FOLDER}.jalad:JaladCodec",
})


def list_codecs() -> list[str]:
    """Names of the codec families, sorted."""
    return _CODECS.names()


def load_codec(name: str) -> type[Codec]:
    """The class of a codec family.

    Args:
        name: A name of `list_codecs()`, with options behind a colon (`bottlenet++:awgn=0.1`), `package.module:Class`,
            or `path/to/file.py:Class`.

    Raises:
        UnknownNameError: No codec has this name.
        PluginError: It is no codec.
    """
    from autosplit.compression.codecs.base import Codec

    found: Any = _CODECS.load(_parsed(name)[0])
    if not (isinstance(found, type) and issubclass(found, Codec)):
        raise PluginError(f"codec {name!r} is no subclass of autosplit.compression.codecs.base.Codec")
    return found


def codec_key(name: str) -> str:
    """What identifies a codec family in keys of caches: its name, for a plugin with the hash of its file.

    Args:
        name: As for `load_codec`.

    Raises:
        AutosplitError: There is no such codec.
    """
    kind = load_codec(name)
    if kind.__module__.startswith(_FOLDER):
        return name
    return f"{name}@{sha256_of(source_of(kind).encode())[:16]}"


def build_codec(name: str, shape: tuple[int, int, int], offer: Offer, nonnegative: bool) -> Codec:
    """A codec for one split point.

    Args:
        name: As for `load_codec`.
        shape: Channels, height, width of the feature.
        offer: Settings on offer.
        nonnegative: Whether the feature comes out of a ReLU.

    Raises:
        AutosplitError: There is no such codec, or it does not take these options.
    """
    kind, option = load_codec(name), _parsed(name)[1]
    if option and len(inspect.signature(kind).parameters) < _WITH_OPTION:
        raise ConfigError(f"codec {name!r}: {kind.name!r} takes no options")
    try:
        codec: Codec = kind(shape, offer, nonnegative, *([option] if option else []))
    except AutosplitError:  # it says what is wrong itself
        raise
    except Exception as e:
        raise PluginError(f"codec {name!r} cannot be built for a feature of shape {shape}: {one_line(e)}") from e
    codec.family = name
    return codec


def _parsed(name: str) -> tuple[str, str]:
    """Name and options; what follows the colon of `module:Class` is no option."""
    bare, _, option = name.partition(":")
    return (bare, option) if bare in _CODECS.names() else (name, "")
