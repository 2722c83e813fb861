"""The four bytes in front of a coded payload, and the rate that they name."""

from __future__ import annotations

import zlib

__all__ = ["FORMAT_VERSION", "HEADER_BYTES", "MAX_RATES", "header", "rate_of"]

FORMAT_VERSION = 2
"""Version of the byte format, 0 to 15."""

HEADER_BYTES = 4
"""Bytes in front of the coded symbols: version and rate, then a 24-bit checksum."""

MAX_RATES = 16
"""Most rates of one bundle: a payload names its own in four bits."""


def header(coded: bytes, rate: int, seed: int) -> bytes:
    """The header of coded symbols.

    Args:
        coded: The bytes behind it.
        rate: Number of the rate in its bundle, 0 to 15.
        seed: CRC-32 of what both ends agree on. The checksum continues it, so that a payload of another deployment
            fails the check although not one byte of that agreement is sent.
    """
    checksum = zlib.crc32(coded, seed) & 0xFFFFFF
    return bytes([FORMAT_VERSION << 4 | rate]) + checksum.to_bytes(HEADER_BYTES - 1, "big")


def rate_of(payload: bytes) -> int:
    """The rate that a payload claims; 0 for an empty one, which no coder accepts."""
    return payload[0] % MAX_RATES if payload else 0
