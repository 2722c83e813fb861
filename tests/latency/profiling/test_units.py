"""A network in pieces is the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autosplit.latency.profiling.units import folded, run_once, units_of
from autosplit.models.costs import operators
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8
from tests.tiny import randomise_norms

SHAPE = (3, 32, 32)


class Branching(nn.Module):
    """A value that is read late, a size, and nodes before the first operator."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        n = x.size(0)
        early = self.a(torch.relu(x))
        late = self.norm(self.b(torch.relu(early)))
        x = torch.cat([early, late], 1).mean((2, 3)).view(n, 2, 6).sum(1)
        return self.out(x)


@pytest.fixture(params=[resnet8, Branching], ids=["resnet8", "branching"])
def network(request):
    torch.manual_seed(0)
    made = request.param()
    randomise_norms(made)
    return trace(made.eval(), SHAPE)


def last_of(units, image):
    """What the last unit gives, by running the units one after the other."""
    values = dict.fromkeys(units[0].inputs, image)
    with torch.inference_mode():
        for unit in units:
            found = unit.forward(*(values[name] for name in unit.inputs))
            values.update(zip(unit.outputs, found, strict=True))
    return found[-1]


def test_units_in_a_row_give_what_the_network_gives(network):
    image = torch.randn(1, *SHAPE)
    units = units_of(folded(network), SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(last_of(units, image), network(image), rtol=1e-4, atol=1e-4)


def test_there_is_a_unit_for_each_operator_that_counts_and_norms_are_folded(network):
    ready = folded(network)
    units = units_of(ready, SHAPE)
    counted = operators(network, SHAPE)
    assert [w.macs for u in units for w in u.works] == [w.macs for w in counted]
    assert [w.reads for u in units for w in u.works] == [w.reads for w in counted]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in ready.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()), "the network itself was changed"


def test_a_pass_asks_the_clock_before_and_after_each_unit(network):
    units = units_of(folded(network), SHAPE)
    ticks = iter(range(10_000))
    seconds = run_once(units, torch.randn(1, *SHAPE), lambda: float(next(ticks)))
    assert seconds == [1.0] * len(units)
    assert next(ticks) == 2 * len(units)


def test_values_are_freed_with_their_last_reader(network):
    units = units_of(folded(network), SHAPE)
    assert sorted(name for unit in units for name in unit.last_of) == sorted(
        {name for unit in units for name in unit.inputs})


def test_a_network_without_operators_has_no_units():
    assert units_of(folded(trace(nn.Sequential(nn.ReLU(), nn.Flatten()), SHAPE)), SHAPE) == []
