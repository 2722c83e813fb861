from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from autosplit.core.measurement import StageCost
from autosplit.core.operators import OperatorWork, TypeSums
from autosplit.models.costs import not_counted, operators, operators_by_node, stage_cost
from autosplit.models.tracing import trace


@pytest.mark.parametrize(("layer", "shape", "expected"), [
    (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 9, 7),
     StageCost(conv_macs=3 * 8 * 9 * 5 * 4, weight_elements=3 * 8 * 9 + 8, activation_elements=8 * 5 * 4, operators=1)),
    (nn.Conv2d(6, 6, 3, groups=6, bias=False), (6, 8, 8),
     StageCost(depthwise_macs=6 * 9 * 36, weight_elements=54, activation_elements=6 * 36, operators=1)),
    (nn.Conv2d(6, 12, 3, groups=6, bias=False), (6, 8, 8),
     StageCost(depthwise_macs=12 * 9 * 36, weight_elements=108, activation_elements=12 * 36, operators=1)),
    (nn.Conv2d(8, 4, 1, groups=2, bias=False), (8, 5, 5),
     StageCost(conv_macs=4 * 4 * 25, weight_elements=16, activation_elements=100, operators=1)),
    (nn.Linear(10, 4), (10,), StageCost(linear_macs=40, weight_elements=44, activation_elements=4, operators=1)),
    (nn.Linear(10, 4), (7, 10), StageCost(linear_macs=280, weight_elements=44, activation_elements=28, operators=1)),
    (nn.ConvTranspose2d(5, 3, 2, 2, bias=False), (5, 4, 6),
     StageCost(conv_macs=5 * 3 * 4 * 24, weight_elements=60, activation_elements=3 * 8 * 12, operators=1)),
    (nn.ConvTranspose2d(5, 3, 3, 2, padding=1, bias=False), (5, 4, 4),
     StageCost(conv_macs=5 * 3 * 9 * 16, weight_elements=135, activation_elements=3 * 49, operators=1)),
    (nn.MaxPool2d(2), (3, 8, 8), StageCost(activation_elements=48, operators=1)),
    (nn.BatchNorm2d(3), (3, 8, 8), StageCost()),
    (nn.Sequential(nn.ReLU(), nn.Dropout(), nn.Flatten()), (3, 8, 8), StageCost()),
], ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "")
def test_one_layer_by_hand(layer, shape, expected):
    found = stage_cost(layer, shape)
    assert found.model_copy(update={"by_type": None}) == expected
    assert found.by_type == (TypeSums.of(operators(layer, shape)) if expected.operators else None)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.depthwise = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6, bias=False)
        self.up, self.fc = nn.ConvTranspose2d(6, 2, 2, 2), nn.Linear(32, 4)

    def forward(self, x):
        x = F.conv2d(x, self.dense.weight, self.dense.bias)
        x = F.conv2d(x, weight=self.depthwise.weight, groups=6)
        x = F.conv_transpose2d(x, self.up.weight, self.up.bias, 2)
        return F.linear(x.flatten(1), self.fc.weight, self.fc.bias)


def test_functions_count_as_layers_do():
    network = Functional()
    layers = nn.Sequential(network.dense, network.depthwise, network.up, nn.Flatten(), network.fc)
    cost = stage_cost(network, (3, 6, 6))
    assert cost == stage_cost(layers, (3, 6, 6))
    assert cost.depthwise_macs == 54 * 4


class Joining(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)

    def forward(self, x):
        y = self.conv(x) + x
        return torch.cat([y, x], 1).mean((2, 3))


def test_joins_count_as_operators():
    cost = stage_cost(Joining(), (2, 4, 4))
    assert cost.conv_macs == 4 * 16
    assert (cost.operators, cost.activation_elements) == (4, 32 + 32 + 64 + 4)


