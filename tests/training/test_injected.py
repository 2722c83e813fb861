"""Injected heads: their structure, their part of the supernet, and their training."""

import json
import math
from random import Random

import pytest
import torch

from autosplit.compression.network import recalibrate
from autosplit.core.plan import CodecSetting, Plan
from autosplit.data.base import in_batches
from autosplit.models.costs import stage_cost
from autosplit.models.entropic_student import student_structure
from autosplit.models.injected import injected_networks, injected_structure
from autosplit.models.tracing import as_graph, trace
from autosplit.models.zoo import resnet20
from autosplit.training.backbone import train_backbone
from autosplit.training.injected import injected_steps, pretrain_injected
from autosplit.training.loop import Teacher
from autosplit.training.precision import autocast
from autosplit.training.supernet_training import PlanDraws, train_supernet
from tests.tiny import SPACE, randomise_norms, tiny_dataset, tiny_network, tiny_settings, tiny_supernet

BOTH = SPACE.model_copy(update={"heads": ("pruned", "injected"), "splits": ("layer1", "layer2")})
STEPS = tiny_settings(1).model_copy(update={"injected_steps": 30})


@pytest.fixture(scope="module")
def data():
    return tiny_dataset()


@pytest.fixture(scope="module")
def fresh(data):
    supernet = tiny_supernet(tiny_network(), data, BOTH)
    randomise_norms(supernet.backbone)
    return supernet


