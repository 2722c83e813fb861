"""A cache: trained weights and what was measured on them, looked up by the hash of whatever determines them.

Nothing in it is precious. An entry that is absent, damaged or unreadable is one to be made again, and a folder
that cannot be written costs time, not the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from autosplit.core.files import write_whole
from autosplit.core.hashing import read_sealed, sealed

__all__ = ["Cache", "cache_root"]

_log = logging.getLogger(__name__)
_DIGEST = "sha256"


def cache_root() -> Path:
    """The environment variable AUTOSPLIT_CACHE where it is set, else the user's cache folder of autosplit."""
    override = os.environ.get("AUTOSPLIT_CACHE")
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("autosplit"))


class Cache:
    """Tensors and records on disk, by kind and key.

    Entries are files `<root>/<kind>/<key>.safetensors` and `.json`, each with a checksum and written whole or not at
    all, so any number of processes may share a folder: the last one to save an entry wins, and its content is the same
    by construction.

    Args:
        root: Where the files lie; `None` = `cache_root()`. Made on the first `save`.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else cache_root()
        self._written: dict[str, bytes] | None = None

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
        self._write(path, safetensors.torch.save(owned, {**text, _DIGEST: _digest(owned)}))

    def load_record(self, kind: str, key: str) -> Any:
        """The JSON value of an entry, or `None` where there is none or it is damaged (with a logged warning).

        Args:
            kind: As for `load`.
            key: As for `load`.
        """
        path = self.path(kind, key, ".json")
        try:
            return read_sealed(path.read_bytes(), f"{kind}/{key}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as e:
            _warn_unreadable(path, " ".join(str(e).split()))
            return None

    def save_record(self, kind: str, key: str, data: Any) -> None:
        """Keep a JSON value, or log a warning where the folder cannot be written.

        Args:
            kind: As for `save`.
            key: As for `save`.
            data: JSON-serialisable.
        """
        self._write(self.path(kind, key, ".json"), sealed(data, f"{kind}/{key}").encode())

    def recording(self) -> Cache:
        """The same folder, by an object that remembers what is written through it (`written`)."""
        found = Cache(self.root)
        found._written = {}
        return found

    @property
    def written(self) -> dict[str, bytes]:
        """What was written through this object and is there still, by its place in the folder; of `recording` alone."""
        return {name: content for name, content in (self._written or {}).items() if (self.root / name).exists()}

    def take(self, files: Mapping[str, bytes]) -> None:
        """Keep what another cache has `written`, where it is not here already."""
        for name, content in files.items():
            if not (self.root / name).exists():
                self._write(self.root / name, content)

    def path(self, kind: str, key: str, suffix: str = ".safetensors") -> Path:
        """The file of an entry, whether or not it exists."""
        for part in (kind, key):
            # kinds and keys become names of folders and files
            if not re.fullmatch(r"\w[\w.-]*", part):
                raise ValueError(f"cache kinds and keys are plain words or hashes, got {part!r}")
        return self.root / kind / f"{key}{suffix}"

    def _write(self, path: Path, content: bytes) -> None:
        if self._written is not None:
            self._written[str(path.relative_to(self.root))] = content
        try:
            write_whole(path, content)
        except OSError as e:
            _log.warning("cannot write the cache file %s (%s); set AUTOSPLIT_CACHE to a writable folder, "
                         "or the next run repeats this work", path, e.strerror or e)


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
