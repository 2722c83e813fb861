"""Which ONNX form of an int8 network answers as the deployment does: integer operators, or quantise-dequantise pairs.

    python -m benchmarks.int8_forms results/split/best.json --whole --out results/benchmarks/int8-forms

For the device's network of each result (with `--whole` also for the whole network, its fallback, whose weights are
taken from the cache), on all test images: how many outputs (symbols or logits) and images differ from the
deployment's, and the time of one image on one thread. `integer` is what `autosplit export` writes. `pairs` has
DequantizeLinear before every convolution and QuantizeLinear behind, which onnxruntime fuses to QLinearConv;
`pairs unfused` is the same with fusing turned off, so that convolutions compute in float32.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from autosplit.compression import int8_onnx
from autosplit.compression.int8_layers import Int8Layer, Requantise
from autosplit.core.cache import Cache
from autosplit.core.result import Result
from autosplit.data.base import in_batches, normalise
from autosplit.data.recorded import recorded_data
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import whole_network
from autosplit.runtime.networks import write_device
from benchmarks.common import parser, write_json

_BATCH = 100
_TIMED = 200  # images


class PairsConv(int8_onnx.IntegerConv):
    """A convolution of dequantised levels by dequantised weights."""

    def __init__(self, layer: Int8Layer, given: Requantise) -> None:
        super().__init__(layer, given)
        self.bias.data, self.scale.data = self.bias.flatten(), self.scale.flatten()
        self.register_buffer("in_scale", layer.in_scale.clone())
        self.register_buffer("weight_scale", layer.scale.clone())
        self.register_buffer("weight_zeros", torch.full((len(layer.weight),), 128, dtype=torch.uint8))
        self.register_buffer("zero", given.zero.detach().to(torch.uint8))
        self.register_buffer("bias_zeros", torch.zeros(len(layer.weight), dtype=torch.int32))

    def forward(self, levels: Tensor) -> Tensor:
        """Levels (N, C, H, W) -> real values."""
        x = _dequantised(levels, self.in_scale, self.zero)
        weight = _dequantised(self.weight, self.weight_scale, self.weight_zeros, axis=0)
        bias = _dequantised(self.bias, self.scale, self.bias_zeros, axis=0)
        return F.conv2d(x, weight, bias, self.stride, self.begin, self.dilation, self.groups)


def _dequantised(levels: Tensor, scale: Any, zero: Any, **attributes: int) -> Tensor:
    return torch.onnx.ops.symbolic("DequantizeLinear", (levels, scale, zero), attributes or None, dtype=torch.float32,
                                   shape=levels.shape)


def expected_of(deployment: Deployment, images: Tensor) -> np.ndarray[Any, Any]:
    """What the device's side of a deployment makes of images: symbols, or logits."""
    normal, network = normalise(images, deployment.mean, deployment.std), deployment.network
    with torch.inference_mode():
        return (network.head(normal) if deployment.tables is None else network.symbols(normal)).numpy()


def row_of(path: Path, form: str, fused: bool, expected: list[np.ndarray[Any, Any]], images: Tensor) -> dict[str, Any]:
    """One form of one network beside the deployment."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "0" if fused else "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"images": batch.numpy()})[0] for batch in in_batches(images, _BATCH)]
    wrong = np.concatenate([(a != b).reshape(len(a), -1) for a, b in zip(expected, found, strict=True)])
    seconds = []
    for image in images[:_TIMED].split(1):
        start = time.perf_counter()
        session.run(None, {"images": image.numpy()})
        seconds.append(time.perf_counter() - start)
    return {"form": form, "outputs": wrong.size, "outputs_differing": int(wrong.sum()), "images": len(wrong),
            "images_differing": int(wrong.any(1).sum()), "median_ms": float(np.median(seconds)) * 1000,
            "file_bytes": path.stat().st_size}


def rows_of(deployment: Deployment, images: Tensor) -> list[dict[str, Any]]:
    """All forms of one deployment's device."""
    expected = [expected_of(deployment, batch) for batch in in_batches(images, _BATCH)]
    with tempfile.TemporaryDirectory() as folder:
        integer, pairs = Path(folder) / "integer.onnx", Path(folder) / "pairs.onnx"
        write_device(deployment, integer)
        with patch.object(int8_onnx, "IntegerConv", PairsConv):
            write_device(deployment, pairs)
        forms = ((integer, "integer", False), (pairs, "pairs", True), (pairs, "pairs unfused", False))
        return [{"plan": deployment.plan.label, **row_of(file, form, fused, expected, images)}
                for file, form, fused in forms]


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("results", type=Path, nargs="+", help="best.json, or a run directory")
    options_parser.add_argument("--whole", action="store_true", help="the whole network too")
    options, rows = options_parser.parse_args(), []
    torch.set_num_threads(1)
    for given in options.results:
        path = given / "best.json" if given.is_dir() else given
        result = Result.load(path)
        deployment, data = Deployment.from_result(result), recorded_data(result, path)
        rows += rows_of(deployment, data.test.images)
        if options.whole:
            data = replace(data, mean=deployment.mean, std=deployment.std)
            rows += rows_of(whole_network(result, data, Cache()), data.test.images)
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).round(4).to_csv(options.out / "forms.csv", index=False)
    write_json(options.out / "summary.json", {"rows": rows, "onnxruntime": onnxruntime.__version__})


if __name__ == "__main__":
    main()
