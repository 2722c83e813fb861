"""The page that lies in a bundle."""

from __future__ import annotations

from autosplit.core.opsets import OPSETS
from autosplit.runtime.standalone.bundle.manifest import DEVICE, EDGE, ENCODER, EXIT, FALLBACK, Manifest
from autosplit.runtime.standalone.bundle.rates import encoder_file, tables_file, tail_file
from autosplit.runtime.standalone.payload.image_codecs import IMAGE_KINDS

__all__ = ["readme"]

_KINDS: dict[str, str] = {
    "code": "a few entropy-coded bytes with a checksum", "raw": "the feature as little-endian float32",
    "none": "nothing",
    **{kind: f"the image as a {kind.removesuffix('-shared').upper()} file"
             + (" without what both ends know" if kind.endswith("-shared") else "") for kind in IMAGE_KINDS},
}
_FILES = {
    EXIT: "by what the device answers what it is sure of", ENCODER: "the device's encoder",
    DEVICE: "what the device runs", EDGE: "what the edge runs", FALLBACK: "the whole network for the device",
    "tables.npy": "frequencies of the entropy coder, uint16 (channels, levels)",
    "check.npz": "images with the answers that they gave when this was exported",
}


def readme(manifest: Manifest) -> str:
    """The page for a bundle, as Markdown.

    Args:
        manifest: What is in it.
    """
    shape = "x".join(map(str, manifest.image_shape))
    pillow = " pillow" if manifest.kind in IMAGE_KINDS else ""
    described = dict(_FILES)
    for i, rate in enumerate(manifest.rates):
        described |= {encoder_file(i): f"the device's encoder at rate {i}, {rate.label}",
                      tail_file(i): f"what the edge runs at rate {i}",
                      tables_file(i): "frequencies of its entropy coder"}
    files = "\n".join(f"| `{name}` | {text} |" for name, text in described.items() if name in manifest.files)
    infer = "    python -m coinference infer . image.npy"
    compiling = ("    python -m coinference compile    # on the device: its C compiler makes the payload coder quick\n"
                 if manifest.kind == "code" else "")
    commands = infer if manifest.kind == "none" else (
        "    python -m coinference serve      # the edge, at tcp://127.0.0.1:5555; other machines need keys: --help\n"
        f"{infer} --edge 127.0.0.1:5555{' --adaptive' if manifest.rates else ''}")
    native = "| `native/` | the payload coder's source, for `compile` |\n" if manifest.kind == "code" else ""
    return f"""# {manifest.label}

A deployment exported by autosplit: {manifest.backbone}, {manifest.num_classes} \
classes, images of {shape}, device arithmetic {manifest.arithmetic}. What crosses the channel: {_KINDS[manifest.kind]}.
It needs neither autosplit nor torch.

    python -m pip install 'onnxruntime>={OPSETS[manifest.opset].onnxruntime}' numpy constriction pyzmq{pillow}
    python -m coinference check      # the images in the bundle, against the answers recorded when it was made
{commands}
{compiling}    python -m coinference profile --out my-board.yaml   # how fast this machine is, for another search
    python -m coinference --help     # all commands

In Python, from this folder:

```python
{_code(manifest)}
```

| file | |
| --- | --- |
{files}
{native}| `operators.json` | what each network has to do, for `profile` |
| `coinference/` | the code that runs them |{_c_row(manifest)}
| `manifest.json` | plan, shapes, classes, versions, parity, and the SHA-256 of every file |

Images are uint8 arrays (N, {", ".join(map(str, manifest.image_shape))}), normalised inside of the networks. The
hash of every file is checked when the bundle is loaded.
"""


def _c_row(manifest: Manifest) -> str:
    """What the table says of C sources."""
    if manifest.footprint is None:
        return ""
    return f"\n| `c/` | the device's side as C: {manifest.footprint.text}; `make check` compares it with this bundle |"


def _code(manifest: Manifest) -> str:
    reading = f"""from coinference.bundle import load_device{"" if manifest.kind == "none" else ", load_edge"}
from coinference.images import read_images

device = load_device(".")
images = read_images(["image.npy"], device.manifest.image_shape)"""
    if manifest.kind == "none":
        return f"{reading}\nlogits = device.logits(images)"
    return f"""{reading}
payloads = device.encode(images)
logits = load_edge(".").decode(payloads)"""
