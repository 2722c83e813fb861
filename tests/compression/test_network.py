from __future__ import annotations

import pytest
import torch
from torch import nn

from autosplit.compression import build_codec
from autosplit.compression.codecs.base import Offer
from autosplit.compression.codecs.jalad import RangeScale
from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.models.splitting import cut, find_split_points
from autosplit.models.tracing import trace
from autosplit.training.precision import AroundKernels
from tests.tiny import randomise_norms, tiny_network


def images(n, seed=0):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 + 1


@pytest.fixture
def halves():
    network = tiny_network()
    randomise_norms(network)
    graph = trace(network.eval(), (3, 16, 16))
    point = next(p for p in find_split_points(graph, (3, 16, 16)) if p.name == "layer2")
    return (*cut(graph, point), network)


@pytest.fixture(params=[
    ("nested", 2, 4, 2), ("nested", 4, 1, 8), ("nested", 3, 2, 1), ("aecnn", 3, 8, 2), ("bottlenet++", 2, 4, 8),
    ("bottlenet++:awgn=0.1", 3, 2, 2), ("jalad", 8, 8, 8),
], ids=str)
def coded(request, halves):
    family, *numbers = request.param
    head, tail, _ = halves
    with torch.inference_mode():
        feature = head(images(32))
    codec = build_codec(family, (8, 8, 8), Offer((2, 3, 4), (1, 2, 8)), True)
    codec.fit(feature.clone())
    setting = next(s for s in codec.settings() if [s.width, s.grid, s.bits] == numbers)
    network = SplitNetwork(head, tail, *codec.parts(setting))
    recalibrate(network, images(32))
    return network, setting


class TestSplitNetwork:
    def test_symbols_hold_all_that_the_edge_needs(self, coded):
        network, setting = coded
        with torch.inference_mode():
            symbols = network.symbols(images(8, 1))
            assert symbols.dtype == torch.int32
            assert symbols.shape == (8, setting.width, setting.grid, setting.grid)
            assert symbols.min() >= 0
            assert symbols.max() < 2**setting.bits
            assert len(symbols.unique()) > 1
            logits = network(images(8, 1))
            assert torch.equal(network.finish(symbols), logits)
            assert logits.std(dim=0).max() > 0

    def test_one_image_at_a_time_gives_the_same_symbols(self, coded):
        network, _ = coded
        with torch.inference_mode():
            together = network.symbols(images(8, 1))
            alone = torch.cat([network.symbols(i[None]) for i in images(8, 1)])
        assert (together != alone).float().mean() < 0.01  # a sum in another order may fall on the other side

    def test_gradient_reaches_the_head_through_the_code(self, coded):
        network, _ = coded
        with AroundKernels():
            network.train()(images(8)).square().sum().backward()
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
        assert network.head.get_submodule("stem.0").weight.grad.abs().sum() > 0

    def test_raw_feature(self, halves):
        head, tail, network = halves
        with torch.inference_mode():
            assert torch.equal(SplitNetwork(head, tail)(images(4)), network(images(4)))

    def test_no_codec_no_symbols(self, halves):
        network = SplitNetwork(halves[0], halves[1])
        with pytest.raises(ValueError, match="has no codec, so nothing is quantised"):
            network.symbols(images(2))
        with pytest.raises(ValueError, match="has no codec, so there are no symbols"):
            network.finish(torch.zeros(2, 2, 4, 4, dtype=torch.int32))


class TestRecalibrate:
    def test_statistics_are_those_of_the_images(self):
        network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        x = images(64)
        recalibrate(network, x, batch_size=16)
        torch.testing.assert_close(network[0].running_mean, x.mean(dim=(0, 2, 3)))
        parts = torch.stack([part.var(dim=(0, 2, 3)) for part in x.split(16)])
        torch.testing.assert_close(network[0].running_var, parts.mean(0))
        assert network[0].momentum == 0.1
        assert not any(m.training for m in network.modules())

    def test_forgets_what_was_there(self, halves):
        network = halves[2]
        recalibrate(network, images(32))
        first = {k: v.clone() for k, v in network.state_dict().items()}
        randomise_norms_statistics(network)
        recalibrate(network, images(32))
        assert all(torch.equal(v, first[k]) for k, v in network.state_dict().items())

    def test_deeper_norms_see_normalised_inputs(self, halves):
        head = halves[0]
        recalibrate(head, images(64), batch_size=64)
        seen = []
        hook = head.get_submodule("layer2.0.bn1").register_forward_hook(lambda *a: seen.append(a[1][0]))
        with torch.inference_mode():
            head(images(64))
        hook.remove()
        # every norm before it was in training mode then and is in evaluation mode now: equal but for n / (n - 1)
        norm = head.get_submodule("layer2.0.bn1")
        torch.testing.assert_close(norm.running_mean, seen[0].mean(dim=(0, 2, 3)), atol=1e-3, rtol=1e-2)

    def test_too_few_images_make_one_batch(self):
        network, x = nn.Sequential(nn.BatchNorm2d(3)), images(5)
        recalibrate(network, x)
        torch.testing.assert_close(network[0].running_mean, x.mean(dim=(0, 2, 3)))

    def test_odd_rest_is_left_out(self):
        network, x = nn.Sequential(nn.BatchNorm2d(3)), images(20)
        recalibrate(network, x, batch_size=8)
        torch.testing.assert_close(network[0].running_mean, x[:16].mean(dim=(0, 2, 3)))

    def test_a_range_is_a_statistic_too(self):
        network, x = nn.Sequential(nn.BatchNorm2d(3), RangeScale(8)), images(20)
        network[1].low.fill_(-99)
        recalibrate(network, x, batch_size=8)
        network[1].register_forward_hook(lambda *a: seen.append(a[1][0]))
        seen = []
        network[0].train()
        for batch in x[:16].split(8):  # as the scale saw them
            network(batch)
        assert network[1].low == min(part.min().item() for part in seen)
        assert network[1].high == max(part.max().item() for part in seen)
        assert not network[1].training

    def test_noise_stays_out(self):
        codec = build_codec("bottlenet++:awgn=0.9", (3, 16, 16), Offer((2,), (8,)), True)
        network = SplitNetwork(nn.Identity(), nn.Identity(), *codec.parts(codec.widest)).train()
        recalibrate(network, images(16))
        statistics = network.decoder.norm.running_var.clone()
        recalibrate(network, images(16))
        assert torch.equal(network.decoder.norm.running_var, statistics)


def randomise_norms_statistics(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
