"""Images as files in memory, PNG, JPEG, WebP or AVIF: what a device stores, and what it sends when it sends the image.

Most of a small file is headers: quantisation and Huffman tables, sizes, boxes. Two ends that agree on size and quality
need not send them, which we call a file with shared tables (`jpeg-shared`, `webp-shared`, `avif-shared`): what crosses
is the *body*, the file without what is the same in every file of that size and quality.

A picture whose three channels are equal is a grey file where the format has such, which is smaller; it has three
channels again when it is read.

Pillow is imported where it is needed: no other plan needs it.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, PayloadError
from ..images import pillow

__all__ = ["EFFORT", "IMAGE_KINDS", "ImageKind", "StoredFormat", "bodies", "decode_images", "encode_images",
           "is_grey", "join_file", "missing", "split_file"]

ImageKind = Literal["png", "jpeg", "jpeg-shared", "webp", "webp-shared", "avif", "avif-shared"]
IMAGE_KINDS: tuple[ImageKind, ...] = get_args(ImageKind)

EFFORT = 4
"""The effort that Pillow's encoders of WebP and AVIF make by default; 0 is the least."""

_SHARED = "-shared"
_LEAST_EFFORT, _MOST_EFFORT, _AVIF_SPEED = 0, 6, 10

# a marker is FF and a byte that is not 00: in the body the encoder stuffs a 00 behind every FF, so none can occur there
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_GREY_SCAN = b"\xff\xda\x00\x08\x01"  # the scan's header of a file of one channel: eight bytes long
_GREY = b"\xff"  # marks the body of a grey file where colour could be: no JPEG body ends so, no AVIF body begins so
_MARKER = re.compile(rb"\xff[^\0]|\xff\Z", re.DOTALL)


@dataclass(frozen=True)
class StoredFormat:
    """How a picture becomes a file.

    JPEG is baseline with Pillow's defaults: the standard Huffman tables (`optimize=False`), 4:2:0 chroma subsampling,
    no metadata. WebP is lossy. PNG is Pillow's default, deflate level 6.

    Attributes:
        kind: "png", "jpeg", "webp" or "avif"; with "-shared" without what both ends know.
        quality: 1 to 100 of JPEG, 0 to 100 of WebP and AVIF; of no meaning to PNG.
        effort: What the encoder does to save bytes, 0 (least) to 6: `method` of WebP, 10 - `speed` of AVIF.
        downscale: By how much height and width are divided before; the receiver enlarges the picture again.

    Raises:
        ConfigError: Unknown kind, or a number outside of its range.
    """

    kind: str
    quality: int = 75
    effort: int = EFFORT
    downscale: int = 1

    def __post_init__(self) -> None:
        if self.kind not in IMAGE_KINDS:
            raise ConfigError(f"unknown image format {self.kind!r}: choose {' or '.join(IMAGE_KINDS)}")
        least = 1 if self.codec == "jpeg" else 0
        if self.codec != "png" and not least <= self.quality <= 100:
            raise ConfigError(f"{self.codec} quality {self.quality} is outside {least}..100")
        if not _LEAST_EFFORT <= self.effort <= _MOST_EFFORT:
            raise ConfigError(f"effort {self.effort} of an image encoder is outside {_LEAST_EFFORT}..{_MOST_EFFORT}")
        if self.downscale < 1:
            raise ConfigError(f"pictures can be divided in height and width by 1 or more, not by {self.downscale}")

    @property
    def codec(self) -> str:
        """What encodes: "png", "jpeg", "webp" or "avif"."""
        return self.kind.removesuffix(_SHARED)

    @property
    def shared(self) -> bool:
        """Whether what both ends know is left out."""
        return self.kind.endswith(_SHARED)

    @property
    def lossless(self) -> bool:
        """Whether the receiver sees the same pixels."""
        return self.codec == "png" and self.downscale == 1

    @property
    def whole(self) -> StoredFormat:
        """The format of the whole file; files of equal formats in this sense show the same picture."""
        effort = self.effort if self.codec in ("webp", "avif") else EFFORT
        return StoredFormat(self.codec, 0 if self.codec == "png" else self.quality, effort, self.downscale)


def missing(kind: str) -> str | None:
    """Why images of a kind cannot be encoded here, in one clause with the remedy; `None` where they can.

    Raises:
        ConfigError: Pillow is not installed.
    """
    codec = kind.removesuffix(_SHARED)
    if codec not in ("webp", "avif"):
        return None
    pillow()
    from PIL import features

    if features.check(codec):
        return None
    return f"this Pillow was built without {codec.upper()}: pip install --upgrade pillow"


