"""The device's process of a measured link: asks an edge for one image at a time, and says how long each took.

    python -m autosplit.experiments.emulation.asking BUNDLE IMAGES.npy HOST:PORT --count 100

Nothing but the bundle's own runtime is loaded.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from autosplit.runtime.standalone.bundle.parts import load_device
from autosplit.runtime.standalone.device.client import ClientOptions, DeviceClient

__all__ = ["main"]

_WARM_UP = 3
_TIMEOUT_MS = 60_000


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("edge", metavar="HOST:PORT")
    parser.add_argument("--count", type=int, default=100, help="images at most [100]")
    parser.add_argument("--least", type=int, default=20, help="images at least [20]")
    parser.add_argument("--seconds", type=float, default=20.0, help="after which no more than the least are asked [20]")
    parser.add_argument("--pause-ms", type=float, default=20.0, help="mean pause between two images [20]")
    parser.add_argument("--seed", type=int, default=0, help="of the pauses [0]")
    options = parser.parse_args(arguments)
    images = np.load(options.images, allow_pickle=False)
    draw = random.Random(options.seed)
    with DeviceClient(load_device(options.bundle), options.edge,
                      ClientOptions(timeout_ms=_TIMEOUT_MS, fallback=False)) as client:
        begun_s = 0.0
        for i in range(-_WARM_UP, options.count):
            if i == 0:
                begun_s = time.monotonic()
            if i >= options.least and time.monotonic() > begun_s + options.seconds:
                break
            time.sleep(options.pause_ms / 1000.0 * draw.uniform(0.5, 1.5))
            found = _ask(client, images[i % len(images)])
            if i >= 0:
                print(json.dumps(found), flush=True)


def _ask(client: DeviceClient, image: Any) -> dict[str, Any]:
    begun_s = time.perf_counter()
    answer = client.infer(image)
    total_ms = 1000.0 * (time.perf_counter() - begun_s)
    return {"total_ms": total_ms, "encode_ms": answer.ms.encode, "link_ms": answer.ms.link,
            "edge_ms": answer.ms.edge + answer.ms.queue, "payload_bytes": answer.payload_bytes, "label": answer.label}


if __name__ == "__main__":
    main()
