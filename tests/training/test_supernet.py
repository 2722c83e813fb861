from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torchvision import models

from autosplit.backbones.splitting import find_split_points, select_split_points, trace
from autosplit.compression.network import recalibrate
from autosplit.errors import ConfigError, PruningError
from autosplit.plan import CodecSetting, Plan
from autosplit.training.backbone import train_backbone
from autosplit.training.loop import Teacher, accuracy, logits_of
from autosplit.training.supernet import Supernet, train_supernet
from tests.tiny import CLASSES, SPACE, randomise_norms, tiny_dataset, tiny_network, tiny_settings, tiny_supernet


@pytest.fixture(scope="module")
def data():
    return tiny_dataset()


@pytest.fixture(scope="module")
def fresh(data):
    network = tiny_network()
    randomise_norms(network)
    return tiny_supernet(network, data)


@pytest.fixture(scope="module")
def backbone(data):
    network = tiny_network()
    train_backbone(network, data, tiny_settings(), 0)
    return network.to(memory_format=torch.contiguous_format)


def train_once(backbone, data, seed=0):
    supernet = tiny_supernet(backbone, data)
    steps = []
    train_supernet(supernet, Teacher(trace(backbone), data), data, tiny_settings(), seed, lambda: steps.append(1))
    assert len(steps) == 4 * 8
    return supernet


@pytest.fixture(scope="module")
def trained(backbone, data):
    return train_once(backbone, data)


class TestPlanSpace:
    def test_sizes(self, fresh):
        space = fresh.plan_space
        assert space.splits == ("input", "stem", "layer1", "layer2", "layer3", "output")
        # nothing before `stem` can be pruned: its channels are those of the feature
        assert space.sparsities == {"input": (0.0,), "stem": (0.0,), **dict.fromkeys(
            ("layer1", "layer2", "layer3", "output"), (0.0, 0.5))}
        assert [c.label for c in space.codecs["input"]] == ["png", "jpeg q90", "jpeg q50"]
        assert space.codecs["output"] == (CodecSetting(kind="none"),)
        for split in ("stem", "layer1", "layer2", "layer3"):  # widths x grids x bits
            assert len(space.codecs[split]) == 2 * 2 * 2
        assert len(space) == len(space.plans()) == 3 + 8 + 3 * 2 * 8 + 2

    def test_ends_can_be_left_out(self, data):
        space = SPACE.model_copy(update={"whole_on_edge": False, "whole_on_device": False, "splits": ("layer2",)})
        assert tiny_supernet(tiny_network(), data, space).plan_space.splits == ("layer2",)

    def test_sparsities_that_round_to_the_same_channels_collapse(self, data):
        space = SPACE.model_copy(update={"sparsities": (0.0, 0.01, 0.5, 0.51)})
        assert tiny_supernet(tiny_network(), data, space).plan_space.sparsities["layer2"] == (0.0, 0.5)

    def test_flat_feature_is_refused(self, data):
        space = SPACE.model_copy(update={"splits": ("flatten",)})
        with pytest.raises(ConfigError, match="'flatten': the nested codec takes feature maps"):
            tiny_supernet(tiny_network(), data, space)

    def test_network_that_cannot_be_pruned(self, data):
        network = models.shufflenet_v2_x0_5(num_classes=CLASSES)
        space = SPACE.model_copy(update={"splits": ("stage2",)})
        graph = trace(network.eval())
        points = select_split_points(find_split_points(graph, (3, 32, 32)), space.splits)
        with pytest.raises(PruningError, match=r"space\.sparsities: \[0\]"):
            Supernet(graph, points, space, torch.randn(2, 3, 32, 32))
        unpruned = Supernet(graph, points, space.model_copy(update={"sparsities": (0.0,)}), torch.randn(2, 3, 32, 32))
        assert unpruned.plan_space.sparsities["stage2"] == (0.0,)
        plan = unpruned.widest("stage2")
        assert unpruned.extract(plan)(torch.randn(2, 3, 32, 32)).shape == (2, CLASSES)


