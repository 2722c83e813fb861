from __future__ import annotations

import copy
import math
from collections import Counter
from itertools import pairwise
from random import Random

import pytest
import torch

from autosplit.compression.network import recalibrate
from autosplit.core.cache import Cache
from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.core.plan import CodecSetting, Plan
from autosplit.models.splitting import find_split_points, select_split_points
from autosplit.models.tracing import trace
from autosplit.training.backbone import train_backbone
from autosplit.training.codecs import pretraining_steps
from autosplit.training.loop import Teacher, accuracy, logits_of
from autosplit.training.precision import AroundKernels
from autosplit.training.supernet import Supernet
from autosplit.training.supernet_training import PlanDraws, random_profiles, relative_loss, train_supernet
from tests.tiny import SPACE, randomise_norms, tiny_dataset, tiny_network, tiny_settings, tiny_supernet


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
    teacher = Teacher(trace(backbone, data.shape), data)
    train_supernet(supernet, teacher, data, tiny_settings(), seed, lambda: steps.append(1))
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
        assert [c.label for c in space.codecs["input"]] == [
            "PNG", "JPEG q90", "JPEG q50", "JPEG q90 with shared tables", "JPEG q50 with shared tables",
            "WebP q30 with shared tables", "WebP q30 effort 0 with shared tables"]
        assert space.codecs["output"] == (CodecSetting(kind="none"),)
        for split in ("stem", "layer1", "layer2", "layer3"):  # widths x grids x bits
            assert len(space.codecs[split]) == 2 * 2 * 2
        assert len(space) == len(space.plans()) == 7 + 8 + 3 * 2 * 8 + 2

    def test_ends_can_be_left_out(self, data):
        space = SPACE.model_copy(update={"whole_on_edge": False, "whole_on_device": False, "splits": ("layer2",)})
        assert tiny_supernet(tiny_network(), data, space).plan_space.splits == ("layer2",)

    def test_sparsities_that_round_to_the_same_channels_collapse(self, data):
        space = SPACE.model_copy(update={"sparsities": (0.0, 0.01, 0.5, 0.51)})
        assert tiny_supernet(tiny_network(), data, space).plan_space.sparsities["layer2"] == (0.0, 0.5)

    def test_flat_feature_is_refused(self, data):
        space = SPACE.model_copy(update={"splits": ("flatten",)})
        with pytest.raises(ConfigError, match="'flatten': codecs take feature maps"):
            tiny_supernet(tiny_network(), data, space)

    def test_a_module_to_keep_that_is_not_there(self, data):
        with pytest.raises(UnknownNameError, match=r"`space\.keep`: 'layr1'; did you mean 'layer1'"):
            tiny_supernet(tiny_network(), data, SPACE.model_copy(update={"keep": ("layr1",)}))



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
        with AroundKernels():
            supernet(data.normalise(data.train.images[:8]), plan).square().sum().backward()
        assert supernet.backbone.get_submodule("stem.0").weight.grad.abs().sum() > 0
        assert supernet.backbone.get_submodule("fc").weight.grad.abs().sum() > 0
        used = {n for n, p in supernet.codecs.named_parameters() if p.grad is not None and p.grad.any()}
        assert {n.split("|")[0] for n in used} == {"layer2"}
        assert any("encoder" in n for n in used)
        assert any("decoder" in n for n in used)

    def test_the_backbone_stays_as_it_is(self, prepared):
        """It is the teacher: training the supernet leaves its weights alone. Without training nothing is copied."""
        from autosplit.training.prepare import untrained

        assert prepared.supernet.backbone is not prepared.backbone
        for name, parameter in prepared.backbone.named_parameters():
            other = prepared.supernet.backbone.get_parameter(name)
            assert other.data_ptr() != parameter.data_ptr()
        assert not torch.equal(next(prepared.backbone.parameters()), next(prepared.supernet.backbone.parameters()))
        rough = untrained(prepared.scenario)
        assert rough.supernet.backbone is rough.backbone


