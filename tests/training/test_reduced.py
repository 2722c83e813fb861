"""Reduced heads: their graph, their part of the supernet, and their training."""

import json
from random import Random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosplit.compression.network import recalibrate
from autosplit.core.errors import ConfigError
from autosplit.core.plan import OUTPUT, CodecSetting, Exit, Plan, head_of, place_of, split_of
from autosplit.data.base import in_batches
from autosplit.models.costs import stage_cost
from autosplit.models.reduced import Enlarge, reduced, reduced_structure, runs_reduced
from autosplit.models.splitting import cut, find_split_points
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet20
from autosplit.training.backbone import train_backbone
from autosplit.training.injected import injected_steps
from autosplit.training.loop import Teacher
from autosplit.training.precision import autocast
from autosplit.training.supernet_training import PlanDraws, train_supernet
from tests.tiny import SPACE, randomise_norms, tiny_dataset, tiny_network, tiny_settings, tiny_supernet

BOTH = SPACE.model_copy(update={"heads": ("pruned", "reduced"), "splits": ("layer1", "layer2")})
CODE = CodecSetting(kind="code", width=2, grid=4, bits=8)
NONE = CodecSetting(kind="none")


@pytest.fixture(scope="module")
def data():
    return tiny_dataset()


@pytest.fixture(scope="module")
def fresh(data):
    supernet = tiny_supernet(tiny_network(), data, BOTH)
    randomise_norms(supernet.backbone)
    return supernet