def encode_images(images: NDArray[np.uint8], format: StoredFormat) -> list[bytes]:  # noqa: A002
    """Encode images with Pillow; each of three equal channels as a grey file where the format has such.

    Args:
        images: uint8, shape (N, C, H, W), C = 1 or 3.
        format: What they become.

    Raises:
        ConfigError: Neither 1 nor 3 channels, no Pillow, or one without this codec.
    """
    channels, height, width = images.shape[1:]
    if channels not in (1, 3):
        raise ConfigError(f"images of {channels} channels cannot be stored as {format.kind}: 1 or 3 are needed")
    if (why := missing(format.kind)) is not None:
        raise ConfigError(f"images cannot be stored as {format.kind}: {why}")
    options: dict[str, Any] = {
        "png": {}, "jpeg": {"quality": format.quality},
        "webp": {"quality": format.quality, "method": format.effort},
        # one thread, so that a small picture's file does not depend on the machine's number of them
        "avif": {"quality": format.quality, "speed": _AVIF_SPEED - format.effort, "max_threads": 1},
    }[format.codec]
    files = []
    for image in images:
        pixels = image[0] if channels == 1 or is_grey(image[None]) else image.transpose(1, 2, 0)
        picture = pillow().fromarray(np.ascontiguousarray(pixels))
        if format.downscale > 1:
            picture = picture.resize(_small(height, width, format.downscale)[::-1], pillow().Resampling.BOX)
        buffer = io.BytesIO()
        picture.save(buffer, format.codec, **options)
        files.append(buffer.getvalue())
    return bodies(files, (channels, height, width), format) if format.shared else files


def is_grey(images: Any) -> bool:
    """Whether no image, of an array or a tensor (N, C, H, W), has a colour: one channel, or three that are equal."""
    return images.shape[1] == 1 or bool((images[:, :1] == images[:, 1:]).all())


def bodies(files: Sequence[bytes], shape: tuple[int, int, int], format: StoredFormat) -> list[bytes]:  # noqa: A002
    """What crosses of whole files where both ends know the rest.

    Args:
        files: Whole files of one format.
        shape: Channels, height and width of the images.
        format: Theirs.

    Raises:
        PayloadError: One is no such file.
        ConfigError: A format that shares nothing (PNG).
    """
    found = []
    for file in files:
        head, body, _ = split_file(file, format)
        if shape[0] == 3 and format.codec == "jpeg" and head[-10:].startswith(_GREY_SCAN):
            body += _GREY
        elif shape[0] == 3 and format.codec == "avif" and join_file(body, (1, *shape[1:]), format) == file:
            body = _GREY + body
        # an encoder may write other boxes for an unusual picture; then the file goes whole
        found.append(body if join_file(body, shape, format) == file else file)
    return found


def decode_images(files: Sequence[bytes], shape: tuple[int, int, int], downscale: int = 1) -> NDArray[np.uint8]:
    """Decode whole files of equal size, RGB or grey: uint8, shape (N, C, H, W); N at least 1.

    Neither PNG nor JPEG detects all damage: a body cut short, for one, decodes to a picture with grey at its end.

    Args:
        files: Whole files.
        shape: Channels, height and width of every image; a grey file gets the three channels that are asked for.
        downscale: By how much height and width were divided; pictures are enlarged to `shape` again.

    Raises:
        PayloadError: A file is no image, or one of another shape.
        ConfigError: Pillow is not installed.
    """
    decoded = []
    for file in files:
        try:
            image = pillow().open(io.BytesIO(file))
            found = (len(image.getbands()), image.height, image.width)
            colourless = image.mode == "L" or image.format in ("WEBP", "AVIF")  # which have no grey files
            # sizes are compared before anything is decoded, for a few bytes may claim a huge picture
            fits = found[1:] == _small(*shape[1:], downscale) and (found[0] == shape[0] or colourless)
            if fits:
                picture = image.convert("RGB" if shape[0] == 3 else "L")
                if downscale > 1:
                    picture = picture.resize((shape[2], shape[1]), pillow().Resampling.BICUBIC)
                pixels = np.asarray(picture)
        except ConfigError:
            raise
        except Exception as e:  # PIL's formats raise what they like: OSError, SyntaxError, ValueError, struct.error
            raise PayloadError(f"{len(file)} bytes that are no image ({' '.join(str(e).split())}); send them "
                               "again") from e
        if not fits:
            raise PayloadError(f"an image of shape {found} where {(shape[0], *_small(*shape[1:], downscale))} was "
                               "expected; encode it with the deployment that decodes it")
        decoded.append(np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)))
    return np.stack(decoded)


def split_file(file: bytes, format: StoredFormat) -> tuple[bytes, bytes, bytes]:  # noqa: A002
    """Cut a file into what stands before the body, the body, and what stands behind it.

    Args:
        file: As `encode_images` gives it.
        format: Of the file.

    Raises:
        PayloadError: It is no such file.
        ConfigError: A format that shares nothing (PNG).
    """
    try:
        first, last = {"jpeg": _jpeg_body, "webp": _webp_body, "avif": _avif_body}[format.codec](file)
    except KeyError:
        raise ConfigError(f"{format.codec} files share nothing that is worth leaving out") from None
    except PayloadError:
        raise
    except ValueError:
        raise PayloadError(f"{len(file)} bytes that are no {format.codec.upper()} file; encode the image "
                           "again") from None
    return file[:first], file[first:last], file[last:]