class TestTraining:
    def test_widest_plans_learn(self, trained, data):
        statistics = data.normalise(data.train.images)
        for split in trained.plan_space.splits[1:]:
            network = trained.extract(trained.widest(split))
            recalibrate(network, statistics)
            assert accuracy(network, data, data.validation) > 0.9, split

    def test_widest_plan_in_every_other_step_and_every_split_in_turn(self, backbone, data, monkeypatch):
        plans, forward = [], Supernet.forward

        def watched(self, images, plan):
            plans.append(plan)
            return forward(self, images, plan)

        monkeypatch.setattr(Supernet, "forward", watched)
        supernet = tiny_supernet(backbone, data)
        train_supernet(supernet, Teacher(trace(backbone, data.shape), data), data, tiny_settings(2), 0)
        steps = list(zip(plans[::2], plans[1::2], strict=True))
        assert len(steps) == 2 * 8
        assert all(one.split == two.split for one, two in steps)
        assert [one for one, _ in steps[1::2]] == [supernet.widest(two.split) for _, two in steps[1::2]]
        chance = [plan for step in steps[::2] for plan in step] + [two for _, two in steps[1::2]]
        assert sorted(two.split for _, two in steps[:5]) == sorted(supernet.plan_space.splits[1:])
        assert {p.sparsity for p in chance} == {0.0, 0.5}
        assert len({p.codec for p in chance}) > 4

    def test_pruned_heads_learn(self, trained, backbone, data):
        fresh, statistics = tiny_supernet(backbone, data), data.normalise(data.train.images)
        for split in ("layer2", "layer3", "output"):
            plan = Plan(split=split, sparsity=0.5, codec=trained.plan_space.codecs[split][0])
            found = []
            for supernet in (fresh, trained):
                network = supernet.extract(plan)
                recalibrate(network, statistics)
                found.append(accuracy(network, data, data.validation))
            assert found[0] < 0.8 < 0.9 < found[1], (split, found)

    def test_equal_seeds_give_equal_weights(self, trained, backbone, data):
        again, other = train_once(backbone, data), train_once(backbone, data, seed=1)
        state = trained.state_dict()
        assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())
        key = next(n for n in state if n.startswith("codecs.layer2") and n.endswith("encoder.conv.weight"))
        assert not torch.equal(other.state_dict()[key], state[key])

    def test_teacher_is_left_alone(self, backbone, data):
        teacher = trace(backbone, data.shape)
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


# --- several codec families -------------------------------------------------------------------------------------------


FAMILIES = ("nested", "aecnn", "jalad")


def family_supernet(data, families, splits=("layer1", "layer2"), network=None):
    if network is None:
        network = tiny_network()
        randomise_norms(network)
    space = SPACE.model_copy(update={"splits": splits})
    graph = trace(network.eval(), data.shape)
    points = select_split_points(find_split_points(graph, data.shape), splits)
    torch.manual_seed(0)
    return Supernet(graph, points, space, data.normalise(data.train.images[:16]), families)


@pytest.fixture(scope="module")
def mixed(data):
    return family_supernet(data, FAMILIES)


class TestFamilies:
    def test_plan_space_holds_all_of_them(self, mixed):
        for split, channels, side in (("layer1", 4, 16), ("layer2", 8, 8)):
            settings = mixed.plan_space.codecs[split]
            assert len(set(settings)) == len(settings)
            assert tuple(dict.fromkeys(s.family for s in settings)) == FAMILIES
            labels = {f: [s.label for s in settings if s.family == f] for f in FAMILIES}
            assert labels["nested"] == [f"{w}ch {g}x{g} {b}b" for w in (2, 4) for g in (4, 2) for b in (2, 8)]
            assert labels["aecnn"] == [f"aecnn {w}ch {side}x{side} {b}b" for w in (2, 4) for b in (2, 8)]
            assert labels["jalad"] == [f"jalad {channels}ch {side}x{side} {b}b" for b in (2, 8)]

    def test_widest_is_the_first_familys(self, mixed, data):
        assert mixed.widest("layer2").codec.family == "nested"
        turned = family_supernet(data, ("jalad", "nested"))
        assert turned.widest("layer2").codec == turned.codec("layer2", "jalad").widest
        assert turned.codec("layer2") is turned.codec("layer2", "jalad")

    @pytest.mark.parametrize("families", [FAMILIES, ("bottlenet++", "bottlenet++:awgn=0.1")], ids=str)
    def test_forward_is_the_extracted_network_for_every_plan(self, data, families):
        supernet, images = family_supernet(data, families).train(), data.normalise(data.train.images[:24])
        answers = {}
        for split in supernet.points:
            for setting in supernet.plan_space.codecs[split]:
                for sparsity in (0.0, 0.5):
                    plan = Plan(split=split, sparsity=sparsity, codec=setting)
                    network = supernet.extract(plan).train()
                    found = []
                    for forward in (network, lambda x, p=plan: supernet(x, p)):
                        torch.manual_seed(2)  # noise
                        with torch.no_grad():
                            found.append(forward(images))
                    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4, msg=lambda m, p=plan: f"{p.label}: {m}")
                    answers[plan] = found[0]
        assert {p.codec.family for p in answers} == set(families)
        assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(answers.values()))

    def test_a_plan_trains_its_own_codec_alone(self, mixed, data):
        supernet, images = copy.deepcopy(mixed).train(), data.normalise(data.train.images[:8])
        with AroundKernels():
            plan = Plan(split="layer2", codec=mixed.codec("layer2", "aecnn").widest)
            supernet(images, plan).square().sum().backward()
        used = {n.split(".")[0] for n, p in supernet.codecs.named_parameters() if p.grad is not None}
        assert used == {"layer2|aecnn"}

    def test_unknown_family(self, data):
        with pytest.raises(ConfigError, match="unknown codec 'nestd'"):
            family_supernet(data, ("nestd",))

    @pytest.mark.parametrize("families", [("nested", "aecnn", "bottlenet++:awgn=0.1", "jalad"), ("jalad",)], ids=str)
    def test_training(self, backbone, data, families):
        def trained_once():
            supernet, steps = family_supernet(data, families, ("layer2",), backbone), []
            settings = tiny_settings(2).model_copy(update={"codec_steps": 30})
            teacher = Teacher(trace(backbone, data.shape), data)
            train_supernet(supernet, teacher, data, settings, 0, lambda: steps.append(1))
            assert len(steps) == 2 * 8 + pretraining_steps(supernet, settings)
            return supernet

        supernet = trained_once()
        for family in families:
            network = supernet.extract(Plan(split="layer2", codec=supernet.codec("layer2", family).widest))
            recalibrate(network, data.normalise(data.train.images))
            assert accuracy(network, data, data.validation) > 0.8, family
        again = trained_once()
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in supernet.state_dict().items())
        copy.deepcopy(supernet)

    def test_state_goes_through_a_file(self, mixed, data, tmp_path):
        cache = Cache(tmp_path)
        cache.save("supernet", "key", mixed.state_dict(), {})
        other = family_supernet(data, FAMILIES)
        with torch.no_grad():
            for tensor in (*other.parameters(), *other.buffers()):
                tensor.zero_()
        other.load_state_dict(cache.load("supernet", "key"))
        for family in FAMILIES:
            plan = Plan(split="layer2", codec=mixed.codec("layer2", family).widest)
            one, two = mixed.extract(plan).state_dict(), other.extract(plan).state_dict()
            assert all(torch.equal(v, two[k]) for k, v in one.items()), family


