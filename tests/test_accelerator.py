"""A search on an accelerator: everything is where it has to be, and what comes out is what the processor finds."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import autosplit
from autosplit.core.accelerator import CPU, Accelerator, find_accelerator
from autosplit.core.cache import Cache
from autosplit.core.errors import ConfigError, ResumeError
from autosplit.core.plan import Plan
from autosplit.core.scenario import load_scenario
from autosplit.pipeline.ledger import load_run
from autosplit.pipeline.replay import replay
from autosplit.training.finetune import Finetuning
from autosplit.training.prepare import prepare
from autosplit.training.rates import finetune_rates, rate_network
from tests.elsewhere import AroundKernels, simulated
from tests.pipeline.test_given import IMAGES, LABELS, Net, milliseconds
from tests.runs import SETTINGS

EVERYTHING = {
    "families": {"codecs": ["nested", "factorised", "aecnn", "bottlenet++", "jalad"]},
    "injected": {"codecs": ["factorised"], "space.heads": ["pruned", "injected"], "training.injected_steps": 3,
                 "space.exits": [0.5], "space.exit_by": ["network", "classifier"]},
    "student": {"codecs": ["factorised"], "space.heads": ["injected"], "space.injected_encoder": "entropic-student",
                "training.injected_steps": 3},
    "constants": {"codecs": ["nested"]},
    "layers": {"search.granularity": "layer", "training.layer_profiles": 2},
}


class Positions(Net):
    """Has a parameter and a constant of its own in the graph, and makes a tensor where its input is."""

    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.shift = nn.Parameter(torch.randn(8, 1, 1))
        self.register_buffer("scale", torch.rand(16, 1, 1))

    def forward(self, x):
        x = self.one(x) + self.shift + torch.arange(8, device=x.device) / 10
        return self.fc((self.two(x) * self.scale).mean((2, 3)))


@pytest.fixture(autouse=True)
def _one_thread_in_float32(one_thread, monkeypatch):
    monkeypatch.setattr(Accelerator, "half", None)
    monkeypatch.setattr("autosplit.training.exits._STEPS", 10)
    # the processor alone would compute some convolutions in another way
    monkeypatch.setattr("autosplit.training.precision.AroundKernels", nullcontext)
    with AroundKernels():
        yield


def searched(folder, monkeypatch, settings, network=Net):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(folder / "cache"))
    torch.manual_seed(0)
    settings = {**SETTINGS, "training.codec_steps": 4, "space.jpeg_qualities": (50,), "space.webp_qualities": (),
                "space.avif_qualities": (), "space.whole_on_device": False, "space.whole_on_edge": False,
                **settings}
    return autosplit.search(out=folder / "run", model=network(), train=True, data=(IMAGES, LABELS),
                            latency=milliseconds, budget_ms=50, quiet=True, settings=settings)


@pytest.mark.parametrize("what", EVERYTHING)
def test_a_search_elsewhere_is_the_search_here(what, tmp_path, monkeypatch):
    settings = {"search.agent": "random", "search.evaluations": 8, "search.finalists": 1, **EVERYTHING[what]}
    network = Positions if what == "constants" else Net
    here = searched(tmp_path / "here", monkeypatch, settings, network)
    with simulated():
        there = searched(tmp_path / "there", monkeypatch, settings, network)
    assert there.plan == here.plan
    assert there.test == here.test
    assert there.stored.sha256 == here.stored.sha256
    found, expected = ([outcome.model_dump(exclude={"measurement": {"seconds"}})
                        for outcome in load_run(result.path.parent)[1]] for result in (there, here))
    assert found == expected


def test_a_run_goes_on_where_it_was_begun(tmp_path, monkeypatch):
    settings = {"search.agent": "random", "search.evaluations": 2, "search.finalists": 1}
    with simulated():
        searched(tmp_path, monkeypatch, settings)
    scenario = load_scenario(str(tmp_path / "run" / "scenario.yaml"))
    with pytest.raises(ResumeError, match=r"begun on accelerator 'lazy'.*--accelerator lazy"):
        autosplit.search(scenario, tmp_path / "run", resume=True, evaluations=3, quiet=True)


def test_replay_needs_no_accelerator(tmp_path, monkeypatch):
    with simulated():
        result = searched(tmp_path, monkeypatch, {"search.agent": "random", "search.evaluations": 2})
    record = result.path.read_text().replace('"accelerator": "auto"', '"accelerator": "cuda"')
    assert '"cuda"' in record
    result.path.write_text(record)
    assert replay(result.path).exact


class TestFinding:
    def test_auto_is_the_processor_where_there_is_no_card(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert find_accelerator() is CPU
        assert CPU.arithmetic
        assert CPU.name

    @pytest.mark.parametrize("name", ["cuda", "mps"])
    def test_what_is_absent_is_refused(self, name, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(ConfigError, match=f"accelerator '{name}'"):
            find_accelerator(name)

    def test_it_is_refused_before_anything_is_loaded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        for run in (autosplit.search, autosplit.dry_run):
            with pytest.raises(ConfigError, match="accelerator 'cuda'"):
                run(accelerator="cuda", quiet=True, **({"out": tmp_path / "run"} if run is autosplit.search else {}))
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(("capability", "half"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16),
                                                      ((9, 0), torch.bfloat16)])
    def test_a_card_trains_in_the_type_that_it_computes_in(self, capability, half, monkeypatch):
        monkeypatch.undo()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA T4")
        card = find_accelerator()
        assert (card.kind, card.half, card.name) == ("cuda", half, "NVIDIA T4")
        assert "NVIDIA T4" in card.arithmetic


def test_the_rates_of_a_bundle_are_fine_tuned_elsewhere(world):
    def rates(networks):
        plans = [Plan.at("layer1", 0.5, codec) for codec in networks.supernet.codec("layer1").settings()[:2]]
        settings = networks.scenario.training.model_copy(update={"finetune_epochs": 1})
        run = Finetuning(networks.data, settings, 0)
        finetune_rates(networks.supernet, plans, networks.teacher, run)
        return [rate_network(networks.supernet, plan, networks.data, settings).on_processor() for plan in plans]

    with simulated() as elsewhere:
        there = prepare(world.scenario(), cache=Cache(world.cache))
        assert there.data.accelerator == elsewhere
        assert {p.device.type for p in there.supernet.parameters()} == {elsewhere.kind}
        found = rates(there)
    here = prepare(world.scenario(), cache=Cache(world.cache))
    for one, other in zip(found, rates(here), strict=True):
        states = one.state_dict(), other.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