class TestStructure:
    @pytest.mark.parametrize(("image", "feature"), [
        ((3, 32, 32), (16, 32, 32)), ((3, 224, 224), (24, 56, 56)), ((3, 224, 224), (112, 14, 14)),
        ((1, 28, 28), (8, 7, 7)),        ((3, 33, 47), (5, 17, 24)), ((3, 64, 48), (9, 4, 3)),
    ])
    @pytest.mark.parametrize("depthwise", [False, True])
    def test_restores_the_backbones_shape(self, image, feature, depthwise):
        structure = json.loads(json.dumps(injected_structure(image, feature, nonnegative=True, depthwise=depthwise)))
        head, restore = injected_networks(structure)
        restore.eval()
        small = head(torch.rand(2, *image))
        assert math.prod(small.shape[2:]) <= math.prod(image[1:]) / 12  # a coarse grid
        restored = restore(small)
        assert restored.shape == (2, *feature)
        assert restored.min() >= 0
        assert torch.equal(as_graph(restore)(small), restored)

    def test_costs_a_few_per_cent_of_a_backbone(self):
        whole = stage_cost(trace(resnet20().eval(), (3, 32, 32)), (3, 32, 32)).macs
        structure = injected_structure((3, 32, 32), (16, 32, 32), nonnegative=True, depthwise=False)
        assert stage_cost(injected_networks(structure)[0], (3, 32, 32)).macs < 0.03 * whole

    @pytest.mark.parametrize(("image", "feature"), [
        ((3, 224, 224), (24, 56, 56)), ((3, 224, 224), (40, 28, 28)), ((1, 28, 28), (8, 28, 28)),
        ((3, 33, 47), (5, 9, 12)),
    ])
    def test_entropic_student_restores_the_backbones_shape(self, image, feature):
        structure = json.loads(json.dumps(student_structure(image, feature, nonnegative=True, most_macs=1e12)))
        head, restore = injected_networks(structure)
        code = head(torch.rand(2, *image))
        assert code.shape == (2, 24, -(-image[1] // 4) - 1, -(-image[2] // 4) - 1)
        restored = restore.eval()(code)
        assert restored.shape == (2, *feature)
        assert restored.min() >= 0
        assert torch.equal(as_graph(restore)(code), restored)

    @pytest.mark.parametrize("width", [24, 12, 6, 3])
    def test_entropic_student_is_as_wide_as_the_work_allows(self, width):
        image = (3, 64, 64)
        wide = injected_networks({**student_structure(image, (8, 16, 16), nonnegative=True, most_macs=0),
                                  "width": width})[0]
        most = stage_cost(wide, image).macs
        assert student_structure(image, (8, 16, 16), nonnegative=True, most_macs=1.1 * most)["width"] == width
        narrower = student_structure(image, (8, 16, 16), nonnegative=True, most_macs=0.8 * most)["width"]
        assert narrower < width or width == 3


class TestPlan:
    def test_place_and_label(self):
        codec = CodecSetting(kind="code", width=2, grid=4, bits=8)
        plan = Plan(split="layer1", sparsity=0.5, codec=codec, head="injected")
        assert plan.place == "layer1+injected"
        assert Plan.at(plan.place, 0.5, codec) == plan
        assert plan.label == "layer1 | injected | 50% pruned | 2ch 4x4 8b"
        assert Plan.model_validate_json(plan.model_dump_json()) == plan
        own = Plan(split="layer1", sparsity=0.5, codec=codec)
        assert own.place == "layer1"
        assert "head" not in own.model_dump()  # files from before there was a choice stay as they are

    @pytest.mark.parametrize("plan", [
        {"split": "output", "codec": {"kind": "none"}}, {"split": "input", "codec": {"kind": "png"}},
        {"split": "layer1", "codec": {"kind": "raw"}}])
    def test_needs_a_code_behind_it(self, plan):
        with pytest.raises(ValueError, match=r"head 'injected' takes a codec of kind \['code'\] behind it"):
            Plan.model_validate({**plan, "head": "injected"})

    def test_is_never_lossless(self):
        codec = CodecSetting(kind="code", width=2, grid=4, bits=8)
        assert not Plan(split="layer1", codec=codec, head="injected").lossless


class TestSupernet:
    def test_places_come_side_by_side(self, fresh):
        assert fresh.plan_space.splits == ("input", "layer1", "layer1+injected", "layer2", "layer2+injected", "output")
        assert {p.head for p in fresh.plan_space.plans() if not p.is_split} == {"pruned"}
        assert set(fresh.plan_space.sparsities["layer1+injected"]) == {0.0, 0.5}

    def test_forward_is_the_extracted_network(self, fresh, data):
        images = data.normalise(data.train.images[:32])
        fresh.train()
        for place in fresh.places:
            for sparsity in (0.0, 0.5):
                plan = Plan.at(place, sparsity, fresh.codec(place).settings()[-1])
                with torch.no_grad():
                    expected = fresh(images, plan)
                    found = fresh.extract(plan).train()(images)
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=lambda m, p=plan: f"{p}: {m}")

    def test_pruning_makes_the_head_smaller(self, fresh, data):
        costs = [stage_cost(fresh.extract_head(Plan.at("layer2+injected", s, fresh.codec("layer2+injected").widest)),
                            data.shape).macs for s in (0.0, 0.5)]
        assert costs[1] < 0.7 * costs[0]

    def test_gradient_reaches_all_of_its_parts(self, fresh, data):
        fresh.zero_grad()
        plan = fresh.widest("layer1+injected")
        with autocast():  # keeps out of a faulty kernel
            fresh.train()(data.normalise(data.train.images[:16]), plan).square().sum().backward()
        for part in fresh.injected_parts("layer1+injected"):
            assert all(p.grad is not None and p.grad.any() for p in part.parameters())
        named = dict(fresh.new_parameters())
        assert all(id(p) in set(map(id, named.values())) for _, p in fresh.new_parameters("layer1+injected"))
        assert not {id(p) for p in named.values()} & {id(p) for p in fresh.backbone.parameters()}

    def test_random_plans_visit_every_place(self, fresh):
        draws = PlanDraws(fresh, Random(0))
        assert {p.place for _ in range(10) for p in draws.next()} == {*fresh.places, "output"}


class TestTraining:
    def test_imitates_the_backbone(self, data):
        torch.manual_seed(0)
        supernet = tiny_supernet(tiny_network(), data, BOTH)
        steps, images = [], data.normalise(data.validation.images)

        def errors():
            found = []
            for place in supernet.structures:
                with torch.no_grad():
                    restored, target = supernet.train().imitate(place, images)
                found.append(float((restored - target).square().mean() / target.var()))
            return found

        before, backbone = errors(), {n: p.clone() for n, p in supernet.backbone.named_parameters()}
        pretrain_injected(supernet, data, STEPS, 0, lambda: steps.append(1))
        assert len(steps) == injected_steps(supernet, STEPS) == 60
        assert all(after < 0.6 * first for after, first in zip(errors(), before, strict=True)), (before, errors())
        assert all(torch.equal(p, backbone[n]) for n, p in supernet.backbone.named_parameters())

    def test_codecs_start_from_what_the_head_gives_then(self, data):
        supernet = tiny_supernet(tiny_network(), data, BOTH)
        place = "layer1+injected"
        before = {n: t.clone() for n, t in supernet.codec(place).state_dict().items()}
        pretrain_injected(supernet, data, STEPS, 0)
        after = supernet.codec(place).state_dict()
        assert any(not torch.equal(t, before[n]) for n, t in after.items() if "encoder.conv" in n)

    def test_the_whole_learns(self, data):
        network = tiny_network()
        settings = tiny_settings(6).model_copy(update={"injected_steps": 60})
        train_backbone(network, data, settings, 0)
        supernet = tiny_supernet(network, data, BOTH)
        train_supernet(supernet, Teacher(network.eval(), data), data, settings, 0)
        labels = data.validation.labels
        for place in supernet.places:
            plan = supernet.extract(supernet.widest(place))
            recalibrate(plan, data.normalise(data.train.images))
            with torch.inference_mode():
                logits = torch.cat([plan(data.normalise(x)) for x in in_batches(data.validation.images, 64)])
            assert float((logits.argmax(1) == labels).float().mean()) > 0.8, place