class TestDraws:
    def test_every_family_as_often_and_tiny_codes_less(self, mixed):
        draws, seen = PlanDraws(mixed, Random(0)), Counter()
        for _ in range(6000):
            seen[draws.random("layer2").codec] += 1
        by_family = Counter()
        for setting, count in seen.items():
            by_family[setting.family] += count
        assert all(count == pytest.approx(2000, rel=0.1) for count in by_family.values())
        nested = mixed.codec("layer2", "nested")
        weights = {s: min(1.0, math.prod(nested.code_shape(s)) * s.bits / 8 / 24) for s in nested.settings()}
        assert min(weights.values()) == 2 * 2 * 2 * 2 / 8 / 24
        assert max(weights.values()) == 1
        for setting, weight in weights.items():
            assert seen[setting] == pytest.approx(2000 * weight / sum(weights.values()), rel=0.25, abs=15)

    def test_sparsities_and_ends(self, mixed):
        draws = PlanDraws(mixed, Random(0))
        plans = [plan for _ in range(200) for plan in draws.next()]
        assert {p.split for p in plans} == {"layer1", "layer2", "output"}
        assert {p.codec.kind for p in plans if p.split == "output"} == {"none"}
        assert {p.sparsity for p in plans} == {0.0, 0.5}


class TestProfiles:
    def test_they_scatter_around_centres_of_their_own(self):
        found = random_profiles(12, 0.8, 200, Random(0))
        assert len(set(found)) == 200
        assert all(len(p) == 12 and 0 <= min(p) <= max(p) <= 0.8 for p in found)
        means = [sum(p) / 12 for p in found]
        assert min(means) < 0.25  # of independent sparsities none would be, or beyond
        assert max(means) > 0.55
        assert random_profiles(1, 0.8, 5, Random(0)) == []

    def test_half_of_the_random_plans_have_one(self, fresh):
        draws = PlanDraws(fresh, Random(0), profiles=3)
        plans = [plan for _ in range(200) for plan in draws.next()]
        splits = [s for s, pruner in fresh.pruners.items() if len(pruner.groups) > 1]
        assert splits
        for split in splits:
            profiles = Counter(p.sparsity for p in plans if p.split == split and isinstance(p.sparsity, tuple))
            assert len(profiles) == 3
            assert 0.2 < profiles.total() / sum(p.split == split for p in plans) < 0.55  # a quarter is the widest
        assert not any(isinstance(p.sparsity, tuple) for _ in range(50) for p in PlanDraws(fresh, Random(0)).next())

    def test_training_with_them_is_another_training(self, backbone, data):
        teacher, weights = Teacher(backbone, data), []
        for profiles in (0, 2, 2):
            supernet = tiny_supernet(backbone, data)
            train_supernet(supernet, teacher, data, tiny_settings(1), 0, profiles=profiles)
            weights.append(next(supernet.backbone.parameters()).detach().clone())
        assert torch.equal(weights[1], weights[2])
        assert not torch.equal(weights[0], weights[1])


def test_no_loss_drowns_the_others():
    """The gradient of a loss a hundred times as large is a little larger; that of a small one is nearly its own."""
    slopes = []
    for value in (0.01, 1.0, 100.0):
        x = torch.tensor(value, requires_grad=True)
        relative_loss(x).backward()
        slopes.append(float(x.grad) * value)  # of the logarithm
    assert slopes == sorted(slopes)
    assert slopes[2] / slopes[1] < 2.1
    assert slopes[1] / slopes[0] > 30


def test_making_a_sub_network_leaves_the_shared_norms_in_training(fresh, data):
    supernet = copy.deepcopy(fresh).train()
    for plan in chosen_plans(supernet):
        supernet(data.normalise(data.train.images[:4]), plan)
        supernet.extract(plan)
    assert all(m.training for m in supernet.modules())
