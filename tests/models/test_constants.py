"""What does not depend on the input is computed once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autosplit.models.constants import with_constants
from autosplit.models.tracing import trace


class Shifted(nn.Module):
    """A mask that is made anew for every image, as in a Swin Transformer, and a bias picked from a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 4, 3, padding=1), nn.Parameter(torch.randn(9))
        self.last = nn.Linear(4, 5)
        self.register_buffer("places", torch.arange(36) % 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        mask = x.new_zeros((6, 6))
        mask[:3, :3], mask[3:] = 1, 2
        mask = (mask[None] - mask.flatten()[:, None, None]).masked_fill(mask != 0, -3.0)
        x = x + mask.mean(0) + self.table[self.places].reshape(6, 6)
        return self.last(x.mean((2, 3)) * x.shape[0] / x.new_ones(x.shape[0]).sum())


def calls(graph):
    return [node for node in graph.graph.nodes if node.op in {"call_function", "call_method"}]


def test_the_same_answers_with_fewer_operations():
    torch.manual_seed(0)
    network = trace(Shifted().eval(), (3, 6, 6))
    before = len(calls(network))
    found, images = with_constants(network, (3, 6, 6)), torch.randn(4, 3, 6, 6)
    assert torch.equal(found(images), network(images))
    names = {str(getattr(node.target, "__name__", node.target)) for node in calls(found)}
    assert not names & {"set_item", "new_zeros", "masked_fill", "getitem"}
    assert "new_ones" in names  # its size is that of the batch
    assert len(calls(found)) < before - 8
    assert len(calls(network)) == before
    assert "places" not in dict(found.named_buffers())
    assert found.training == network.training


def test_a_network_without_constants_is_given_back():
    network = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)), (3, 6, 6))
    assert with_constants(network, (3, 6, 6)) is network
    plain = nn.Conv2d(3, 4, 3)
    assert with_constants(plain, (3, 6, 6)) is plain


def test_large_constants_are_not_stored():
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3)) + torch.zeros(3000, 3000).mean()

    network = trace(Large().eval(), (3, 6, 6))
    found = with_constants(network, (3, 6, 6))
    assert max((b.numel() for b in found.buffers()), default=0) <= 1
    assert torch.equal(found(torch.ones(2, 3, 6, 6)), network(torch.ones(2, 3, 6, 6)))
