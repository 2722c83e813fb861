from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torchvision import models

from autosplit.core.errors import PruningError
from autosplit.models import pruning
from autosplit.models.costs import stage_cost
from autosplit.models.pruning import HeadPruner
from autosplit.models.splitting import block_ends, cut, find_split_points
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8
from autosplit.training.precision import AroundKernels
from tests.tiny import randomise_norms

# split point of each network; `None` = the whole of it
CASES = [
    *(("resnet8", split) for split in ("stem", "layer1", "layer2", "layer3", None)),
    ("mobilenet_v2", "features.9"), ("resnet18", "layer3"), ("densenet121", "features.transition1"),
    ("efficientnet_b0", "features.4"), ("convnext_tiny", "features.5.2"), ("regnet_y_400mf", "trunk_output.block2"),
    ("vgg11_bn", "features.17"), ("squeezenet1_1", "features.4"), ("googlenet", "inception4a"),
    ("shufflenet_v2_x0_5", None), ("mobilenet_v3_small", None), ("swin_t", None),
]


def tensors(module):
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def build(name):
    torch.manual_seed(0)
    if name == "resnet8":
        network, shape = resnet8(), (3, 32, 32)
    else:
        options = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
        network, shape = models.get_model(name, weights=None, **options), (3, 64, 64)
    randomise_norms(network)
    return trace(network.eval(), shape), shape


def head_of(name, split):
    graph, shape = build(name)
    if split is None:
        return graph, shape
    point = next(p for p in find_split_points(graph, shape) if p.name == split)
    return cut(graph, point)[0], shape


@pytest.fixture(params=CASES, ids=lambda c: f"{c[0]}-{c[1] or 'whole'}")
def head_and_shape(request):
    return head_of(*request.param)


def test_pruned_is_masked(head_and_shape):
    head, shape = head_and_shape
    pruner = HeadPruner(head, shape)
    before = {k: v.clone() for k, v in tensors(head).items()}
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    macs = [stage_cost(head, shape).macs]
    with torch.inference_mode():
        full = head(images)
        for sparsity in (0.3, 0.75):
            sub = pruner.sub_network(pruner.keep_counts(sparsity))
            pruned = sub.materialise(head)
            feature = pruned(images)
            masked = pruner.masked(pruner.keep_counts(sparsity))(images)
            assert feature.shape == full.shape
            torch.testing.assert_close(feature, masked, atol=1e-4, rtol=1e-4)
            macs.append(stage_cost(pruned, shape).macs)
            assert stage_cost(sub.module, shape).macs == macs[-1]
            if pruner.groups:  # so that the comparison above says something
                assert (feature - full).abs().max() > 0.01
    if pruner.groups:
        assert macs[0] > macs[1] > macs[2]
    assert all(torch.equal(v, before[k]) for k, v in tensors(head).items())


@pytest.fixture(scope="module")
def small():
    head, shape = head_of("resnet8", "layer2")
    return head, shape, HeadPruner(head, shape)


class TestGroups:
    def test_of_resnet8_in_the_order_of_execution(self, small):
        # the residual stream of stage one is free to shrink before `layer2`; that of `layer2` is the feature
        assert [(g.root, g.channels) for g in small[2].groups] == [
            ("stem.0", 16), ("layer1.0.conv1", 16), ("layer2.0.conv1", 32)]

    def test_channels_of_the_feature_are_kept(self):
        head, shape = head_of("resnet8", "layer1")
        assert [g.root for g in HeadPruner(head, shape).groups] == ["layer1.0.conv1"]
        head, shape = head_of("resnet8", "stem")
        assert HeadPruner(head, shape).groups == ()

    def test_a_concatenation_at_the_cut_keeps_its_branches(self):
        head, shape = head_of("googlenet", "inception4a")
        roots = {g.root for g in HeadPruner(head, shape).groups}
        assert "inception4a.branch2.0.conv" in roots
        assert not roots & {"inception4a.branch1.conv", "inception4a.branch2.1.conv", "inception4a.branch4.1.conv"}

    @pytest.mark.parametrize("name", ["mobilenet_v2", "densenet121"])
    def test_execution_order(self, name):
        graph, shape = build(name)
        head, _ = cut(graph, block_ends(find_split_points(graph, shape))[4])
        place = {str(n.target): i for i, n in enumerate(head.graph.nodes)}
        places = [place[g.root] for g in HeadPruner(head, shape).groups]
        assert places == sorted(places)
        assert len(places) >= 4

    def test_most_important_channel_is_kept(self):
        head, shape = head_of("resnet8", "layer2")
        with torch.no_grad():
            head.get_submodule("layer1.0.conv1").weight[5] *= 10
        group = HeadPruner(head, shape).groups[1]
        assert group.order[0] == 5
        assert group.removed(1) == [c for c in range(16) if c != 5]
        assert sorted(group.order) == list(range(16))

    def test_channels_are_nested(self, small):
        _, _, pruner = small
        kept = []
        for sparsity in (0.25, 0.5, 0.875):
            indices = pruner.sub_network(pruner.keep_counts(sparsity)).indices
            kept.append({name: set(rows.tolist()) for name, (rows, _) in indices.items() if rows is not None})
        for lower, higher in pairwise(kept):
            assert lower.keys() == higher.keys()
            assert all(higher[name] < lower[name] for name in lower)


