"""What contexts of the entropy coder save: the same codes with one table a channel, and with a table for each context.

    python -m benchmarks.contexts --set codecs=[nested] --out results/benchmarks/contexts-digits-m-nested

Draws plans as `benchmarks.fidelity` does, leaves out those without a code, and takes each from the supernet as it is
(F1). Tables are fitted on calibration images; bytes are those of all validation images, whose symbols are the same
either way, and with them the accuracy. The time of the coder is that of encoding (with its check) one image after
another, both coders in turn. Writes `contexts.csv` and `summary.json`.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autosplit.compression.network import recalibrate
from autosplit.report.progress import Progress
from autosplit.runtime.standalone.payload.coder import PayloadCoder, payload_bytes
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
from autosplit.training.finetune import statistics_images
from autosplit.training.loop import logits_of
from autosplit.training.prepare import prepare
from benchmarks.common import parser, scenario_of, write_json
from benchmarks.fidelity import draw_plans

_TIMED = 50
_CALIBRATION = 256  # images of a measurement's tables


def seconds(coders: list[PayloadCoder], codes: NDArray[np.int32]) -> list[float]:
    """Median time of each coder for one code, the coders taking turns."""
    found: list[list[float]] = [[] for _ in coders]
    for code in codes[:_TIMED]:
        for coder, times in zip(coders, found, strict=True):
            start = time.perf_counter()
            coder.encode(code)
            times.append(time.perf_counter() - start)
    return [float(np.median(times)) for times in found]


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--plans", type=int, default=30)
    options = options_parser.parse_args()
    scenario = scenario_of(options)
    networks = prepare(scenario, Progress())
    data, rows = networks.data, []
    drawn = draw_plans(networks.supernet.plan_space, 4 * options.plans, options.seed)
    for plan in [p for p in drawn if p.codec.kind == "code"][: options.plans]:
        network = networks.supernet.extract(plan)
        recalibrate(network, statistics_images(data), scenario.training.batch_size)
        assert network.quantiser is not None
        fitted, codes = (logits_of(network.symbols, data, images).numpy()
                         for images in (data.calibration.images[:_CALIBRATION], data.validation.images))
        bits, expected = network.quantiser.bits, network.quantiser.expected()
        tables = [FrequencyTables.fit(fitted, bits, expected, contexts=aware) for aware in (False, True)]
        plain, aware = (float(payload_bytes(table, codes).mean()) for table in tables)
        slow = seconds([PayloadCoder(t, codes.shape[1:], b"contexts") for t in tables], codes)
        rows.append({"plan": plan.label, "channels": codes.shape[1], "with contexts": int(tables[1].aware.sum()),
                     "plain bytes": plain, "bytes": aware, "saved": 1 - aware / plain,
                     "plain encode_ms": 1e3 * slow[0], "encode_ms": 1e3 * slow[1]})
    frame = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.out / "contexts.csv", index=False, float_format="%.4f")
    saved, left = frame["saved"], frame["bytes"] / frame["plain bytes"]
    write_json(options.out / "summary.json", {
        "plans": len(frame),
        "saved_least": round(float(saved.min()), 3),
        "saved_median": round(float(saved.median()), 3),
        "saved_most": round(float(saved.max()), 3),
        "bytes_over_plain_geometric_mean": round(float(np.exp(np.log(left).mean())), 3),
        "encode_time_over_plain_median": round(float((frame["encode_ms"] / frame["plain encode_ms"]).median()), 1)})
    print(frame.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
