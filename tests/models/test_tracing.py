"""The graph computes what the network computes, or the network is refused with the user's line."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.ops import StochasticDepth

from autosplit.core.errors import TraceError
from autosplit.models.splitting import block_ends, cut, find_split_points
from autosplit.models.tracing import as_graph, trace
from autosplit.models.zoo import resnet8
from tests.tiny import randomise_norms

SHAPE = (3, 16, 16)


def images(count=3, shape=SHAPE):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(7))


def one_line(caught):
    assert "\n" not in str(caught.value)


class Written(nn.Module):
    """Two convolutions and a classifier around statements that a test gives as a function of module and feature."""

    def __init__(self, statements, before=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.act, self.fc = nn.ReLU(inplace=True), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("mean", torch.randn(1, 8, 1, 1))
        self._statements = statements

    def forward(self, x, return_features=False, *, scale: float = 1.0):
        x = self._statements(self, self.first(x))
        if return_features:
            return x
        return self.fc(self.second(x).mean((2, 3)) * scale)


def statement(text, result="x"):
    """A function (self, x) of some statements, as they stand in a `forward`."""
    scope = {"torch": torch, "F": F, "nn": nn}
    exec("def run(self, x):\n" + "".join(f"    {line}\n" for line in text.split("\n")) + f"    return {result}", scope)
    return scope["run"]


def check(network, shape=SHAPE):
    """Trace, and compare graph, cuts and gradients with the network."""
    network = network.eval()
    graph = trace(network, shape)
    x = images(shape=shape)
    with torch.no_grad():
        expected = network(x.clone())
        assert torch.equal(graph(x.clone()), expected)
        for point in find_split_points(graph, shape):
            head, tail = cut(graph, point)
            feature = head(x.clone())
            sent = feature.clone()
            assert torch.equal(tail(feature), expected), point.name
            assert torch.equal(feature, sent), f"the tail changed what it was handed at {point.name}"
    for module in (network, graph):
        module.zero_grad()
        module(x.clone()).square().sum().backward()
    gradients = dict(graph.named_parameters())
    for name, parameter in network.named_parameters():
        if name in gradients and parameter.grad is not None:
            assert torch.allclose(gradients[name].grad, parameter.grad, rtol=1e-4, atol=1e-6), name
    return graph


IN_PLACE = {
    "assigned": "x = x.relu_()", "module": "self.act(x)", "keyword": "F.relu(x, inplace=True)", "method": "x.relu_()",
    "function": "F.relu_(x)", "positional": "F.hardtanh(x, 0.0, 6.0, True)", "scalar": "x.mul_(3.0)",
    "augmented": "y = self.second(x)\ny += x\nx = y", "alias": "y = x\ny += 1\nx = x * 2", "copy": "x.copy_(x * 2)",
    "view": "x[:, :4].mul_(3.0)", "augmented view": "x[:, :4] += 1", "view of a view": "x[:, :4][:, :2].mul_(2.0)",
    "zeroed": "x[:, 0].zero_()", "filled": "x.masked_fill_(x < 0, 0.5)", "masked": "x[x < 0] = 0",
    "set": "x[:, :4] = 0", "half of it": "a, b = x[:, :4], x[:, 4:]\na.relu_()\nx = torch.cat([a, b], 1)",
    "made": "z = torch.zeros(x.shape[0], 8, *x.shape[2:])\nz[:, :4] = x[:, :4]\nx = z",
}


class TestInPlace:
    @pytest.mark.parametrize("text", IN_PLACE.values(), ids=IN_PLACE)
    def test_has_the_effect_that_it_has_in_the_network(self, text):
        assert not any(isinstance(m, nn.ReLU) and m.inplace for m in check(Written(statement(text))).modules())

    def test_what_was_read_before_a_change_is_refused_afterwards(self):
        with pytest.raises(TraceError, match="part of a tensor in place, and the tensor is used after") as caught:
            trace(Written(statement("a, b = x.split(4, 1)\na.relu_()")).eval(), SHAPE)
        one_line(caught)

    def test_a_buffer_may_not_change(self):
        with pytest.raises(TraceError, match="changes parameters or buffers"):
            trace(Written(statement("self.mean.add_(x.mean())")).eval(), SHAPE)

    def test_images_of_the_caller_stay_as_they_were(self):
        graph = trace(nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(768, 2)).eval(), SHAPE)
        x = images()
        before = x.clone()
        graph(x)
        assert torch.equal(x, before)


HABITS = {
    "assertion": "assert x.dim() == 4 and x.shape[1] == 8, 'NCHW please'\nif x.size(-1) < 4: raise ValueError('small')",
    "loop over a shape": "for i in range(x.shape[1] // 4): x = x + i",
    "isinstance": "assert isinstance(x, torch.Tensor)",
    "view": "n, c, h, w = x.size()\nx = x.view(n, 4, c // 4, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)",
    "flattened and back": "s = x.shape\nx = x.view(x.size(0), -1).view(s)",
    "view as": "x = x.transpose(2, 3).view_as(x)",
    "folded into the batch": "n, c, h, w = x.shape\n"
                             "x = self.mean.new_ones(()) * x.reshape(n * 2, c // 2, h, w).relu().reshape(n, c, h, w)",
    "expanded": "x = x + self.mean.expand(x.size(0), -1, -1, -1)",
    "functional": "x = F.gelu(F.dropout(x, 0.5, self.training))",
    "einsum": "x = torch.einsum('nchw,dc->ndhw', x, self.fc.weight.new_ones(8, 8))",
    "roll": "x = torch.roll(x, (1, 1), (2, 3))",
    "where": "x = torch.where(x > 0, x, 0.1 * x)",
    "pixels": "x = F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)",
    "position": "x = x + torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)",
    "parameter": "x = x * self.scale",
    "transposed": "x = x.transpose(2, 3).mT + x.flatten(2).mT.mean(1)[:, :, None, None]",
    "attention": "t = x.flatten(2).transpose(1, 2)\n"
                 "t = F.scaled_dot_product_attention(t, t, t)\nx = t.transpose(1, 2).reshape(x.shape)",
    "norm of its own": "x = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)",
    "chunks": "x = sum(x.chunk(2, 1)).repeat(1, 2, 1, 1)",
    "several results": "values, at = x.max(1, keepdim=True)\nx = x - values + at * 0.1",
    "reversed": "x = 1 - x\nx = 2 / (3 + x.abs())",
}


class TestHabits:
    @pytest.mark.parametrize("text", HABITS.values(), ids=HABITS)
    def test_code_as_people_write_it(self, text):
        check(Written(statement(text)))

    def test_tensors_that_it_makes_lie_where_the_images_do(self):
        graph = check(Written(statement(HABITS["position"])))
        assert graph.to("meta")(images().to("meta")).is_meta
        point = next(p for p in find_split_points(trace(Written(statement(HABITS["position"])).eval(), SHAPE), SHAPE)
                     if p.name == "first")
        _, tail = cut(trace(Written(statement(HABITS["position"])).eval(), SHAPE), point)
        assert tail.to("meta")(torch.zeros(2, 8, 8, 8, device="meta")).is_meta

    @pytest.mark.parametrize("batch", [1, 3, 5])
    def test_the_size_of_the_batch_is_not_fixed(self, batch):
        network = Written(statement(HABITS["folded into the batch"])).eval()
        with torch.no_grad():
            assert torch.equal(trace(network, SHAPE)(images(batch)), network(images(batch)))

    def test_a_layer_called_again_is_named_by_its_calls(self):
        class Tutorial(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two, self.pool, self.fc = (nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.MaxPool2d(2),
                                                          nn.Linear(32, 3))

            def forward(self, x):
                x = self.pool(F.relu(self.two(self.pool(F.relu(self.one(x))))))
                return self.fc(x.view(-1, 32))

        assert [p.name for p in block_ends(find_split_points(check(Tutorial()), SHAPE))] == ["pool", "pool_1"]

    def test_functions_end_blocks_as_layers_do(self):
        class Functional(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Linear(8, 3)

            def forward(self, x):
                x = F.relu(self.two(F.max_pool2d(F.relu(self.one(x)), 2)))
                return self.fc(x.mean((2, 3)))

        ends = block_ends(find_split_points(check(Functional()), SHAPE))
        assert [p.name for p in ends] == ["max_pool2d", "relu_1"]

    def test_attributes_that_are_no_buffers_are_constants(self):
        network = Written(statement("x = x * self.plain"))
        network.plain = torch.randn(8, 1, 1)
        graph = check(network)
        assert [n for n, _ in graph.named_buffers() if n.startswith("_constant")] == ["_constant_0"]

    def test_a_cache_from_one_call_to_the_next_does_not_hold_training_back(self):
        class Caching(Written):
            def forward(self, x):
                if not hasattr(self, "kept"):
                    self.kept = self.scale * 2
                return self.fc(self.first(x).mean((2, 3)) * self.kept)

        graph = trace(Caching(None).eval(), SHAPE)
        before = graph(images())
        with torch.no_grad():
            graph.scale.mul_(2)
        assert not torch.equal(graph(images()), before)


class TestTraining:
    def test_functional_dropout_becomes_a_layer(self):
        graph = check(Written(statement("x = F.dropout2d(x, 0.25, self.training)")))
        (dropout,) = (m for m in graph.modules() if isinstance(m, nn.Dropout2d))
        assert dropout.p == 0.25
        assert not torch.equal(graph.train()(images()), graph(images()))

    def test_stochastic_depth_stays(self):
        network = Written(statement("x = x + self.drop(self.second(x))"))
        network.drop = StochasticDepth(0.5, "row")
        graph = check(network)
        torch.manual_seed(0)
        assert not torch.equal(graph.train()(images(8)), graph(images(8)))

    def test_functional_batch_norm_becomes_a_layer_with_the_same_parameters(self):
        class Norm(nn.BatchNorm2d):
            """As timm has it: norm and activation in one."""

            def forward(self, x):
                return F.relu(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                                           self.training, self.momentum, self.eps))

        network = nn.Sequential(nn.Conv2d(3, 4, 3), Norm(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        randomise_norms(network)
        graph = check(network)
        (norm,) = (m for m in graph.modules() if isinstance(m, nn.BatchNorm2d))
        before = norm.running_mean.clone()
        graph.train()(images(8))
        assert not torch.equal(norm.running_mean, before)
        assert torch.equal(norm.weight, network[1].weight)

    def test_a_gradient_of_its_own_is_kept(self):
        class Sign(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return torch.sign(x)

            @staticmethod
            def backward(ctx, gradient):
                return gradient

        network = Written(lambda _, x: Sign.apply(x))
        assert check(network).get_parameter("first.weight").grad.abs().sum() > 0

    def test_mode_and_network_stay_as_they_were(self):
        network = resnet8().train()
        before = copy.deepcopy(network.state_dict())
        graph = trace(network, SHAPE)
        assert graph.training
        assert network.training
        assert network.stem[2].inplace
        with torch.no_grad():
            for p in graph.parameters():
                p.zero_()
            graph(images())
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())

    def test_finding_points_leaves_mode_and_statistics(self):
        graph = trace(resnet8().train(), SHAPE)
        mean = graph.state_dict()["stem.1.running_mean"].clone()
        find_split_points(graph, SHAPE)
        assert graph.training
        assert torch.equal(graph.state_dict()["stem.1.running_mean"], mean)


@dataclass
class Output:
    logits: torch.Tensor
    hidden_states: tuple = ()


class TestAnswers:
    @pytest.mark.parametrize("wrap", [lambda x: {"logits": x}, lambda x: Output(x), lambda x: x],
                             ids=["dict", "object", "tensor"])
    def test_logits_are_taken(self, wrap):
        class Wrapped(Written):
            def forward(self, x):
                return wrap(super().forward(x))

        network = Wrapped(statement("pass")).eval()
        with torch.no_grad():
            expected = Written.forward(network, images())
            assert torch.equal(trace(network, SHAPE)(images()), expected)

    @pytest.mark.parametrize(("wrap", "message"), [
        (lambda x: (x, x), r"returns a tuple of 2; .* one tensor of logits"),
        (lambda x: {"out": x}, r"a dict of 'out', as networks for segmentation do"),
        (lambda x: [{"boxes": x, "scores": x}], r"a list of 1 dicts of boxes, as networks for detection do"),
        (lambda x: None, "returns NoneType"),
    ], ids=["tuple", "segmentation", "detection", "nothing"])
    def test_everything_else_is_refused_by_what_it_is(self, wrap, message):
        class Wrapped(Written):
            def forward(self, x):
                return wrap(super().forward(x))

        with pytest.raises(TraceError, match=message) as caught:
            trace(Wrapped(statement("pass")).eval(), SHAPE)
        one_line(caught)

    @pytest.mark.parametrize("softmax", [nn.Softmax(1), nn.Softmax(dim=-1)])
    def test_a_softmax_at_the_end_is_left_out_and_said(self, softmax, caplog):
        network = nn.Sequential(nn.Flatten(), nn.Linear(768, 3), softmax).eval()
        graph = trace(network, SHAPE)
        with torch.no_grad():
            assert torch.allclose(graph(images()).softmax(1), network(images()))
            assert not torch.allclose(graph(images()), network(images()), atol=0.1)
        (message,) = caplog.messages
        assert message.startswith("Sequential ends in a softmax, which is left out: ")


class TestPooling:
    @pytest.mark.parametrize("side", [3, 4, 5, 8, 1])
    def test_adaptive_max_pooling_at_any_size(self, side):
        layer = nn.Sequential(nn.AdaptiveMaxPool2d(side), nn.Flatten(), nn.Linear(3 * side * side, 2))
        assert not any(isinstance(m, nn.AdaptiveMaxPool2d) for m in check(layer).modules())

        check(Written(lambda n, x: F.adaptive_max_pool2d(x, side)))


class TestWrappers:
    def test_blocks_are_found_in_what_is_wrapped(self):
        class Normalised(nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net = net
                self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))

            def forward(self, x):
                return self.net(x - self.mean)

        graph = check(Normalised(resnet8()))
        ends = [p.name for p in block_ends(find_split_points(graph, SHAPE))]
        assert ends == ["net.stem", "net.layer1", "net.layer2", "net.layer3"]

    def test_data_parallel_is_taken_off(self):
        assert "layer2" in {p.name for p in find_split_points(trace(nn.DataParallel(resnet8()), SHAPE), SHAPE)}

    def test_encoder_of_anonymous_children(self):
        whole = models.resnet18()

        class Encoder(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.fc = nn.Sequential(*list(whole.children())[:-1]), nn.Linear(512, 3)

            def forward(self, x):
                return self.fc(self.encoder(x).flatten(1))

        ends = [p.name for p in block_ends(find_split_points(trace(Encoder().eval(), (3, 64, 64)), (3, 64, 64)))]
        assert ends[:3] == ["encoder.3", "encoder.4.0", "encoder.4"]


REFUSED = {
    "branch": ("x = x * 2 if x.mean() > 0 else x", r"decides by values of a tensor.*\(__bool__\)"),
    "item": ("x = x * (1 + int(x.sum().item()) % 3)", r"decides by values of a tensor.*\(item\)"),
    "numpy": ("x = torch.from_numpy(x.numpy() * 2)", r"decides by values of a tensor.*\(numpy\)"),
    "parameter": ("x = x + float(self.scale)", r"__float__ reads the value of a parameter, which training changes"),
    "noise": ("x = x + torch.rand_like(x)", "answers the same images differently"),
    "counter": ("self.n = getattr(self, 'n', 0) + 1\nx = x * self.n", "answers the same images differently"),
    "batch": ("x = x - x.mean(0, keepdim=True)", "answers an image differently alone and beside others"),
    "one image a time": ("x = torch.stack([t for t in x])", "depends on the size of the batch"),
    "share of the batch": ("x = x * (x.shape[0] / 3)", "depends on the size of the batch"),
    "infinite": ("x = x / 0", "not finite"),
    "infinite and read": ("x = x / 0 if x.isfinite().all() else x / 0", "not finite"),
    "fixed size": ("x = x.view(-1, 8, 5, 5)",
                   r"does not run on images of shape \(3, 16, 16\): shape '\[-1, 8, 5, 5\]'"),
}


class TestKeptWhole:
    def test_an_argument_that_no_graph_holds(self, caplog):
        class Mode:
            pass

        class Inner(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(8, 8, 1)

            def forward(self, x):
                return torch.add(self.conv(x), x, alpha=_Alpha(2))

        class _Alpha(int):
            pass

        network = Written(lambda n, x: n.inner(x))
        network.inner = Inner()
        check(network)  # a number of one's own class is a number
        assert not caplog.messages

    def test_a_module_whose_result_does_not_come_from_torch_functions(self, caplog):
        class Outside(nn.Module):
            def forward(self, x):
                with torch._C.DisableTorchFunction():  # as extensions in C++ do
                    return x * 2

        network = Written(lambda n, x: n.outside(x))
        network.outside = Outside()
        graph = trace(network.eval(), SHAPE)
        assert caplog.messages == ["Written: kept whole, without split points or prunable channels inside: outside"]
        with torch.no_grad():
            assert torch.equal(graph(images()), network(images()))


class TestRefused:
    @pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
    def test_what_no_graph_can_hold(self, text, message):
        with pytest.raises(TraceError, match=message) as caught:
            trace(Written(statement(text)).eval(), SHAPE)
        one_line(caught)

    def test_the_users_line_is_in_the_message(self):
        class Branching(nn.Module):
            def forward(self, x):
                return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

        with pytest.raises(TraceError, match=r"test_tracing\.py:\d+: return x\.flatten\(1\) if x\.sum\(\) > 0"):
            trace(Branching(), SHAPE)

    def test_two_inputs(self):
        class Two(nn.Module):
            def forward(self, x, y):
                return x + y

        with pytest.raises(TraceError, match=r"needs more than a batch of images.*a network of one input"):
            trace(Two(), SHAPE)

    @pytest.mark.parametrize(("make", "message"), [
        (lambda n: torch.jit.script(n), "is TorchScript"),
        (lambda n: torch.jit.trace(n, images()), "is TorchScript"),
        (lambda n: torch.compile(n, backend="eager"), r"was compiled by torch\.compile.*_orig_mod"),
        (lambda n: nn.Sequential(torch.jit.script(n)), "in module '0', is TorchScript"),
        (lambda n: torch.export.export(n, (images(),)).module(), r"torch\.export"),
        (lambda n: copy.deepcopy(n).to("meta"), "has no values: '.*' is a meta tensor"),
    ], ids=["scripted", "traced", "compiled", "inner", "exported", "meta"])
    @pytest.mark.filterwarnings("ignore")
    def test_kinds_without_layers(self, make, message):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 2)).eval()
        with pytest.raises(TraceError, match=message) as caught:
            trace(make(network), SHAPE)
        one_line(caught)

    def test_quantised(self):
        network = models.quantization.mobilenet_v2(weights=None, quantize=False).eval()
        network.classifier[1] = torch.ao.nn.quantized.Linear(1280, 10)
        with pytest.raises(TraceError, match=r"in module 'classifier\.1', is quantised \(Linear\)"):
            trace(network, (3, 32, 32))


class TestOwnModules:
    def test_a_traced_network_is_copied(self):
        graph = trace(resnet8().eval(), SHAPE)
        again = as_graph(graph)
        assert again is not graph
        assert torch.equal(again(images()), graph(images()))

    def test_control_flow_is_refused(self):
        class Branching(nn.Module):
            def forward(self, x):
                return x if x.sum() > 0 else -x

        with pytest.raises(TraceError, match=r"torch\.fx cannot trace Branching"):
            as_graph(Branching())
