"""A cache of tensors: trained weights are looked up by the hash of whatever determines them.

Nothing in it is precious. An entry that is absent, damaged or unreadable is one to be made again, and a folder
that cannot be written costs time, not the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import platformdirs
import safetensors
import safetensors.torch
import torch
from torch import Tensor

__all__ = ["Cache", "cache_root", "write_whole"]

_log = logging.getLogger(__name__)
_DIGEST = "sha256"


def cache_root() -> Path:
    """The environment variable AUTOSPLIT_CACHE where it is set, else the user's cache folder of autosplit."""
    override = os.environ.get("AUTOSPLIT_CACHE")
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("autosplit"))


class Cache:
    """Tensors on disk, by kind and key.

    Entries are files `<root>/<kind>/<key>.safetensors`, each written whole or not at all, so any number of
    processes may share a folder: the last one to save an entry wins, and its content is the same by construction.

    Args:
        root: Where the files lie; `None` = `cache_root()`. Made on the first `save`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else cache_root()

    def load(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, or `None` where there is none or it is damaged (with a logged warning).

        Args:
            kind: What is kept ("backbone", "supernet").
            key: Hash of whatever determines the content.
        """
        path = self.path(kind, key)
        try:
            # in one go: `safe_open` opens the path twice, between which another process may replace the file
            content = path.read_bytes()
            tensors = safetensors.torch.load(content)
        except FileNotFoundError:
            return None
        except (OSError, safetensors.SafetensorError) as e:
            _warn_unreadable(path, " ".join(str(e).split()))
            return None
        # safetensors found the file valid: eight bytes of length, then JSON, with the free text in one entry
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        if header.get("__metadata__", {}).get(_DIGEST) != _digest(tensors):
            _warn_unreadable(path, "its content does not match its checksum")
            return None
        return dict(tensors)

    def save(self, kind: str, key: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Keep an entry, or log a warning where the folder cannot be written.

        Args:
            kind: What is kept.
            key: Hash of whatever determines the content.
            tensors: Copied; on any device, of any memory format.
            metadata: What a person who finds the file should know; kept as text.
        """
        path = self.path(kind, key)
        # own memory for each, since safetensors refuses tensors that share theirs
        owned = {n: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for n, t in tensors.items()}
        text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
        try:
            write_whole(path, safetensors.torch.save(owned, {**text, _DIGEST: _digest(owned)}))
        except OSError as e:
            _log.warning("cannot write the cache file %s (%s); set AUTOSPLIT_CACHE to a writable folder, "
                         "or the next run repeats this work", path, e.strerror or e)

    def path(self, kind: str, key: str) -> Path:
        """The file of an entry, whether or not it exists."""
        for part in (kind, key):
            # kinds and keys become names of folders and files
            if not re.fullmatch(r"\w[\w.-]*", part):
                raise ValueError(f"cache kinds and keys are plain words or hashes, got {part!r}")
        return self.root / kind / f"{key}.safetensors"


def _warn_unreadable(path: Path, reason: str) -> None:
    _log.warning("cache file %s is ignored and will be made again: %s", path, reason)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values; safetensors itself notices truncation but no flipped bits."""
    digest = hashlib.sha256()
    # by name: the order in a file may differ from that in memory
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the target, then rename: readers see the old file or the new one, never a part.

    Raises:
        OSError: The folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
