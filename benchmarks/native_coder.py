"""The payload coder in Python beside the same as C, compiled on this machine, with equal payloads.

    python -m benchmarks.native_coder --out results/benchmarks/native-coder

Codes of several sizes as a profile draws them, half of their channels smooth: those are coded with contexts. The two
take turns in one process; a row has the median of each over all rounds. Writes `coders.csv`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from autosplit.runtime.c.export import write_native
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
from autosplit.runtime.standalone.payload.native import NativeCoder, compile_coder
from autosplit.runtime.standalone.profiling.coders import drawn_codes
from benchmarks.common import parser

SHAPES, BITS = ((1, 16, 16), (8, 8, 8), (32, 7, 7), (32, 14, 14)), (2, 4)


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--rounds", type=int, default=200)
    options = options_parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_native(Path(folder))
        for shape in SHAPES:
            for bits in BITS:
                symbols = drawn_codes(shape, bits)
                python = PayloadCoder(FrequencyTables.fit(symbols, bits), shape, b"benchmark")
                native = NativeCoder(compile_coder(Path(folder), [python]), python)
                times: dict[str, list[float]] = {"python": [], "native": []}
                for number in range(options.rounds):
                    image, payloads = symbols[number % len(symbols)], []
                    for name, coder in (("python", python), ("native", native)):
                        begun = time.perf_counter()
                        payloads.append(coder.encode(image))
                        times[name].append(time.perf_counter() - begun)
                    if payloads[0] != payloads[1]:
                        raise SystemExit(f"payloads differ: {shape}, {bits} bits, round {number}")
                medians = {f"{name}_us": 1e6 * float(np.median(found)) for name, found in times.items()}
                rows.append({"code": "x".join(map(str, shape)), "bits": bits, "symbols": symbols[0].size,
                             "payload_bytes": float(np.mean([len(python.encode(s)) for s in symbols])), **medians,
                             "ratio": medians["python_us"] / medians["native_us"]})
    frame = pd.DataFrame(rows)
    frame.to_csv(options.out / "coders.csv", index=False, float_format="%.1f")
    print(frame.to_string(index=False, float_format="%.1f"))


if __name__ == "__main__":
    main()
