"""Images as PNG and JPEG files in memory: what a device stores, and what it sends when it sends the image.

Most of a small JPEG file is headers: quantisation and Huffman tables, size, markers. Two ends that agree on size and
quality need not send them, which we call JPEG with shared tables (`jpeg-shared`): what crosses is the *body*, the file
without what is the same in every file of that size and quality.

A picture whose three channels are equal is a grey file, which is smaller, and has three channels again when it is read.

Pillow is imported where it is needed: no other plan needs it.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, PayloadError
from ..images import pillow

__all__ = [
    "StoredFormat",
    "cache_key",
    "decode_images",
    "encode_images",
    "is_grey",
    "join_jpeg",
    "jpeg_body",
    "split_jpeg",
]

StoredFormat = Literal["png", "jpeg", "jpeg-shared"]

# a marker is FF and a byte that is not 00: in the body the encoder stuffs a 00 behind every FF, so none can occur there
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_GREY_SCAN = b"\xff\xda\x00\x08\x01"  # the scan's header of a file of one channel: eight bytes long
_GREY = b"\xff"  # ends the body of a grey file where colour could be; no body ends like this otherwise
_MARKER = re.compile(rb"\xff[^\0]|\xff\Z", re.DOTALL)


def cache_key(format: StoredFormat, quality: int) -> tuple[str, int]:  # noqa: A002
    """What determines the files of given images: the format, and the quality where it has one.

    Raises:
        ConfigError: Unknown format, or a quality outside 1..100.
    """
    if format not in get_args(StoredFormat):
        raise ConfigError(f"unknown image format {format!r}: choose {' or '.join(get_args(StoredFormat))}")
    if format == "png":
        return format, 0
    if not 1 <= quality <= 100:
        raise ConfigError(f"JPEG quality {quality} is outside 1..100 (95 is the highest that makes sense)")
    return format, quality


def encode_images(images: NDArray[np.uint8], format: StoredFormat, quality: int = 75) -> list[bytes]:  # noqa: A002
    """Encode images with PIL: baseline JPEG (standard tables, 4:2:0 for RGB), its body, or PNG at deflate level 6.

    Each image of three equal channels becomes a grey file.

    Args:
        images: uint8, shape (N, C, H, W), C = 1 or 3.
        format: "png", "jpeg" or "jpeg-shared".
        quality: JPEG quality, 1..100.

    Raises:
        ConfigError: Unknown format, quality outside 1..100, neither 1 nor 3 channels, or no Pillow.
    """
    cache_key(format, quality)
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ConfigError(f"images of {channels} channels cannot be stored as {format}: 1 or 3 are needed")
    kind, options = ("png", {}) if format == "png" else ("jpeg", {"quality": quality})
    files = []
    for image in images:
        picture = image[0] if channels == 1 or is_grey(image[None]) else image.transpose(1, 2, 0)
        buffer = io.BytesIO()
        pillow().fromarray(np.ascontiguousarray(picture)).save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return [jpeg_body(file, channels) for file in files] if format == "jpeg-shared" else files


def is_grey(images: Any) -> bool:
    """Whether no image, of an array or a tensor (N, C, H, W), has a colour: one channel, or three that are equal."""
    return images.shape[1] == 1 or bool((images[:, :1] == images[:, 1:]).all())


def decode_images(files: Sequence[bytes], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Decode files of equal size, RGB or grey: uint8, shape (N, C, H, W); N at least 1.

    Neither PNG nor JPEG detects all damage: a body cut short, for one, decodes to a picture with grey at its end.

    Args:
        files: Whole PNG or JPEG files.
        shape: Channels, height and width of every image; a grey file gets the three channels that are asked for.

    Raises:
        PayloadError: A file is no image, or one of another shape.
        ConfigError: Pillow is not installed.
    """
    decoded = []
    for file in files:
        try:
            image = pillow().open(io.BytesIO(file))
            found = (len(image.getbands()), image.height, image.width)
            # sizes are compared before anything is decoded, for a few bytes may claim a huge picture
            fits = found == shape or (image.mode == "L" and (3, *found[1:]) == shape)
            pixels = np.asarray(image.convert("RGB" if shape[0] == 3 else "L")) if fits else None
        except ConfigError:
            raise
        except Exception as e:  # PIL's formats raise what they like: OSError, SyntaxError, ValueError, struct.error
            raise PayloadError(f"{len(file)} bytes that are no image ({' '.join(str(e).split())}); send them "
                               "again") from e
        if pixels is None:
            raise PayloadError(f"an image of shape {found} where {shape} was expected; "
                               "encode it with the deployment that decodes it")
        decoded.append(np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)))
    return np.stack(decoded)


def split_jpeg(file: bytes) -> tuple[bytes, bytes, bytes]:
    """Cut a baseline JPEG file into headers (up to and including the scan's), body and end marker.

    Raises:
        PayloadError: It is no JPEG file.
    """
    place = 2  # behind the start marker; then segments follow, each a marker and two bytes with its length
    while file[place : place + 2] != _SCAN:
        if file[place : place + 1] != b"\xff" or place + 4 > len(file):
            raise PayloadError(f"{len(file)} bytes that are no JPEG file; encode the image again")
        place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    if not file.endswith(_END) or place > len(file) - len(_END):
        raise PayloadError(f"a JPEG file of {len(file)} bytes without its end; encode the image again")
    return file[:place], file[place : -len(_END)], file[-len(_END) :]


def jpeg_body(file: bytes, channels: int) -> bytes:
    """What of a JPEG file crosses where both ends know the rest.

    Args:
        file: What `encode_images` gave.
        channels: Of the images; where that is 3, the body of a grey file says that it is one, in a byte at its end.

    Raises:
        PayloadError: It is no JPEG file.
    """
    head, body, _ = split_jpeg(file)
    return body + _GREY if channels == 3 and head[-10:].startswith(_GREY_SCAN) else body


def join_jpeg(body: bytes, shape: tuple[int, int, int], quality: int) -> bytes:
    """The JPEG file that a body was cut out of.

    Args:
        body: What `jpeg_body` gave.
        shape: Channels, height and width of the image.
        quality: The quality that it was encoded with.

    Raises:
        PayloadError: It is empty, or holds a marker, which a body never does.
    """
    if not body:
        raise PayloadError("an empty JPEG body; send the image again")
    if shape[0] == 3 and body.endswith(_GREY):
        return join_jpeg(body.removesuffix(_GREY), (1, *shape[1:]), quality)
    if marker := _MARKER.search(body):
        raise PayloadError(f"a JPEG body with the marker {marker.group().hex()} at byte {marker.start()}; "
                           "send what is between the scan's header and the end of the file alone")
    head, end = _frame(shape, quality)
    return head + body + end


@functools.lru_cache(maxsize=64)  # a server decodes many images of one size and quality
def _frame(shape: tuple[int, int, int], quality: int) -> tuple[bytes, bytes]:
    """What stands before and behind the body in every file of this size and quality."""
    picture = np.zeros((1, *shape), dtype=np.uint8)
    picture[:, 0] = 255  # red, lest three channels become one
    head, _, end = split_jpeg(encode_images(picture, "jpeg", quality)[0])
    return head, end