class TestKeepCounts:
    def test_one_level(self, small):
        assert small[2].keep_counts(0.0) == (16, 16, 32)
        assert small[2].keep_counts(0.75) == (4, 4, 8)

    def test_at_least_one_channel(self, small):
        assert small[2].keep_counts(0.999) == (1, 1, 1)

    def test_one_level_a_group(self, small):
        assert small[2].keep_counts((0.0, 0.5, 0.75)) == (16, 8, 8)

    def test_wrong_number_of_levels(self, small):
        with pytest.raises(PruningError, match="2 sparsities for a head of 3 prunable groups"):
            small[2].keep_counts((0.1, 0.2))


class TestSubNetwork:
    def test_made_once(self, small):
        assert small[2].sub_network((4, 4, 8)) is small[2].sub_network((4, 4, 8))

    def test_those_asked_for_last_are_remembered(self, small, monkeypatch):
        monkeypatch.setattr(pruning, "_KEPT", 2)
        head, shape, _ = small
        pruner = HeadPruner(head, shape)
        first, second = pruner.sub_network((4, 4, 8)), pruner.sub_network((4, 4, 9))
        assert pruner.sub_network((4, 4, 8)) is first
        pruner.sub_network((4, 4, 10))
        assert pruner.sub_network((4, 4, 8)) is first
        assert pruner.sub_network((4, 4, 9)) is not second

    def test_nothing_removed_is_the_head(self, small):
        head, shape, pruner = small
        same = pruner.sub_network((16, 16, 32)).materialise(head)
        images = torch.randn(2, *shape)
        with torch.inference_mode():
            assert torch.equal(same(images), head(images))

    def test_gathered_weights_give_the_pruned_output_and_pass_the_gradient(self, small):
        head, shape, pruner = copy.deepcopy(small[0]), small[1], small[2]
        sub = pruner.sub_network((8, 4, 16))
        images = torch.randn(2, *shape)
        with AroundKernels():
            feature = torch.func.functional_call(sub.module, sub.gather(head), (images,))
        torch.testing.assert_close(feature, sub.materialise(head)(images))
        feature.square().sum().backward()
        weight = head.get_submodule("layer1.0.conv1").weight
        rows = sub.indices["layer1.0.conv1.weight"][0].tolist()
        removed = [r for r in range(16) if r not in rows]
        assert len(rows) == 4
        assert weight.grad[rows].abs().sum(dim=(1, 2, 3)).min() > 0
        assert weight.grad[removed].abs().max() == 0
        assert all(p.grad is not None for p in head.parameters())

    def test_materialised_weights_are_copies(self, small):
        head, shape, pruner = small
        before = {k: v.clone() for k, v in tensors(head).items()}
        pruned = pruner.sub_network((4, 4, 8)).materialise(head).train()
        with torch.no_grad():
            for p in pruned.parameters():
                p.zero_()
            pruned(torch.randn(2, *shape))
        assert all(torch.equal(v, before[k]) for k, v in tensors(head).items())

    def test_constant_buffers_are_kept(self):
        class Indexed(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
                self.register_buffer("flip", torch.arange(7, -1, -1))

            def forward(self, x):
                return self.conv2(self.conv1(x))[..., self.flip]

        head = trace(Indexed().eval(), (3, 8, 8))
        pruner = HeadPruner(head, (3, 8, 8))
        pruned = pruner.sub_network(pruner.keep_counts(0.5)).materialise(head)
        assert torch.equal(pruned.flip, torch.arange(7, -1, -1))


class TestWithoutGroups:
    def test_nothing_is_removed(self):
        head, shape = head_of("resnet8", "layer2")
        pruner = HeadPruner(head, shape, prunable=False)
        assert pruner.groups == ()
        same = pruner.sub_network(pruner.keep_counts(0.5)).materialise(head)
        images = torch.randn(2, *shape)
        with torch.inference_mode():
            assert torch.equal(same(images), head(images))


class TestRules:
    def test_what_is_named_keeps_its_channels_and_those_that_go_with_them(self):
        head, shape = head_of("resnet8", "layer2")
        assert HeadPruner(head, shape, keep=("stem",)).keep_counts(0.5) == (16, 8, 16)
        assert HeadPruner(head, shape, keep=("layer1.0.conv2",)).keep_counts(0.5) == (16, 8, 16)
        assert HeadPruner(head, shape, keep=("layer1",)).keep_counts(0.5) == (16, 16, 16)

    def test_counts_are_multiples(self):
        head, shape = head_of("resnet8", "layer2")
        pruner = HeadPruner(head, shape, round_to=8)
        assert [pruner.keep_counts(s) for s in (0.25, 0.5, 0.9)] == [(16, 16, 24), (8, 8, 16), (8, 8, 8)]
