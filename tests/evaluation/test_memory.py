"""Memory of plans as C: equal to the arena of the emitted code, and what does not fit is left out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from autosplit.compression.int8 import quantise_int8
from autosplit.compression.lowering import lower_device, plan_arena
from autosplit.compression.lowering.device import int8_skeleton
from autosplit.compression.lowering.operations import Convolution
from autosplit.compression.network import SplitNetwork
from autosplit.core.errors import ConfigError
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Exit, Plan
from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.core.scenario import SearchSettings
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.memory import DeviceMemory, MemoryLimit, MemoryUse
from autosplit.models.tracing import trace
from autosplit.pipeline.context import SearchContext, blueprint_of
from autosplit.runtime.c.programs import device_programs
from autosplit.runtime.deployment import Deployment
from tests.tiny import CLASSES, SHAPE, SPACE, tiny_dataset, tiny_network, tiny_supernet

ALL = MemoryLimit(None, None)


@pytest.fixture(scope="module")
def data():
    return tiny_dataset(64)


@pytest.fixture(scope="module")
def supernet(data, one_thread):
    space = SPACE.model_copy(update={"sparsities": (0.0, 0.3, 0.5, 0.8)})
    return tiny_supernet(tiny_network(), data, space)


@pytest.fixture(scope="module")
def memory(supernet):
    return DeviceMemory(supernet, SHAPE, CLASSES)


def deployment_of(prepared, plan):
    return Deployment.fit(blueprint_of(prepared, plan, "int8", "trial"), prepared.supernet.shared(plan), prepared.data)


def test_predicted_is_what_the_code_takes_to_the_byte(prepared):
    """For thirty plans, spread over the space: quantised, with their own ranges and weights, and lowered."""
    supernet, data = prepared.supernet, prepared.data
    memory = DeviceMemory(supernet, data.shape, data.num_classes)
    plans = [p for p in supernet.plan_space.plans() if p.codec.kind in {"code", "none"}]
    chosen = plans[:: max(1, len(plans) // 30)][:30]
    assert len(chosen) == 30 or len(chosen) == len(plans)
    for plan in chosen:
        deployment = deployment_of(prepared, plan)
        arena = device_programs([deployment]).arena_bytes
        longest = 0 if deployment.coder is None else deployment.coder.max_payload_bytes
        logits = 4 * data.num_classes if plan.split == OUTPUT else 0
        assert memory.of(plan).ram_bytes == arena + logits + longest, plan.label


def test_exits_count(prepared):
    supernet, data = prepared.supernet, prepared.data
    memory = DeviceMemory(supernet, data.shape, data.num_classes)
    plan = next(p for p in supernet.plan_space.plans() if p.codec.kind == "code")
    whole = Plan(split=OUTPUT, codec=CodecSetting(kind="none"))
    cascade = plan.model_copy(update={"exit": Exit(threshold=0.9, sparsity=0.0)})
    assert memory.of(cascade).ram_bytes >= memory.of(plan).ram_bytes
    assert memory.of(cascade).flash_bytes > memory.of(whole).flash_bytes  # both networks


def test_pruning_takes_memory_away(supernet, memory):
    for place in ("layer1", "layer2", OUTPUT):
        code = supernet.plan_space.codecs[place][-1]
        uses = [memory.of(Plan.at(place, s, code)) for s in supernet.plan_space.sparsities[place]]
        assert [u.flash_bytes for u in uses] == sorted((u.flash_bytes for u in uses), reverse=True)
        assert uses[-1].ram_bytes < uses[0].ram_bytes or place == "layer1"


def test_pictures_and_features_are_no_c(memory):
    assert "pictures" in memory.of(Plan(split=INPUT, codec=CodecSetting(kind="png")))
    assert "features" in memory.of(Plan(split="layer1", codec=CodecSetting(kind="raw")))


def test_without_limits_all_that_is_c_is_on_offer(supernet, memory):
    found, whole = memory.fitting(supernet.plan_space, ALL), supernet.plan_space
    assert set(found.splits) == set(whole.splits) - {INPUT}
    assert all(found.sparsities[p] == whole.sparsities[p] and found.codecs[p] == whole.codecs[p] for p in found.splits)


def test_every_plan_on_offer_fits_and_heads_that_do_not_are_left_out(supernet, memory):
    uses = sorted(memory.of(p).ram_bytes for p in memory.fitting(supernet.plan_space, ALL).plans())
    limit = MemoryLimit(uses[len(uses) // 3], None)
    found = memory.fitting(supernet.plan_space, limit)
    assert 0 < len(found) < len(uses)
    assert all(memory.of(plan).ram_bytes <= limit.ram_bytes for plan in found.plans())


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_of_all_products_of_heads_and_codes_the_largest_is_on_offer(supernet, memory, share):
    whole = memory.fitting(supernet.plan_space, ALL)
    uses = sorted(memory.of(p).ram_bytes for p in whole.plans())
    limit = MemoryLimit(uses[int(share * len(uses))], None)
    found = memory.fitting(supernet.plan_space, limit)
    for place in whole.splits:
        heads, codes = whole.sparsities[place], whole.codecs[place]
        fits = [[memory.of(Plan.at(place, s, c)).ram_bytes <= limit.ram_bytes for c in codes] for s in heads]
        largest = max((len(heads) - i) * sum(row) for i, row in enumerate(fits))
        assert len(found.sparsities.get(place, ())) * len(found.codecs.get(place, ())) == largest, place


def test_where_nothing_fits_the_error_says_what_the_smallest_lacks(supernet, memory):
    with pytest.raises(ConfigError, match=r"kB of RAM where 0\.1 are allowed.*search\.max_ram_kb"):
        memory.fitting(supernet.plan_space, MemoryLimit(100, None))
    with pytest.raises(ConfigError, match="kB of flash where 1 are allowed"):
        memory.fitting(supernet.plan_space, MemoryLimit(None, 1000))


def test_limits_are_the_users_else_what_the_firmware_leaves():
    board = load_profile(DeviceProfile, "stm32l4r5-c")
    assert MemoryLimit.of(SearchSettings(), board) == MemoryLimit(320_000, 1_000_000)
    assert MemoryLimit.of(SearchSettings(target="c", max_ram_kb=64), board) == MemoryLimit(64_000, 1_000_000)
    pi = load_profile(DeviceProfile, "raspberry-pi-4")
    assert MemoryLimit.of(SearchSettings(target="c", max_flash_kb=5), pi) == MemoryLimit(None, 5000)


def test_what_is_too_much_is_said():
    limit = MemoryLimit(1000, 2000)
    assert limit.excess(MemoryUse(1000, 2000)) == ""
    assert limit.excess(MemoryUse(1001, 9)) == "1.0 kB of RAM where 1 are allowed"
    assert limit.excess(MemoryUse(5000, 5000)).count("allowed") == 2


def in_c(prepared, **search):
    scenario = prepared.scenario.replace(**{"search.target": "c", **{f"search.{k}": v for k, v in search.items()}})
    return dataclasses.replace(prepared, scenario=scenario)


def test_an_evaluator_for_c_offers_what_fits(prepared):
    every = LiveEvaluator(prepared).space
    evaluator = LiveEvaluator(in_c(prepared))
    free = evaluator.space
    middle = sorted(evaluator.memory.of(p).ram_bytes for p in free.plans())[len(free) // 2]
    tight = LiveEvaluator(in_c(prepared, max_ram_kb=middle / 1000)).space
    assert INPUT in every.splits
    assert INPUT not in free.splits
    assert len(tight) < len(free) < len(every)


def test_a_context_knows_what_may_be_deployed(prepared):
    png = Plan(split=INPUT, codec=CodecSetting(kind="png"))
    whole = Plan(split=OUTPUT, codec=CodecSetting(kind="none"))
    assert SearchContext(prepared).deployable(png)
    context = SearchContext(in_c(prepared))
    assert context.deployable(whole)
    assert not context.deployable(png)
    assert not SearchContext(in_c(prepared, max_flash_kb=1)).deployable(whole)


def test_levels_of_zero_make_no_difference():
    """A depthwise layer whose padding is no level 0: a skeleton, of which memory is predicted, does not know that."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
                           nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    network = trace(layers.eval(), SHAPE)
    plan = Plan(split=OUTPUT, codec=CodecSetting(kind="none"))
    made = SplitNetwork(quantise_int8(network, [torch.randn(8, *SHAPE)]), nn.Identity())
    programs = [lower_device(each, plan, SHAPE, (), [0.0] * 3, [1.0] * 3)
                for each in (made, int8_skeleton(SplitNetwork(network, nn.Identity())))]
    (zero, blank) = ([o.zero for o in p.operations if isinstance(o, Convolution) and o.depthwise] for p in programs)
    assert zero != blank
    assert plan_arena(programs[0]).bytes == plan_arena(programs[1]).bytes
