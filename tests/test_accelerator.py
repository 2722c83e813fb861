"""A search on an accelerator: everything is where it has to be, and what comes out is what the processor finds."""

from __future__ import annotations

import pytest
import torch

import autosplit
from autosplit.core.accelerator import CPU, Accelerator, find_accelerator
from autosplit.core.errors import ConfigError, ResumeError
from autosplit.core.scenario import load_scenario
from autosplit.pipeline.ledger import load_run
from autosplit.pipeline.replay import replay
from tests.elsewhere import simulated
from tests.pipeline.test_given import IMAGES, LABELS, Net, milliseconds
from tests.runs import SETTINGS

EVERYTHING = {
    "families": {"codecs": ["nested", "factorised", "aecnn", "bottlenet++", "jalad"]},
    "injected": {"codecs": ["factorised"], "space.heads": ["pruned", "injected"], "training.injected_steps": 3,
                 "space.exits": [0.5], "space.exit_by": ["network", "classifier"]},
    "student": {"codecs": ["factorised"], "space.heads": ["injected"], "space.injected_encoder": "entropic-student",
                "training.injected_steps": 3},
    "layers": {"search.granularity": "layer", "training.layer_profiles": 2},
}


@pytest.fixture(autouse=True)
def _one_thread_in_float32(one_thread, monkeypatch):
    monkeypatch.setattr(Accelerator, "half", None)
    monkeypatch.setattr("autosplit.training.exits._STEPS", 10)


def searched(folder, monkeypatch, settings):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(folder / "cache"))
    torch.manual_seed(0)
    settings = {**SETTINGS, "training.codec_steps": 4, "space.whole_on_device": False, "space.whole_on_edge": False,
                **settings}
    return autosplit.search(out=folder / "run", model=Net(), train=True, data=(IMAGES, LABELS), latency=milliseconds,
                            budget_ms=50, quiet=True, settings=settings)


@pytest.mark.parametrize("what", EVERYTHING)
def test_a_search_elsewhere_is_the_search_here(what, tmp_path, monkeypatch):
    settings = {"search.agent": "random", "search.evaluations": 8, "search.finalists": 1, **EVERYTHING[what]}
    here = searched(tmp_path / "here", monkeypatch, settings)
    with simulated():
        there = searched(tmp_path / "there", monkeypatch, settings)
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
