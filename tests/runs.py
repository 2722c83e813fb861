"""A tiny world that searches run in: small pictures, a small network, agents that propose one kind of plan."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from autosplit.cli.app import app
from autosplit.core.plan import Plan
from autosplit.core.scenario import Scenario, load_scenario
from autosplit.pipeline.ledger import Ledger

CLASSES = ("blue", "green", "red")

NETWORK = """
from autosplit.models.zoo import ResNetSmall

def network(num_classes, in_channels):
    return ResNetSmall(1, num_classes, in_channels, width=4)
"""

AGENTS = """
from dataclasses import replace
from autosplit.agents.design import InitialDesign
from autosplit.agents.enumerate import ExhaustiveAgent
from autosplit.agents.layerwise.ppo import LayerPPOSettings, LayerwisePPOAgent
from autosplit.agents.ppo import PPOAgent, PPOSettings
from autosplit.agents.trainer import EpisodicPPO, PPOHyperparameters

class Quick(PPOAgent):  # learns after a few measurements, and not for long
    def __init__(self, problem):
        settings = PPOSettings(round=3, conditions=16, first_updates=2, updates=1, last_updates=2, draws=32,
                               ppo=PPOHyperparameters(episodes=32, epochs=1, hidden=(16,)))
        super().__init__(replace(problem, design=InitialDesign(5, 5)), settings)

class QuickLayers(LayerwisePPOAgent):
    def __init__(self, problem):
        settings = LayerPPOSettings(first=5, round=3, first_updates=2, updates=1, draws=16, neighbours=32,
                                    ppo=EpisodicPPO(episodes=32, hidden=(64, 64), entropy=0.02))
        super().__init__(problem, settings)

class Only(ExhaustiveAgent):
    def __init__(self, problem):
        super().__init__(problem)
        self._open &= [self.wants(plan) for plan in problem.plans]

class Png(Only):
    def wants(self, plan):
        return plan.codec.kind == "png"

class Jpeg(Only):
    def wants(self, plan):
        return plan.codec.kind == "jpeg" and plan.codec.quality == 50

class JpegBody(Only):
    def wants(self, plan):
        return plan.codec.kind == "jpeg-shared" and plan.codec.quality == 50

class Whole(Only):
    def wants(self, plan):
        return plan.split == "output" and plan.sparsity == 0

class WholePruned(Only):
    def wants(self, plan):
        return plan.split == "output" and plan.sparsity > 0

class Code(Only):
    def wants(self, plan):
        return plan.split == "layer2" and plan.sparsity == 0 and plan.codec.width == 4 and plan.codec.bits == 8

class CodePruned(Only):
    def wants(self, plan):
        return plan.split == "layer1" and plan.sparsity > 0 and plan.codec.width == 2 and plan.codec.bits == 2

class Injected(Only):  # with space.heads = [pruned, injected] and codecs that have rates
    def wants(self, plan):
        return plan.place == "layer1+injected" and plan.sparsity > 0 and plan.codec.rate == 2

class ReducedSplit(Only):  # with space.heads = [pruned, reduced]
    def wants(self, plan):
        return plan.place == "layer1+reduced" and plan.sparsity > 0 and plan.codec.width == 2 and plan.codec.bits == 2

class ReducedWhole(Only):
    def wants(self, plan):
        return plan.place == "output+reduced"
"""

KINDS = ("Png", "Jpeg", "JpegBody", "Whole", "WholePruned", "Code", "CodePruned")

SETTINGS: dict[str, Any] = {
    "space.widths": (2, 4), "space.bits": (2, 8), "space.sparsities": (0.0, 0.5), "space.grid_levels": 2,
    "space.max_grid": 4, "space.jpeg_qualities": (50, 90), "space.webp_qualities": (30,),
    "space.avif_qualities": (40,), "space.image_downscales": (1,), "space.exits": (),
    "training.backbone_epochs": 2, "training.supernet_epochs": 1, "training.supernet_lr": 0.1,
    "training.codec_steps": 8, "training.finetune_epochs": 1, "training.finetune_lr": 0.02, "training.batch_size": 32,
    "search.evaluations": 8, "search.finalists": 1,
}

PROGRESS = re.compile(r".*: (done|failed|interrupted) after \d+\.\d s( \(.*\))?")


@dataclass(frozen=True)
class World:
    """Where things are."""

    root: Path

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def network(self) -> str:
        return f"{self.root / 'net.py'}:network"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def run(self) -> Path:
        """The run of the default agent that is finished before the first test begins."""
        return self.root / "run"

    def agent(self, name: str) -> str:
        return f"{self.root / 'agents.py'}:{name}"

    def scenario(self, **changes: Any) -> Scenario:
        """A search of seconds; `changes` as in `Scenario.replace`, with `__` for the dot."""
        here = {"dataset": f"image-folder:{self.pictures}", "backbone": self.network, "name": "tiny"}
        return load_scenario().replace(**here, **SETTINGS).replace(**changes)


@contextmanager
def searching(world: World) -> Iterator[pytest.MonkeyPatch]:
    """A place for patches under which a search uses the world's cache and chooses no baseline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        patch.setattr("autosplit.pipeline.search._may_be_chosen", lambda plan, space: plan.is_cascade)
        yield patch


def make_world(root: Path) -> World:
    world = World(root)
    make_pictures(world.pictures, 80)
    (root / "net.py").write_text(NETWORK)
    (root / "agents.py").write_text(AGENTS)
    (root / "tiny.yaml").write_text(world.scenario().to_yaml())
    return world


def make_pictures(root: Path, each: int, side: int = 16) -> None:
    """Noise with a square whose colour gives the class: a little training gets some of them right."""
    random = np.random.RandomState(0)
    for channel, name in enumerate(reversed(CLASSES)):
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = random.randint(0, 140, (side, side, 3))
            pixels[4:12, 4:12, channel] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:03d}.png")


def f1_plans(run: Path) -> list[Plan]:
    """What a search measured, in order."""
    return [m.plan for m in Ledger.read(run).measurements("F1")]


def invoke(*args: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(a) for a in args])


def messages(result: Result) -> list[str]:
    """What stands on stderr beside estimates, the progress of phases, and the commands that come next."""
    return [line for line in result.stderr.splitlines()
            if line and not line.startswith(("estimate: ", "next: ")) and not PROGRESS.fullmatch(line)]


def next_commands(result: Result) -> list[str]:
    """The commands that a command names at its end, without the reasons."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("next: ")]
    return [line.removeprefix("next: ").split("  # ")[0] for line in lines]


def failure(*args: object, code: int = 2) -> str:
    """Run a command that must fail with this exit code, nothing on stdout and one line on stderr; returns that line."""
    result = invoke(*args)
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    lines = messages(result)
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")
