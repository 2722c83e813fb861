"""Decisions a second of streams and fleets: many copies at once, on one core.

    python -m benchmarks.stream_steps --out results/benchmarks/stream-steps

Streams are the packaged examples, fleets are eight such devices on one link; actions are drawn beforehand. Resets are
counted in. A decision of a fleet is one of one of its devices, with all that crosses cell and edge until the next one.
Writes `steps.csv`: medians of the repetitions, which take all in turn, on the clock and of the processor.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from autosplit.envs.fleet.core import FleetCore
from autosplit.envs.fleet.fleet import Fleet
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.example import example_streams
from autosplit.envs.stream.vector import VectorStream
from benchmarks.common import parser, write_json

DEVICES = 8


def steps_a_second(env: VectorStream, seconds: float, seed: int) -> dict[str, float]:
    """On the clock and of the processor, over about so many seconds."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(env.core.actions, size=(256, env.num_envs))
    env.reset(seed=seed)
    taken, clock, processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - clock < seconds:
        env.step(chosen[taken % 256])
        taken += 1
    count = taken * env.num_envs
    return {"clock": count / (time.perf_counter() - clock), "processor": count / (time.process_time() - processor)}


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("--copies", type=int, nargs="+", default=[1, 64, 1024])
    options_parser.add_argument("--seconds", type=float, default=3.0)
    options_parser.add_argument("--repetitions", type=int, default=3)
    options = options_parser.parse_args()
    streams = example_streams()
    fleets = [Fleet(stream.name, (stream,) * DEVICES) for stream in streams]
    envs = {(name, copies): VectorStream(num_envs=copies, core=core)
            for name, core in (("stream", StreamCore(streams)), (f"fleet of {DEVICES}", FleetCore(fleets)))
            for copies in options.copies}
    rows = [{"env": name, "copies": copies, **steps_a_second(env, options.seconds, options.seed + repetition)}
            for repetition in range(options.repetitions) for (name, copies), env in envs.items()]
    found = pd.DataFrame(rows).groupby(["env", "copies"], sort=False).median().reset_index()
    options.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(options.out / "steps.csv", index=False, float_format="%.0f")
    write_json(options.out / "steps.json", {"seconds": options.seconds, "repetitions": options.repetitions})
    print(found.to_string(index=False))


if __name__ == "__main__":
    main()
