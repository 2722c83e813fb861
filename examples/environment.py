"""The environment by hand: a random policy that keeps to the mask, over a table of measurements.

    python examples/environment.py

With `gymnasium.make("autosplit/CoInference-v0", scenario="default")` the plans are measured for real; the backbone and
supernet are trained first, unless the cache has them. Here a `TableEvaluator` answers at once. Its figures are made up;
`TableEvaluator.from_csv` reads a table of real ones.
"""

from __future__ import annotations

import gymnasium

import autosplit.envs
from autosplit.core.measurement import Measurement, Outcome, StageCost, Workload
from autosplit.core.plan import CodecSetting, Plan
from autosplit.evaluation.table import TableEvaluator

WHOLE_MACS = 12e6
HEAD_MACS = {"layer1": 5e6, "layer2": 9e6}  # made up, like every figure below
CODES = [CodecSetting(kind="code", width=width, grid=4, bits=4) for width in (4, 8, 16)]


def made_up_table() -> TableEvaluator:
    """Two split points with three sparsities and three codecs each, and the whole network on the device."""
    rows = [measurement(split, sparsity, code)
            for split in HEAD_MACS for sparsity in (0.0, 0.5, 0.75) for code in CODES]
    whole = Workload(plan=Plan(split="output", codec=CodecSetting(kind="none")),
                     device=StageCost(conv_macs=WHOLE_MACS, operators=20))
    return TableEvaluator([*rows, Measurement(plan=whole.plan, accuracy=0.97, workload=whole)])


def measurement(split: str, sparsity: float, code: CodecSetting) -> Measurement:
    """More sparsity and fewer bytes cost accuracy."""
    symbols = (code.width or 0) * 16
    payload = 4 + symbols * (code.bits or 0) / 8
    work = Workload(
        plan=Plan(split=split, sparsity=sparsity, codec=code),
        device=StageCost(conv_macs=HEAD_MACS[split] * (1 - sparsity) ** 1.5, operators=8),
        encode=StageCost(coded_symbols=symbols, operators=1),
        edge=StageCost(conv_macs=WHOLE_MACS - HEAD_MACS[split], operators=12),
        payload_bytes_mean=payload, payload_bytes_p95=1.1 * payload, result_bytes=4,
    )
    return Measurement(plan=work.plan, accuracy=0.97 - 0.1 * sparsity**2 - 2 / payload, workload=work)


def run(episodes: int = 5, seed: int = 0) -> list[Outcome]:
    """Play episodes of three decisions each, at random among the actions that can still end within the budget."""
    env = gymnasium.make(autosplit.envs.COINFERENCE, scenario="default", evaluator=made_up_table(), render_mode="ansi")
    env.action_space.seed(seed)
    outcomes = []
    for episode in range(episodes):
        _, info = env.reset(seed=seed if episode == 0 else None)
        done = False
        while not done:
            action = env.action_space.sample(info["action_mask"])
            _, _, done, _, info = env.step(action)
        print(env.render())
        outcomes.append(info["outcome"])
    env.close()
    return outcomes


if __name__ == "__main__":
    best = max(run(), key=lambda outcome: outcome.reward)
    print(f"best of these: {best.plan.label}")