def test_a_sum_of_stages_is_the_whole():
    one, two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
    total = stage_cost(one, (3, 9, 9)) + stage_cost(two, (4, 7, 7))
    assert stage_cost(nn.Sequential(one, nn.ReLU(), two), (3, 9, 9)) == total


def test_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    stage_cost(network, (3, 8, 8))
    assert all(m.training for m in network.modules())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


class Form(nn.Module):
    """A convolution and what a function makes of its output and of the input."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 8, 3, padding=1), function

    def forward(self, x):
        return self.function(self.conv(x), x)


def attend_by_hand(y, x):
    del x
    tokens = y.flatten(2).mT
    scores = torch.softmax(tokens @ tokens.mT / 8**0.5, dim=-1)
    return scores @ tokens


def attend(y, x):
    del x
    tokens = y.flatten(2).mT
    return F.scaled_dot_product_attention(tokens, tokens, tokens)


# each row: ways to write one thing; what it costs beside the convolution: kind, multiply-accumulates, outputs, reads
FORMS = [
    ([lambda y, _: torch.mean(y, (2, 3)), lambda y, _: y.mean((2, 3)), lambda y, _: F.adaptive_avg_pool2d(y, 1)],
     [("other", 0, 8, 512)]),
    ([lambda y, x: y - x[:, :1], lambda y, x: torch.sub(y, x[:, :1]), lambda y, x: y.sub(x[:, :1]),
      lambda y, x: y.sub_(x[:, :1])], [("other", 0, 512, 576)]),
    ([lambda y, _: y + y, lambda y, _: y.add_(y), lambda y, _: torch.add(y, y)], [("other", 0, 512, 512)]),
    ([lambda y, _: torch.cat([y, y], 1), lambda y, _: torch.hstack([y, y])], [("other", 0, 1024, 512)]),
    ([lambda y, _: F.avg_pool2d(y, 2), lambda y, _: nn.AvgPool2d(2)(y)], [("other", 0, 128, 512)]),
    ([lambda y, _: F.interpolate(y, scale_factor=2), lambda y, _: nn.Upsample(scale_factor=2)(y)],
     [("other", 0, 2048, 512)]),
    ([lambda y, _: torch.softmax(y, 1), lambda y, _: F.softmax(y, 1), lambda y, _: nn.Softmax(1)(y)],
     [("other", 0, 512, 512)]),
    ([lambda y, _: torch.matmul(y.flatten(2).mT, y.flatten(2)), lambda y, _: torch.bmm(y.flatten(2).mT, y.flatten(2)),
      lambda y, _: y.flatten(2).mT @ y.flatten(2), lambda y, _: torch.einsum("nchw,ncij->nhwij", y, y)],
     [("linear", 64 * 64 * 8, 4096, 512)]),
    ([attend_by_hand, attend],
     [("linear", 64 * 64 * 8, 4096, 512), ("other", 0, 4096, 4096), ("linear", 64 * 64 * 8, 512, 4096)]),
    ([lambda y, _: F.relu(y), lambda y, _: torch.clamp(y, 0, 6), lambda y, _: y.mul(2).add_(1).sigmoid(),
      lambda y, _: nn.Hardswish()(y), lambda y, _: F.gelu(y).view(1, -1), lambda y, _: F.dropout(y, training=False),
      lambda y, _: F.pad(y, (1, 1, 1, 1))], []),
]


@pytest.mark.parametrize(("forms", "expected"), FORMS)
def test_the_way_that_an_operation_is_written_makes_no_difference(forms, expected):
    for form in forms:
        conv, *found = operators(Form(form), (3, 8, 8))
        assert (conv.kind, conv.macs) == ("conv", 27 * 8 * 64)
        assert [(w.kind, w.macs, w.outputs, w.reads) for w in found] == expected


@pytest.mark.parametrize(("layer", "shape", "expected"), [
    (nn.LayerNorm(10), (7, 10), StageCost(weight_elements=20, activation_elements=70, operators=1)),
    (nn.GroupNorm(2, 6), (6, 5, 5), StageCost(weight_elements=12, activation_elements=150, operators=1)),
    (nn.InstanceNorm2d(6), (6, 5, 5), StageCost(activation_elements=150, operators=1)),
    # three projections in one, scores and values, projection of the output
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8),
     StageCost(linear_macs=5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8 + 2 * 5 * 8 * 16,
               weight_elements=9 * 24 + 2 * 5 * 8 + 9 * 8 + 9 * 16 + 17 * 8 + 2 * 16,
               activation_elements=5 * 24 + 2 * 50 + 40 + 40 + 5 * 16 + 40 + 4 * 40, operators=11)),
], ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "")
def test_further_layers_by_hand(layer, shape, expected):
    assert stage_cost(layer, shape).model_copy(update={"by_type": None}) == expected


def test_recurrent_layers_multiply_at_every_step():
    assert stage_cost(nn.LSTM(6, 4, batch_first=True), (7, 6)).linear_macs == 7 * 16 * (6 + 4)
    # the first state is zero, so its product is known beforehand
    assert stage_cost(nn.GRU(6, 4, batch_first=True), (7, 6)).linear_macs == 7 * 12 * 6 + 6 * 12 * 4


class Attending(nn.Module):
    """Patches that attend to each other; a bias by position that only depends on weights."""

    def __init__(self):
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True)
        self.places = nn.Parameter(torch.zeros(2, 16, 8))
        self.out = nn.Linear(8, 5, bias=False)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = tokens + (self.places * 2).sum(0)
        return self.out(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def test_operators_of_a_node_are_all_counted():
    network = Attending()
    graph = trace(network.eval(), (3, 16, 16))
    found = {node.name: works for node, works in operators_by_node(graph, (3, 16, 16)).items()}
    assert [len(works) for works in found.values()] == [1, 1, len(found["attention"]), 1, 1]
    attention = found["attention"]
    assert sum(w.macs for w in attention) == 16 * 8 * 24 + 2 * 16 * 16 * 8 + 16 * 8 * 8
    assert [w for works in found.values() for w in works] == operators(network, (3, 16, 16))
    assert found["add"][0] == OperatorWork("other", bias=128, outputs=128, reads=128)


def test_what_is_not_counted_is_named():
    reasons = not_counted(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()), (3, 8, 8))
    assert reasons == {"_native_batch_norm_legit_no_training": "folded into the layer beside it",
                       "relu": "a function of single elements, fused", "view": "moves nothing"}


@torch.library.custom_op("autosplit_test::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_operators_of_others_are_counted_by_what_they_move_and_named():
    network = Form(lambda y, _: doubled(y))
    assert operators(network, (3, 8, 8))[1:] == [OperatorWork("other", outputs=512, reads=512)]
    assert not_counted(network, (3, 8, 8)) == {
        "autosplit_test::doubled": "its arithmetic is not known; what it moves is counted"}


def on_meta(name, **options):
    with torch.device("meta"):
        return models.get_model(name, weights=None, **options).eval()


@pytest.mark.parametrize(("name", "side"), [
    ("resnet18", 64), ("mobilenet_v3_small", 64), ("shufflenet_v2_x0_5", 64), ("efficientnet_b0", 64),
    ("squeezenet1_1", 64), ("mnasnet0_5", 64), ("convnext_tiny", 64), ("swin_t", 64)])
def test_multiply_accumulates_are_those_of_torchs_counter(name, side):
    network = on_meta(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side, device="meta"))
    assert 2 * stage_cost(network, (3, side, side)).macs == counter.get_total_flops()


def test_a_vision_transformer_costs_what_torchs_counter_says():
    network = models.VisionTransformer(32, 8, 2, 4, 32, 64).eval()
    # torch's counter does not know the fused attention that newer processors run
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(torch.zeros(1, 3, 32, 32))
    assert 2 * stage_cost(network, (3, 32, 32)).macs == counter.get_total_flops()