def join_file(body: bytes, shape: tuple[int, int, int], format: StoredFormat) -> bytes:  # noqa: A002
    """The file that a body was cut out of.

    Args:
        body: What `encode_images` gave.
        shape: Channels, height and width of the image.
        format: What it was encoded with.

    Raises:
        PayloadError: It is empty, or holds what a body never does.
    """
    if not body:
        raise PayloadError(f"an empty {format.codec.upper()} body; send the image again")
    if format.codec == "jpeg" and shape[0] == 3 and body.endswith(_GREY):
        return join_file(body.removesuffix(_GREY), (1, *shape[1:]), format)
    if format.codec == "avif" and shape[0] == 3 and body.startswith(_GREY):
        return join_file(body.removeprefix(_GREY), (1, *shape[1:]), format)
    before, template, behind = _frame(shape, format.whole)
    if format.codec == "jpeg":
        if marker := _MARKER.search(body):
            raise PayloadError(f"a JPEG body with the marker {marker.group().hex()} at byte {marker.start()}; "
                               "send what is between the scan's header and the end of the file alone")
        return before + body + behind
    if format.codec == "webp":
        return _webp_file(body, before)
    if body[4:8] == b"ftyp":  # a file that shares nothing with others
        return body
    sizes = ((len(template), len(body)), (len(template) + 8, len(body) + 8))  # of the item, and of its box
    head = bytearray(before)
    for place in _avif_sizes(before):
        known = int.from_bytes(head[place : place + 4], "big")
        head[place : place + 4] = dict(sizes)[known].to_bytes(4, "big")
    return bytes(head) + body + behind


def _small(height: int, width: int, downscale: int) -> tuple[int, int]:
    return -(-height // downscale), -(-width // downscale)


@functools.lru_cache(maxsize=64)  # a server decodes many images of one size and quality
def _frame(shape: tuple[int, int, int], format: StoredFormat) -> tuple[bytes, bytes, bytes]:  # noqa: A002
    """What stands before and behind the body in every file of this size and quality, and the body of one of them."""
    picture = np.zeros((1, *shape), dtype=np.uint8)
    picture[:, 0] = 255  # red, lest three channels become one
    return split_file(encode_images(picture, format)[0], format)


# --- where the body lies: first byte, and one past the last ---------------------------------------------------------


def _jpeg_body(file: bytes) -> tuple[int, int]:
    """Baseline JPEG: from behind the scan's header to the end marker."""
    place = 2  # behind the start marker; then segments follow, each a marker and two bytes with its length
    while file[place : place + 2] != _SCAN:
        if file[place : place + 1] != b"\xff" or place + 4 > len(file):
            raise ValueError
        place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    if not file.endswith(_END) or place > len(file) - len(_END):
        raise PayloadError(f"a JPEG file of {len(file)} bytes without its end; encode the image again")
    return place, len(file) - len(_END)


def _webp_body(file: bytes) -> tuple[int, int]:
    """Lossy WebP: RIFF header and chunk header, 20 bytes, whose sizes follow from the body's; then one VP8 frame."""
    size = int.from_bytes(file[16:20], "little")
    if file[:4] != b"RIFF" or file[8:16] != b"WEBPVP8 " or file[23:26] != b"\x9d\x01\x2a" or 20 + size > len(file):
        raise ValueError
    return 20, 20 + size


def _webp_file(body: bytes, before: bytes) -> bytes:
    padding = b"\0" * (len(body) % 2)  # chunks begin at even places
    riff = (12 + len(body) + len(padding)).to_bytes(4, "little")
    return before[:4] + riff + before[8:16] + len(body).to_bytes(4, "little") + body + padding


def _avif_body(file: bytes) -> tuple[int, int]:
    """AVIF: the content of the last box, `mdat`, where the only item lies."""
    for kind, first, last in _boxes(file, 0, len(file)):
        if kind == b"mdat" and last == len(file) and file[4:8] == b"ftyp":
            return first, last
    raise ValueError


def _avif_sizes(before: bytes) -> list[int]:
    """Places of the two numbers before the body that depend on its size: the item's length in `iloc`, the box's own."""
    for kind, first, last in _boxes(before[:-8], 0, len(before) - 8):
        if kind == b"meta":
            for inner, _, end in _boxes(before, first + 4, last):  # version and flags come before the boxes in it
                if inner == b"iloc":
                    return [end - 4, len(before) - 8]
    raise ValueError


def _boxes(data: bytes, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of an ISO base media file: kind, first byte of the content, and one past its last."""
    while place + 8 <= end:
        size = int.from_bytes(data[place : place + 4], "big")
        if size < 8 or place + size > end:
            raise ValueError
        yield data[place + 4 : place + 8], place + 8, place + size
        place += size