def chosen_plans(supernet):
    """The widest, the narrowest and one between at each split point."""
    for split in supernet.plan_space.splits[1:]:
        levels, codecs = supernet.plan_space.sparsities[split], supernet.plan_space.codecs[split]
        yield supernet.widest(split)
        yield Plan(split=split, sparsity=levels[-1], codec=codecs[0])
        yield Plan(split=split, sparsity=levels[0], codec=codecs[len(codecs) // 2])


class TestShared:
    def test_forward_is_the_extracted_network(self, fresh, data):
        images = data.normalise(data.train.images[:24])
        supernet = copy.deepcopy(fresh).train()
        plans = list(chosen_plans(supernet))
        assert len(plans) == 15
        answers = []
        with torch.no_grad():
            for plan in plans:
                network = supernet.extract(plan).train()
                answers.append(network(images))
                torch.testing.assert_close(supernet(images, plan), answers[-1], atol=1e-4, rtol=1e-4, msg=plan.label)
        assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(answers))

    def test_sparsity_by_group(self, fresh, data):
        images = data.normalise(data.train.images[:8])
        groups = fresh.pruners["layer3"].groups
        levels = tuple(0.5 if i % 2 else 0.0 for i in range(len(groups)))
        plan = Plan(split="layer3", sparsity=levels, codec=fresh.widest("layer3").codec)
        supernet = copy.deepcopy(fresh).train()
        with torch.no_grad():
            torch.testing.assert_close(supernet(images, plan), supernet.extract(plan).train()(images),
                                       atol=1e-4, rtol=1e-4)

    def test_extracted_weights_are_copies(self, fresh, data):
        before = {k: v.clone() for k, v in fresh.state_dict().items()}
        network = fresh.extract(Plan(split="layer2", sparsity=0.5, codec=fresh.codec("layer2").settings()[0]))
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.zero_()
        assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())

    def test_gradient_reaches_the_shared_weights(self, fresh, data):
        supernet = copy.deepcopy(fresh).train()
        plan = Plan(split="layer2", sparsity=0.5, codec=fresh.codec("layer2").settings()[0])
        supernet(data.normalise(data.train.images[:8]), plan).square().sum().backward()
        assert supernet.backbone.get_submodule("stem.0").weight.grad.abs().sum() > 0
        assert supernet.backbone.get_submodule("fc").weight.grad.abs().sum() > 0
        assert supernet.codec("layer2").encoder.conv.weight.grad.abs().sum() > 0
        assert all(p.grad is None for p in supernet.codec("layer1").parameters())

    def test_backbone_is_copied(self, data):
        network = tiny_network()
        graph = trace(network.eval())
        points = select_split_points(find_split_points(graph, data.shape), "blocks")
        supernet = Supernet(graph, points, SPACE, data.normalise(data.train.images[:4]))
        with torch.no_grad():
            supernet.backbone.get_submodule("fc").weight.zero_()
        assert graph.get_submodule("fc").weight.abs().sum() > 0


class TestTraining:
    def test_widest_plans_learn(self, trained, data):
        statistics = data.normalise(data.train.images)
        for split in trained.plan_space.splits[1:]:
            network = trained.extract(trained.widest(split))
            recalibrate(network, statistics)
            assert accuracy(network, data, data.validation) > 0.9, split

    def test_widest_plan_in_every_step_and_every_split_in_turn(self, backbone, data, monkeypatch):
        plans, forward = [], Supernet.forward

        def watched(self, images, plan):
            plans.append(plan)
            return forward(self, images, plan)

        monkeypatch.setattr(Supernet, "forward", watched)
        supernet = tiny_supernet(backbone, data)
        train_supernet(supernet, Teacher(trace(backbone), data), data, tiny_settings(2), 0)
        widest, chance = plans[::2], plans[1::2]
        assert widest == [supernet.widest(p.split) for p in chance]
        assert sorted(p.split for p in chance[:5]) == sorted(supernet.plan_space.splits[1:])
        assert {p.sparsity for p in chance} == {0.0, 0.5}
        assert len({p.codec for p in chance}) > 4

    def test_untrained_codec_does_not(self, backbone, data):
        supernet = tiny_supernet(backbone, data)
        network = supernet.extract(supernet.widest("layer2"))
        recalibrate(network, data.normalise(data.train.images))
        assert accuracy(network, data, data.validation) < 0.8

    def test_equal_seeds_give_equal_weights(self, trained, backbone, data):
        again, other = train_once(backbone, data), train_once(backbone, data, seed=1)
        state = trained.state_dict()
        assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())
        key = "codecs.layer2.encoder.conv.weight"
        assert not torch.equal(other.state_dict()[key], state[key])

    def test_teacher_is_left_alone(self, backbone, data):
        teacher = trace(backbone)
        before = logits_of(teacher, data, data.validation.images)
        train_supernet(tiny_supernet(backbone, data), Teacher(teacher, data), data, tiny_settings(1), 0)
        assert torch.equal(logits_of(teacher, data, data.validation.images), before)

    def test_augmented_images_are_taught_as_they_come(self, backbone):
        data = tiny_dataset(images=64, augment=True)
        seen = []

        class Watched(torch.nn.Module):
            def forward(self, x):
                seen.append(len(x))
                return backbone(x)

        train_supernet(tiny_supernet(backbone, data), Teacher(Watched().eval(), data), data, tiny_settings(1), 0)
        assert seen == [32, 32]


def test_making_a_sub_network_leaves_the_shared_norms_in_training(fresh, data):
    supernet = copy.deepcopy(fresh).train()
    for plan in chosen_plans(supernet):
        supernet(data.normalise(data.train.images[:4]), plan)
        supernet.extract(plan)
    assert all(m.training for m in supernet.modules())
