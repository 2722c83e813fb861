"""CURVE keys: files that let an edge serve known devices only, and devices trust that edge only.

A folder of keys, as `make_keys` writes it:

    edge.key  edge.key_secret               the edge's pair; devices need edge.key
    NAME.key  NAME.key_secret               a device's pair; stays on the device
    allowed/NAME.key                        public keys of the devices that the edge serves
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth

from ..errors import ConfigError

__all__ = ["ALLOWED", "EDGE", "DeviceKeys", "EdgeKeys", "make_keys"]

EDGE = "edge"
ALLOWED = "allowed"

_Z85_BYTES = 40
_REMEDY = "make keys with serve --make-keys DIR"


@dataclass(frozen=True)
class EdgeKeys:
    """What an edge needs.

    Attributes:
        public: Its public key, Z85.
        secret: Its secret key, Z85.
        allowed: Folder with the public keys of the devices that it serves; read when the server starts.
    """

    public: bytes
    secret: bytes
    allowed: Path

    @classmethod
    def load(cls, folder: Path) -> EdgeKeys:
        """The keys in a folder that `make_keys` wrote.

        Raises:
            ConfigError: A file is missing or holds no key.
        """
        public, secret = _pair(folder / f"{EDGE}.key_secret")
        allowed = folder / ALLOWED
        if not any(allowed.glob("*.key")):
            raise ConfigError(f"{allowed} holds no public key of a device, so nobody could be served; make keys with "
                              f"serve --make-keys {folder}")
        for file in sorted(allowed.glob("*.key")):
            _load(file)
        return cls(public, secret, allowed)


@dataclass(frozen=True)
class DeviceKeys:
    """What a device needs.

    Attributes:
        public: Its public key, Z85.
        secret: Its secret key, Z85.
        edge: The public key of the only edge that it trusts, Z85.
    """

    public: bytes
    secret: bytes
    edge: bytes

    @classmethod
    def load(cls, folder: Path, name: str = "device") -> DeviceKeys:
        """A device's keys in a folder that holds its own pair and `edge.key`.

        Raises:
            ConfigError: A file is missing or holds no key.
        """
        public, secret = _pair(folder / f"{name}.key_secret")
        return cls(public, secret, _load(folder / f"{EDGE}.key")[0])


def make_keys(folder: Path, device: str = "device") -> list[Path]:
    """Make the pair of an edge, unless it is there, and that of a device, and allow the device.

    Args:
        folder: Where the files go; secret ones can be read by their owner alone.
        device: Name of the device, a file's name.

    Returns:
        The files written.

    Raises:
        ConfigError: The name is no file's name or is taken, or the folder cannot be written.
    """
    if not device or not all(c.isalnum() or c in "-_" for c in device) or device == EDGE:
        raise ConfigError(f"device name {device!r}: use letters, digits, - and _, and not {EDGE!r}")
    if not zmq.has("curve"):
        raise ConfigError("this libzmq was built without CURVE; pip install --force-reinstall pyzmq")
    made = []
    try:
        (folder / ALLOWED).mkdir(parents=True, exist_ok=True)
        if (folder / f"{device}.key_secret").exists():
            raise ConfigError(f"{folder / device}.key_secret is there already; name another device with --device, or "
                              "delete its files to make new ones")
        for name in (EDGE, device):
            if not (folder / f"{name}.key_secret").exists():
                before = os.umask(0o077)  # so that no moment passes in which others can read the secret
                try:
                    zmq.auth.create_certificates(folder, name)
                finally:
                    os.umask(before)
                (folder / f"{name}.key").chmod(0o644)
                made += [folder / f"{name}.key", folder / f"{name}.key_secret"]
        copy = folder / ALLOWED / f"{device}.key"
        copy.write_bytes((folder / f"{device}.key").read_bytes())
    except OSError as e:
        raise ConfigError(f"cannot write keys to {folder}: {e.strerror or e}; choose a folder you may write to") from e
    return [*made, copy]


def _pair(file: Path) -> tuple[bytes, bytes]:
    public, secret = _load(file)
    if secret is None:
        raise ConfigError(f"{file} holds no secret key; {_REMEDY}")
    return public, secret


def _load(file: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(file)
    except OSError as e:
        raise ConfigError(f"no key in {file}: {e.strerror or 'no such file'}; {_REMEDY}") from e
    except ValueError as e:
        raise ConfigError(f"{file} holds no key; {_REMEDY}") from e
    if any(key is not None and len(key) != _Z85_BYTES for key in (public, secret)):
        raise ConfigError(f"{file} holds a damaged key; {_REMEDY}")
    return public, secret
