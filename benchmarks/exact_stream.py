"""The best that can be done in a tiny stream, exactly, and what controllers reach of it.

    python -m benchmarks.exact_stream --out results/benchmarks/exact-stream

Time has slots; a picture arrives in each with one probability; the device has a few levels, which take whole slots and
answer on the device, and two pictures wait at most. Then their ages are all that there is to know, and the optimum is a
linear program over how often each is met (Puterman, Markov Decision Processes, 1994, chapter 11, for semi-Markov
processes). Rules are tuned, and one network is trained for all of the streams, on other draws than they are measured
on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import linprog

from autosplit.agents.control.learned import ControlPPO, train_controller
from autosplit.agents.control.play import play
from autosplit.agents.control.tuning import tuned
from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.levels import Level
from autosplit.envs.stream.stream import Stream
from autosplit.runtime.standalone.control.controller import Controller
from autosplit.runtime.standalone.control.rules import Myopic
from benchmarks.common import parser, write_json
from benchmarks.stream import rules_of

SLOT_MS = 8.0
DEADLINE = 25  # slots
LEVELS = ((3, 0.6), (7, 0.85), (12, 0.97))  # slots, accuracy
CHANCES = (0.02, 0.05, 0.1, 0.2, 0.4)  # of a picture in a slot
_NONE = -1


@dataclass(frozen=True)
class SlottedArrivals(Arrivals):
    """A picture in each slot with one probability."""

    def draw(self, rows: int, pictures: int, rng: np.random.Generator) -> Array:
        """See `Arrivals.draw`."""
        slots = np.cumsum(rng.geometric(self.per_s * SLOT_MS / 1e3, (rows, pictures)), axis=1)
        return (slots - slots[:, :1]) * SLOT_MS


def tiny_stream(chance: float, pictures: int = 500) -> Stream:
    """The stream with so many pictures a slot."""
    conditions = Conditions(device="stm32l4r5", edge="edge-cpu", channel="ble-1m", budget_ms=DEADLINE * SLOT_MS)
    levels = tuple(Level(f"{slots} slots", slots * SLOT_MS, device_accuracy=accuracy) for slots, accuracy in LEVELS)
    return Stream(f"{chance:g} a slot", conditions, levels, SlottedArrivals(1e3 * chance / SLOT_MS), pictures, buffer=2)


def optimum(chance: float) -> float:
    """The highest share of pictures that can be answered rightly in time, in the long run.

    A state are the ages of the picture in hand and of the one behind it, in slots. Of `x[state, action]`, how often a
    slot each is met, the program takes what brings most, so that every state is left as often as it is entered and all
    slots are filled.
    """
    states = [(first, second) for first in range(DEADLINE) for second in range(_NONE, first)]
    number = {state: index for index, state in enumerate(states)}
    entries, gains, lengths = [], [], []
    for state in states:
        for slots, accuracy in (*LEVELS, (0, 0.0)):
            following, waited = _following(state, slots, chance)
            flow = np.zeros(len(states))
            flow[number[state]] += 1.0
            for other, probability in following.items():
                flow[number[other]] -= probability
            entries.append(flow)
            gains.append(accuracy if slots and state[0] + slots <= DEADLINE else 0.0)
            lengths.append(slots + waited)
    flows = np.vstack([np.array(entries).T, np.array(lengths)[None, :]])
    found = linprog(-np.array(gains), A_eq=flows, b_eq=np.append(np.zeros(len(states)), 1.0), bounds=(0, None))
    assert found.status == 0
    return float(-found.fun / chance)


def _following(state: tuple[int, int], slots: int, chance: float) -> tuple[dict[tuple[int, int], float], float]:
    """States after an action with their probabilities, and slots that nothing waits in the mean."""
    behind = [state[1] + slots] if state[1] != _NONE and state[1] + slots < DEADLINE else []
    found: dict[tuple[int, int], float] = {}
    waited = 0.0

    def add(ages: list[int], probability: float) -> None:
        nonlocal waited
        if not ages:
            waited += probability / chance
        older, younger = (ages[1], ages[0]) if len(ages) > 1 else (ages[0] if ages else 0, _NONE)
        found[older, younger] = found.get((older, younger), 0.0) + probability

    # the youngest arrival of these slots has age a with probability chance * (1 - chance) ** a, and so on
    for age in range(slots):
        youngest = chance * (1 - chance) ** age
        for second in range(age + 1, slots):
            add([age, second], youngest * chance * (1 - chance) ** (second - age - 1))
        add([age, *behind], youngest * (1 - chance) ** (slots - age - 1))
    add(behind, (1 - chance) ** slots)
    return found, waited


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("--steps", type=int, default=1_000_000)
    options_parser.add_argument("--seeds", type=int, default=5)
    options = options_parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    streams = [tiny_stream(chance) for chance in CHANCES]
    tuning, measuring = StreamCore(streams, 16, 1), StreamCore(streams, 64, 2)
    settings = ControlPPO(steps=options.steps)
    networks = [train_controller(streams, settings, options.seed + i) for i in range(options.seeds)]
    rows = []
    for index, chance in enumerate(CHANCES):
        best = optimum(chance)
        rules: dict[str, Controller] = {"myopic": Myopic(), **{
            name: tuned(rule.all(len(LEVELS)), tuning, index, 16, 0) for name, rule in rules_of(devices=1).items()}}
        learned = {f"ppo, seed {options.seed + i}": network for i, network in enumerate(networks)}
        for name, controller in (rules | learned).items():
            played = play(measuring, controller, np.full(64, index), 7).accuracy
            rows.append({"arrivals a slot": chance, "optimum": best, "controller": name, "accuracy": played.mean(),
                         "standard error": played.std(ddof=1) / len(played) ** 0.5,
                         "below the optimum": 1 - played.mean() / best})
    frame = pd.DataFrame(rows)
    frame.to_csv(options.out / "exact.csv", index=False, float_format="%.4f")
    worst = frame[frame.controller.str.startswith("ppo")]["below the optimum"].max()
    write_json(options.out / "exact.json", {"steps": options.steps, "worst_of_ppo_below_the_optimum": round(worst, 4)})


if __name__ == "__main__":
    main()
