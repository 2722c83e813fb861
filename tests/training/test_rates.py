"""Rates that are fine-tuned together."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch

from autosplit.core.cache import Cache
from autosplit.core.plan import Plan
from autosplit.models.tracing import trace
from autosplit.training import rates as module
from autosplit.training.finetune import Finetuning
from autosplit.training.loop import Teacher, accuracy
from autosplit.training.rates import finetune_rates, rate_network
from tests.tiny import SPACE, tiny_dataset, tiny_network, tiny_settings, tiny_supernet

SETTINGS = tiny_settings().model_copy(update={"finetune_epochs": 2, "finetune_lr": 0.05})


@pytest.fixture(scope="module")
def data(one_thread):
    return tiny_dataset()


def start(data):
    """A supernet, rates of one of its cuts, the smallest first, and a teacher."""
    network = tiny_network()
    supernet = tiny_supernet(network, data)
    split = next(iter(supernet.points))
    codec = supernet.codec(split)
    plans = [Plan(split=split, sparsity=0.5, codec=setting) for setting in codec.settings()]
    return supernet, [plans[0], plans[2], plans[-1]], Teacher(trace(network.eval(), data.shape), data)


def test_rates_get_better_and_share_their_head(data):
    supernet, plans, teacher = start(data)
    split = plans[0].split

    def mean():
        networks = [rate_network(supernet, plan, data, SETTINGS) for plan in plans]
        return fmean(accuracy(network, data, data.train) for network in networks), networks

    other = next(name for name in supernet.points if name != split)
    untouched = {n: t.clone() for n, t in supernet.codec(other).state_dict().items()}
    before, _ = mean()
    finetune_rates(supernet, plans, teacher, Finetuning(data, SETTINGS, 0))
    after, networks = mean()
    assert after > before
    for network in networks[1:]:
        assert all(torch.equal(a, b) for a, b in zip(network.head.state_dict().values(),
                                                     networks[0].head.state_dict().values(), strict=True))
    norms = [m.running_mean for n in networks for m in n.tail.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not torch.equal(norms[0], norms[len(norms) // len(networks)])  # statistics are each rate's own
    assert all(torch.equal(t, untouched[n]) for n, t in supernet.codec(other).state_dict().items())


def test_an_injected_head_is_trained_along(data):
    space = SPACE.model_copy(update={"heads": ("injected",), "rates": 3, "splits": ("layer1",)})
    network = tiny_network()
    supernet = tiny_supernet(network, data, space, families=("factorised",))
    place = "layer1+injected"
    plans = [Plan.at(place, 0.0, setting) for setting in supernet.codec(place).settings()[:2]]
    before = [[t.clone() for t in part.parameters()] for part in supernet.injected_parts(place)]
    finetune_rates(supernet, plans, Teacher(trace(network.eval(), data.shape), data), Finetuning(data, SETTINGS, 0))
    for part, old in zip(supernet.injected_parts(place), before, strict=True):
        assert all(not torch.equal(t, kept) for t, kept in zip(part.parameters(), old, strict=True))
    one, two = (rate_network(supernet, plan, data, SETTINGS) for plan in plans)
    assert all(torch.equal(a, b) for a, b in zip(one.head.state_dict().values(), two.head.state_dict().values(),
                                                 strict=True))


def test_smallest_and_largest_are_in_every_step(data, monkeypatch):
    supernet, plans, teacher = start(data)
    steps, real = [], supernet.forward

    def counting(images, plan):
        steps.append(plans.index(plan))
        return real(images, plan)

    monkeypatch.setattr(supernet, "forward", counting)
    monkeypatch.setattr(module, "rate_network", lambda *_: supernet)
    monkeypatch.setattr(module, "accuracy", lambda *_: 0.5)
    finetune_rates(supernet, plans, teacher, Finetuning(data, SETTINGS, 0))
    assert steps.count(0) == steps.count(len(plans) - 1) == 16
    assert 0 < steps.count(1) < 16


def test_it_goes_on_where_it_was_interrupted(data, tmp_path):
    class StoppedError(Exception):
        pass

    def stop_after(steps):
        def on_step():
            nonlocal steps
            steps -= 1
            if not steps:
                raise StoppedError

        return on_step

    supernet, plans, teacher = start(data)
    finetune_rates(supernet, plans, teacher, Finetuning(data, SETTINGS, 0))
    again, _, _ = start(data)
    with pytest.raises(StoppedError):
        finetune_rates(again, plans, teacher, Finetuning(data, SETTINGS, 0, stop_after(12), Cache(tmp_path), "k"))
    resumed, _, _ = start(data)
    finetune_rates(resumed, plans, teacher, Finetuning(data, SETTINGS, 0, cache=Cache(tmp_path), key="k"))
    assert all(torch.equal(a, b) for a, b in zip(supernet.state_dict().values(), resumed.state_dict().values(),
                                                 strict=True))
