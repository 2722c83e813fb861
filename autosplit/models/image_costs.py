"""What it costs to encode and decode images: pixels, in those of JPEG, which device profiles have a rate for."""

from __future__ import annotations

from autosplit.core.measurement import StageCost
from autosplit.core.plan import CodecSetting
from autosplit.runtime.standalone.payload.image_codecs import EFFORT

__all__ = ["image_cost"]

# Processor time of Pillow's encoder and decoder against its JPEG's, over photographs of 96x96 pixels, one core of an
# x86 server (`python -m benchmarks.image_codecs`, results/benchmarks/image-codecs). At 224x224 the ratios are up to
# twice as high, at 32x32 what a call itself takes hides them. That they hold on other processors is an assumption.
# PNG keeps its ratio at 32x32, lest it suffer from being the one that is not vectorised.
_ENCODE = {("png", 4): 2.5, ("jpeg", 4): 1.0, ("webp", 0): 3.8, ("webp", 4): 7.0, ("avif", 0): 13.0, ("avif", 4): 81.0}
_DECODE = {"png": 1.0, "jpeg": 1.0, "webp": 1.7, "avif": 2.9}
_RESIZE = 0.1  # an estimate: an addition a pixel and channel, where JPEG transforms, quantises and codes them


def image_cost(setting: CodecSetting, shape: tuple[int, int, int]) -> tuple[StageCost, StageCost]:
    """Work of encoding an image on the device and of decoding it at the edge.

    Args:
        setting: At split point `input`; the user's own file is sent as it is, so that encoding it costs nothing.
        shape: Channels, height and width of the image.
    """
    pixels = float(shape[1] * shape[2])
    if setting.kind == "file":
        return StageCost(), StageCost(image_pixels=pixels)
    file = setting.stored_format.whole
    coded = pixels / file.downscale**2
    # efforts between those that were timed cost as much as the next higher one
    effort = min((e for codec, e in _ENCODE if codec == file.codec and e >= file.effort), default=EFFORT)
    resized = pixels if file.downscale > 1 else 0.0  # every pixel is read, and written again at the edge
    return (StageCost(image_pixels=coded * _ENCODE[file.codec, effort] + _RESIZE * resized),
            StageCost(image_pixels=coded * _DECODE[file.codec] + _RESIZE * resized))