class FixedSize(nn.Module):
    """Has the picture's size in its last layer."""

    def __init__(self, channels, height, width):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, 2, 1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
        self.last = nn.Linear(4 * (height // 4) * (width // 4), 5)

    def forward(self, x):
        return self.last(self.block(self.conv(x)).flatten(1))


class TestGraph:
    def test_it_is_the_network_on_averaged_pixels(self):
        torch.manual_seed(0)
        graph, images = trace(resnet20().eval(), (3, 32, 32)), torch.rand(4, 3, 32, 32)
        found = reduced(graph)
        assert torch.equal(found(images), graph(F.avg_pool2d(images, 2)))
        assert not {id(p) for p in found.parameters()} & {id(p) for p in graph.parameters()}

    def test_it_is_cut_where_the_network_is(self):
        torch.manual_seed(0)
        graph, images = trace(resnet20().eval(), (3, 32, 32)), torch.rand(2, 3, 32, 32)
        copy, smaller = reduced(graph), F.avg_pool2d(images, 2)
        points = find_split_points(graph, (3, 32, 32))
        assert len(points) > 10
        for point in points:
            (head, tail), (small, _) = cut(graph, point), cut(copy, point)
            feature = small(images)
            assert torch.equal(feature, head(smaller)), point.name
            assert torch.equal(tail(feature), graph(smaller)), point.name

    def test_odd_pictures_lose_their_last_row(self):
        graph = trace(resnet20().eval(), (3, 33, 47))
        assert reduced(graph)(torch.rand(1, 3, 33, 47)).shape == (1, 10)

    def test_has_a_quarter_of_the_work(self):
        shape = (3, 32, 32)
        graph = trace(resnet20().eval(), shape)
        share = stage_cost(reduced(graph), shape).macs / stage_cost(graph, shape).macs
        assert 0.24 < share < 0.26

    def test_a_network_of_one_size_runs_as_far_as_that_does_not_matter(self):
        graph = trace(FixedSize(3, 32, 32).eval(), (3, 32, 32))
        point = next(p for p in find_split_points(graph, (3, 32, 32)) if p.name == "block")
        assert not runs_reduced(reduced(graph), (3, 32, 32))
        assert runs_reduced(reduced(cut(graph, point)[0]), (3, 32, 32))


class TestEnlarge:
    @pytest.mark.parametrize(("small", "feature"), [
        ((8, 4, 4), (8, 8, 8)), ((5, 7, 11), (5, 14, 23)), ((3, 1, 1), (3, 2, 2))])
    def test_begins_as_interpolation(self, small, feature):
        structure = json.loads(json.dumps(reduced_structure(feature, nonnegative=False)))
        given = torch.randn(2, *small)
        expected = F.interpolate(given, size=feature[1:], mode="bilinear", align_corners=False)
        assert torch.equal(Enlarge(structure).eval()(given), expected)

    def test_is_never_below_zero_behind_a_relu(self):
        enlarge = Enlarge(reduced_structure((4, 8, 8), nonnegative=True))
        assert enlarge.eval()(torch.randn(2, 4, 4, 4)).min() == 0


class TestPlan:
    def test_place_and_label(self):
        plan = Plan(split="layer1", sparsity=0.5, codec=CODE, head="reduced")
        assert plan.place == "layer1+reduced"
        assert Plan.at(plan.place, 0.5, CODE) == plan
        assert plan.label == "layer1 | picture at 1/2 | 50% pruned | 2ch 4x4 8b"
        assert Plan.model_validate_json(plan.model_dump_json()) == plan
        assert (split_of(plan.place), head_of(plan.place)) == ("layer1", "reduced")
        assert (split_of("a+b"), head_of("a+b")) == ("a+b", "pruned")

    def test_the_whole_network_may_be_reduced(self):
        plan = Plan.at("output+reduced", 0.0, NONE)
        assert plan.label == "output | picture at 1/2"
        assert not plan.lossless
        assert not plan.is_split

    def test_it_may_answer_before_anything_is_sent(self):
        network = Exit(threshold=0.9, sparsity=0.5, head="reduced")
        assert network.network == Plan.at("output+reduced", 0.5, NONE)
        assert network.label == "exit at 90% by the network 50% pruned, picture at 1/2"
        assert Exit(threshold=0.9, sparsity=0.0, head="reduced").label == (
            "exit at 90% by the whole network, picture at 1/2")
        assert "head" not in Exit(threshold=0.9, sparsity=0.5).model_dump()

    @pytest.mark.parametrize("plan", [
        {"split": "input", "codec": {"kind": "png"}}, {"split": "layer1", "codec": {"kind": "raw"}}])
    def test_takes_a_code_or_nothing_behind_it(self, plan):
        with pytest.raises(ValueError, match=r"head 'reduced' takes a codec of kind \['code', 'none'\]"):
            Plan.model_validate({**plan, "head": "reduced"})


class TestSupernet:
    def test_places_come_side_by_side(self, fresh):
        assert fresh.plan_space.splits == (
            "input", "layer1", "layer1+reduced", "layer2", "layer2+reduced", OUTPUT, "output+reduced")
        assert fresh.plan_space.sparsities["output+reduced"] == fresh.plan_space.sparsities[OUTPUT]
        assert fresh.plan_space.codecs["output+reduced"] == (NONE,)

    def test_heads_of_all_places_share_their_weights(self, fresh):
        first, second, whole = (next(iter(fresh.head(place).parameters()))
                                for place in ("layer1+reduced", "layer2+reduced", "output+reduced"))
        assert first is second
        assert second is whole
        assert first is not next(iter(fresh.head("layer1").parameters()))

    def test_forward_is_the_extracted_network(self, fresh, data):
        images = data.normalise(data.train.images[:32])
        fresh.train()
        for place in (p for p in fresh.plan_space.splits if head_of(p) == "reduced"):
            for sparsity in (0.0, 0.5):
                plan = Plan.at(place, sparsity, fresh.plan_space.codecs[place][-1])
                with torch.no_grad():
                    expected = fresh(images, plan)
                    found = fresh.extract(plan).train()(images)
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=lambda m, p=plan: f"{p}: {m}")

    def test_every_parameter_is_trained_at_one_pace(self, fresh, data):
        fresh.zero_grad()
        with autocast():  # keeps out of a faulty kernel
            images = data.normalise(data.train.images[:16])
            for place in ("layer1+reduced", "output+reduced"):
                fresh.train()(images, fresh.widest(place)).square().sum().backward()
        new, old = {id(p) for _, p in fresh.new_parameters()}, {id(p) for p in fresh.trained_parameters()}
        assert not new & old
        assert new | old == {id(p) for p in fresh.parameters()}
        head, enlarge = fresh.head("layer1+reduced"), fresh.tail("layer1+reduced")[0]
        assert next(iter(head.parameters())).grad.any()
        assert enlarge.detail[-1].weight.grad.any()
        assert all(id(p) in new for p in enlarge.parameters())
        assert {id(p) for p in enlarge.parameters()} < {id(p) for _, p in fresh.new_parameters("layer1+reduced")}

    def test_nothing_imitates_the_backbone_first(self, fresh):
        assert injected_steps(fresh, tiny_settings(1)) == 0

    def test_random_plans_visit_every_place(self, fresh):
        draws = PlanDraws(fresh, Random(0))
        assert {p.place for _ in range(12) for p in draws.next()} == {*fresh.places, OUTPUT, "output+reduced"}

    def test_a_network_of_one_size_keeps_the_places_it_can_have(self, data):
        torch.manual_seed(0)
        supernet = tiny_supernet(FixedSize(*data.shape), data, BOTH.model_copy(update={"splits": ("block",)}))
        assert supernet.plan_space.splits == ("input", "block", "block+reduced", OUTPUT)

    def test_a_network_that_has_none_is_refused(self, data):
        class Fixed(FixedSize):
            def forward(self, x):
                feature = self.block(self.conv(x.reshape(-1, *data.shape)))
                return self.last(feature.flatten(1))

        with pytest.raises(ConfigError, match=r"no head of this backbone runs on pictures of half the size, \d+x\d+;"):
            tiny_supernet(Fixed(*data.shape), data, BOTH.model_copy(update={"splits": ("block",)}))


def test_the_whole_learns(data):
    network, settings = tiny_network(), tiny_settings(6)
    train_backbone(network, data, settings, 0)
    supernet = tiny_supernet(network, data, BOTH)
    train_supernet(supernet, Teacher(network.eval(), data), data, settings, 0)
    labels = data.validation.labels
    for place in ("layer1+reduced", "layer2+reduced", place_of(OUTPUT, "reduced")):
        plan = supernet.extract(supernet.widest(place))
        recalibrate(plan, data.normalise(data.train.images))
        with torch.inference_mode():
            logits = torch.cat([plan(data.normalise(x)) for x in in_batches(data.validation.images, 64)])
        assert float((logits.argmax(1) == labels).float().mean()) > 0.8, place
